"""The drift watcher's component: added to an overlay, it obeys its schemas and agrees with the code that it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamer import terminal
from streamer.settings import Settings, TopicSettings, load
from tests.deploy.rendering import ROOT, validate


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Give what the component alone renders to, by kind."""
    folder = tmp_path_factory.mktemp("overlay")
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "namespace": "mismatch-streamer",
                "components": [os.path.relpath(ROOT / "k8s/components/drift", folder.resolve())],
            }
        )
    )
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run([kubectl, "kustomize", folder], check=True, capture_output=True, timeout=60)
    return {resource["kind"]: resource for resource in yaml.safe_load_all(done.stdout)}


def test_component_obeys_its_schemas(rendered: dict[str, dict[str, Any]]) -> None:
    """Strictly, as the overlays."""
    assert rendered.keys() == {"ServiceAccount", "Deployment", "NetworkPolicy", "PodMonitor", "KafkaUser"}
    for resource in rendered.values():
        validate(resource)


def test_component_runs_the_watcher_with_settings_that_exist(
    rendered: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables, port, user, and a place that it may write to."""
    pod = rendered["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    template = terminal.env_template(Settings())
    for entry in container["env"]:
        assert entry["name"] in template
        monkeypatch.setenv(entry["name"], entry.get("value", "secret"))
    settings = load()
    assert settings.telemetry.port == container["ports"][0]["containerPort"]
    assert settings.broker.username == rendered["KafkaUser"]["metadata"]["name"]
    assert settings.releases.store is not None
    assert any(settings.releases.store.startswith(mount["mountPath"]) for mount in container["volumeMounts"])
    assert container["image"].startswith("mismatch-streamer/drift:")
    dockerfile = (ROOT / "docker/drift.Dockerfile").read_text()
    assert 'CMD ["drift"]' in dockerfile
    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" in dockerfile
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_component_may_read_what_it_reads_and_no_more(rendered: dict[str, dict[str, Any]]) -> None:
    """Without a group, so it may use none."""
    names = TopicSettings()
    granted = {
        rule["resource"]["name"]: set(rule["operations"])
        for rule in rendered["KafkaUser"]["spec"]["authorization"]["acls"]
    }
    assert granted == {names.scores: {"Read", "Describe"}, names.dead_letters: {"Read", "Describe"}}
