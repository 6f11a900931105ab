"""`engines.build.tracking`: what MLflow is told, and that nothing needs it."""

from __future__ import annotations

import os
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from engines.build import tracking
from engines.build.tune import LOGGED, Step

if TYPE_CHECKING:
    from pathlib import Path


class AlreadyExists(Exception):
    """What MLflow raises."""

    error_code = "RESOURCE_ALREADY_EXISTS"


class FakeRegistry:
    """A registry of models: names, versions, aliases."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.versions: list[SimpleNamespace] = []
        self.aliases: dict[str, str] = {}

    def create_registered_model(self, name: str) -> None:
        if name in self.names:
            raise AlreadyExists
        self.names.add(name)

    def create_model_version(self, name: str, source: str, run_id: str, tags: dict[str, str]) -> SimpleNamespace:
        assert name in self.names
        version = SimpleNamespace(version=len(self.versions) + 1, source=source, run_id=run_id, tags=tags)
        self.versions.append(version)
        return version

    def search_model_versions(self, query: str) -> list[SimpleNamespace]:
        assert query == f"name='{tracking.REGISTERED}'"
        return self.versions

    def search_registered_models(self, query: str) -> list[SimpleNamespace]:
        assert query == f"name='{tracking.REGISTERED}'"
        return [SimpleNamespace(name=name, aliases=dict(self.aliases)) for name in self.names]

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        assert name in self.names
        self.aliases[alias] = version

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        assert name in self.names
        del self.aliases[alias]


class FakeMlflow:
    """Keeps what is logged."""

    exceptions = SimpleNamespace(MlflowException=AlreadyExists)

    def __init__(self) -> None:
        self.logged: list[tuple[Any, ...]] = []
        self.registry = FakeRegistry()

    def MlflowClient(self) -> FakeRegistry:  # noqa: N802 - MLflow's own name
        return self.registry

    def get_artifact_uri(self, path: str) -> str:
        return f"file:///artifacts/{path}"

    def active_run(self) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(run_id="run-1"))

    def set_tracking_uri(self, uri: str) -> None:
        self.logged.append(("uri", uri))

    def set_experiment(self, name: str) -> None:
        self.logged.append(("experiment", name))

    def start_run(self, run_name: str) -> None:
        self.logged.append(("run", run_name))

    def end_run(self, status: str) -> None:
        self.logged.append(("end", status))

    def log_param(self, name: str, value: str) -> None:
        self.logged.append(("param", name, value))

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.logged.append(("metrics", values, step))

    def log_artifact(self, path: str) -> None:
        self.logged.append(("file", path))

    def log_artifacts(self, path: str, artifact_path: str) -> None:
        self.logged.append(("folder", path, artifact_path))


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMlflow:
    """Give what stands for an installed MLflow."""
    fake = FakeMlflow()
    monkeypatch.setattr(tracking, "find_spec", lambda _: object())
    monkeypatch.setattr(tracking, "import_module", lambda _: fake)
    monkeypatch.setattr(os, "environ", {})
    return fake


def test_run_logs_params_metrics_and_artifacts(mlflow: FakeMlflow, tmp_path: Path) -> None:
    """Nested params have dotted names; the run stands in the work directory."""
    report = tmp_path / "report"
    report.mkdir()
    with tracking.run("clip-shop", tmp_path / "work"):
        tracking.params({"seed": 1, "recipe": {"mix": {"random": 0.5}}})
        tracking.metrics({"auc": 0.9}, step=0)
        tracking.artifacts(report)
        tracking.artifacts(tmp_path / "manifest.json")
    assert mlflow.logged == [
        ("uri", (tmp_path / "work" / "mlruns").as_uri()),
        ("experiment", "mismatch-streamer"),
        ("run", "clip-shop"),
        ("param", "seed", "1"),
        ("param", "recipe.mix.random", "0.5"),
        ("metrics", {"auc": 0.9}, 0),
        ("folder", str(report), "report"),
        ("file", str(tmp_path / "manifest.json")),
        ("end", "FINISHED"),
    ]


def test_run_goes_to_the_server_that_the_environment_names(mlflow: FakeMlflow, tmp_path: Path) -> None:
    """MLflow reads the address by itself."""
    os.environ["MLFLOW_TRACKING_URI"] = "http://tracking.example"
    with tracking.run("run", tmp_path):
        pass
    assert [fact[0] for fact in mlflow.logged] == ["experiment", "run", "end"]


def test_by_epoch_logs_the_mean_of_each_epoch(mlflow: FakeMlflow, tmp_path: Path) -> None:
    """The last epoch may be shorter."""
    seen: list[int] = []
    on_step = tracking.by_epoch(lambda step: seen.append(step.number), 2, LOGGED)
    with tracking.run("run", tmp_path):
        for number, loss in enumerate((4.0, 2.0, 1.0), start=1):
            on_step(Step(number, 3, loss, 0.5))
    assert seen == [1, 2, 3]
    assert [fact for fact in mlflow.logged if fact[0] == "metrics"] == [
        ("metrics", {"loss": 3.0, "accuracy": 0.5}, 1),
        ("metrics", {"loss": 1.0, "accuracy": 0.5}, 2),
    ]


def test_run_without_mlflow_does_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither where it is not installed nor in processes that are not the first."""
    monkeypatch.setattr(tracking, "import_module", pytest.fail)
    for installed, enabled in ((None, True), (object(), False)):
        monkeypatch.setattr(tracking, "find_spec", lambda _, found=installed: found)
        with tracking.run("run", tmp_path / "work", enabled=enabled):
            tracking.params({"seed": 1})
            tracking.metrics({"loss": 1.0}, step=1)
            tracking.artifacts(tmp_path)
            tracking.register(tmp_path, tracking.CHALLENGER)
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    tracking.follow("small-1", tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_run_that_fails_is_marked_and_its_error_goes_on(mlflow: FakeMlflow, tmp_path: Path) -> None:
    """A full disk of the training is none of MLflow's."""
    with pytest.raises(OSError, match="full"), tracking.run("run", tmp_path):
        raise OSError("full")
    assert mlflow.logged[-1] == ("end", "FAILED")


def test_run_goes_on_where_mlflow_fails(mlflow: FakeMlflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server is down from the third word on: that is said once, and nothing more is told to it."""

    def down(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(mlflow, "log_metrics", down)
    monkeypatch.setattr(mlflow.registry, "search_model_versions", down)

    def train() -> bool:
        with tracking.run("run", tmp_path):
            tracking.metrics({"loss": 1.0}, step=1)
            tracking.params({"seed": 1})
            return True

    with pytest.warns(RuntimeWarning, match="no route"):
        assert train()
    assert [fact[0] for fact in mlflow.logged] == ["uri", "experiment", "run"]
    with pytest.warns(RuntimeWarning, match="no route"):
        tracking.follow("small-1", tmp_path)


def test_release_is_registered_once_and_aliases_say_what_runs(mlflow: FakeMlflow, tmp_path: Path) -> None:
    """A run that was cut enters both again under the same versions; a challenger that runs is the champion."""
    aliases = mlflow.registry.aliases
    for challenger in ("small-2", "small-2", "small-3"):
        with tracking.run("retrain", tmp_path):
            tracking.register(tmp_path / "small-1", tracking.CHAMPION)
            tracking.register(tmp_path / challenger, tracking.CHALLENGER)
    assert [version.tags["release"] for version in mlflow.registry.versions] == ["small-1", "small-2", "small-3"]
    assert aliases == {"champion": "1", "challenger": "3"}
    tracking.follow("small-3", tmp_path)
    assert aliases == {"champion": "3"}


def test_alias_follows_what_runs_also_back_and_to_what_nobody_registered(mlflow: FakeMlflow, tmp_path: Path) -> None:
    """A refused challenger stays one; where the registry does not know what runs, none of its versions is champion."""
    aliases = mlflow.registry.aliases
    tracking.follow("small-1", tmp_path)  # nothing is registered yet
    with tracking.run("retrain", tmp_path):
        tracking.register(tmp_path / "small-1", tracking.CHAMPION)
        tracking.register(tmp_path / "small-2", tracking.CHALLENGER)
    tracking.follow("small-1", tmp_path)
    assert aliases == {"champion": "1", "challenger": "2"}
    for _ in range(2):
        tracking.follow("clip-1", tmp_path)
        assert aliases == {"challenger": "2"}
    tracking.follow("small-1", tmp_path)
    assert aliases == {"champion": "1", "challenger": "2"}


@pytest.mark.filterwarnings("ignore")
def test_run_is_kept_by_the_installed_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run stands in the work directory, files and all, and releases in its registry, whose aliases follow."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("small-1", "small-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    tracking.follow("small-1", tmp_path)
    with tracking.run("run", tmp_path):
        tracking.params({"seed": 1})
        tracking.metrics({"loss": 1.0}, step=1)
        tracking.register(tmp_path / "small-1", tracking.CHAMPION)
        tracking.register(tmp_path / "small-2", tracking.CHALLENGER)
    assert len(list(tmp_path.glob("mlruns/*/*/params/seed"))) == 1
    assert len(list(tmp_path.glob("mlruns/*/*/metrics/loss"))) == 1
    assert len(list(tmp_path.glob("mlruns/*/*/artifacts/small-2/manifest.json"))) == 1

    def aliases() -> dict[str, str]:
        client = import_module("mlflow").MlflowClient()
        versions = {str(one.version): one.tags["release"] for one in client.search_model_versions()}
        named = client.get_registered_model(tracking.REGISTERED).aliases
        return {alias: versions[version] for alias, version in named.items()}

    assert aliases() == {"champion": "small-1", "challenger": "small-2"}
    for running, expected in (
        ("small-2", {"champion": "small-2"}),
        ("small-1", {"champion": "small-1"}),
        ("compact-1", {}),
    ):
        tracking.follow(running, tmp_path)
        assert aliases() == expected


@pytest.mark.filterwarnings("ignore")
def test_runs_of_one_process_stand_each_in_its_work_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow writes into the environment where runs go; nobody has named a server by that, also to child processes."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for number in (1, 2):
        with tracking.run("run", tmp_path / str(number)):
            tracking.params({"seed": number})
        assert "MLFLOW_TRACKING_URI" not in os.environ
        (seed,) = tmp_path.glob(f"{number}/mlruns/*/*/params/seed")
        assert seed.read_text() == str(number)
