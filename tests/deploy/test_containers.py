"""The Dockerfiles and docker-compose.yml, as far as they can be judged without an engine that runs containers."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from streamer import leaving, terminal
from streamer.settings import Settings, load
from tests.deploy.rendering import OVERLAYS, ROOT, find

PINNED_EXTRAS = ("drift", "feeds", "labels", "s3", "tracing", "tracking", "train")
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = [name for name, service in COMPOSE["services"].items() if "build" in service]


def _lint(dockerfile: Path) -> subprocess.CompletedProcess[str]:
    hadolint = Path(sys.executable).with_name("hadolint")
    return subprocess.run([hadolint, dockerfile], check=False, capture_output=True, text=True, timeout=60)


def _validate(compose: dict[str, Any]) -> None:
    PyCompose.from_yaml(yaml.safe_dump(compose)).validate()


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfile_has_no_findings(dockerfile: Path) -> None:
    """Of hadolint, warnings and style included."""
    found = _lint(dockerfile)
    assert (found.returncode, found.stdout) == (0, "")


def test_dockerfile_with_an_unpinned_image_has_findings(tmp_path: Path) -> None:
    """Without this, the test above could pass on a linter that finds nothing."""
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM python:latest\n")
    assert "DL3007" in _lint(dockerfile).stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_image_installs_pinned_packages(dockerfile: Path) -> None:
    """Two builds of one tree install the same."""
    (step,) = re.findall(r"^RUN /app/bin/pip install (.*?) && ", dockerfile.read_text(), flags=re.MULTILINE)
    assert step.startswith("--constraint docker/constraints.txt '.[")


def test_pins_are_what_the_project_takes() -> None:
    """Every requirement of an image has a pin within its range, but for the GPU's own packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(one for name in PINNED_EXTRAS for one in extras[name])]
    pins = dict(
        line.split("==") for line in (ROOT / "docker/constraints.txt").read_text().splitlines() if line[0] != "#"
    )
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_packages_of_the_gpu_are_pinned_where_they_are_named() -> None:
    """The constraints leave them out, and plans are built for one TensorRT: the one whose bindings the tests read."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = {line.partition("==")[0] for line in (ROOT / "docker/constraints.txt").read_text().splitlines()}
    exact = {name: {one.name: str(one.specifier) for one in map(Requirement, extras[name])} for name in ("gpu", "test")}
    left = {name: pin for name, pin in exact["gpu"].items() if canonicalize_name(name) not in pinned}
    assert left == {
        "tensorrt-cu13": exact["test"]["tensorrt-cu13-bindings"],
        "cuda-bindings": exact["test"]["cuda-bindings"],
    }
    assert all(re.fullmatch(r"==[\d.]+", pin) for pin in left.values())


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_image_runs_as_the_user_that_the_pod_names(dockerfile: Path) -> None:
    """A number: Kubernetes cannot tell whether a name is root."""
    users = [line.split()[1] for line in dockerfile.read_text().splitlines() if line.startswith("USER")]
    context = find("cpu", "Deployment", "scorer")["spec"]["template"]["spec"]["securityContext"]
    assert users == [f"{context['runAsUser']}:{context['runAsGroup']}"]


def test_compose_file_obeys_its_specification() -> None:
    """Every field is known, and every volume that is mounted is declared."""
    _validate(COMPOSE)


@pytest.mark.parametrize("path", [(), ("services", "kafka"), ("services", "kafka", "healthcheck")])
def test_compose_file_with_a_misspelt_field_is_refused(path: tuple[str, ...]) -> None:
    """At each level: the specification is closed."""
    broken = copy.deepcopy(COMPOSE)
    place = broken
    for step in path:
        place = place[step]
    place["misspelt"] = "x"
    with pytest.raises(ValueError, match="misspelt"):
        _validate(broken)


def test_compose_variables_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for all of our services, since one anchor carries them."""
    template = terminal.env_template(Settings())
    for name, value in COMPOSE["services"]["scorer"]["environment"].items():
        assert name in template
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.fetch.allow_hosts == ("images:8080",)
    assert settings.state.directory.is_relative_to(COMPOSE["services"]["scorer"]["tmpfs"][0])
    assert settings.broker.bootstrap.partition(":")[0] in COMPOSE["services"]
    assert COMPOSE["services"]["scorer"]["expose"] == [str(settings.telemetry.port)]
    grace_s = float(COMPOSE["services"]["scorer"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > settings.pipeline.drain_timeout_s + leaving.LEAVE_S
    scraped = yaml.safe_load((ROOT / "docker/prometheus.yml").read_text())["scrape_configs"][0]["dns_sd_configs"][0]
    workers = [name for name in OURS if "9102" in COMPOSE["services"][name].get("expose", ())]
    assert (sorted(scraped["names"]), scraped["port"]) == (sorted(workers), settings.telemetry.port)


def test_compose_workers_share_what_reviewers_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scorers keep evidence where the label worker looks for it, in a folder that the images give to their user."""
    for name, value in COMPOSE["services"]["labeler"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = load()
    for name in ("scorer", "scorer-gpu", "labeler"):
        service = COMPOSE["services"][name]
        folder = next(volume.partition(":")[2] for volume in service["volumes"] if volume.startswith("review:"))
        stores = (settings.evidence.store, settings.labels.dataset)
        assert all(store and store.startswith(f"{folder}/") for store in stores)
        dockerfile = (ROOT / service["build"]["dockerfile"]).read_text()
        assert re.search(rf"install --directory --owner app --group app .*{folder}\b", dockerfile)
    assert COMPOSE["services"]["labeler"]["command"] == ["labels"]


def test_compose_draws_the_catalogue_as_the_images_user() -> None:
    """Nobody is root: into a folder that the image gives to its user, whose owner a new volume takes over."""
    services = COMPOSE["services"]
    assert not [name for name, service in services.items() if "user" in service]
    catalogue = services["catalogue"]
    (folder,) = catalogue["command"]
    assert f"catalogue:{folder}" in catalogue["volumes"]
    dockerfile = (ROOT / catalogue["build"]["dockerfile"]).read_text()
    assert re.search(rf"install --directory --owner app --group app .*{folder}\b", dockerfile)


def test_compose_gpu_profile_builds_a_plan_before_it_scores() -> None:
    """The job writes where the scorer reads; nothing else of the file needs a GPU."""
    services = COMPOSE["services"]
    assert {name for name, service in services.items() if "gpu" in service.get("profiles", ())} == {
        "compile",
        "scorer-gpu",
    }
    folder = services["compile"]["command"][services["compile"]["command"].index("--plans") + 1]
    assert services["compile"]["volumes"] == [f"plans:{folder}"]
    assert f"plans:{folder}:ro" in services["scorer-gpu"]["volumes"]
    assert services["scorer-gpu"]["depends_on"]["compile"] == {"condition": "service_completed_successfully"}
    dockerfile = (ROOT / services["compile"]["build"]["dockerfile"]).read_text()
    assert f"STREAMER_ENGINE__PLANS={folder}" in dockerfile
    assert "STREAMER_ENGINE__RUNTIME=tensorrt" in dockerfile


def test_compose_services_are_pinned_and_their_files_are_here() -> None:
    """A tag that moves, or a mount that Docker would make an empty folder of, is found on the day it hurts."""
    for name, service in COMPOSE["services"].items():
        tag = service["image"].rpartition(":")[2]
        assert tag[0].isdigit() or (tag[0] == "v" and tag[1].isdigit()), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), volume
    for name in OURS:
        build = COMPOSE["services"][name]["build"]
        assert (ROOT / build["dockerfile"]).is_file()
        assert COMPOSE["services"][name]["read_only"] is True
        assert COMPOSE["services"][name]["pull_policy"] == "build", "a registry is asked first for a name of nobody's"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_dashboard_of_the_cluster_is_the_one_that_compose_mounts(overlay: str) -> None:
    """One file for both."""
    (mount,) = (volume for volume in COMPOSE["services"]["grafana"]["volumes"] if volume.endswith(":/dashboards:ro"))
    file = ROOT / mount.split(":")[0] / "scorer.json"
    assert find(overlay, "ConfigMap", "scorer-dashboard")["data"] == {"scorer.json": file.read_text()}
