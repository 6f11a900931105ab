"""`engines.build.tracking`: what MLflow is told, and that nothing needs it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from engines.build import tracking
from engines.build.tune import LOGGED, Step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class FakeMlflow:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.logged: list[tuple[Any, ...]] = []

    def set_tracking_uri(self, uri: str) -> None:
        self.logged.append(("uri", uri))

    def set_experiment(self, name: str) -> None:
        self.logged.append(("experiment", name))

    @contextmanager
    def start_run(self, run_name: str) -> Iterator[None]:
        self.logged.append(("run", run_name))
        yield
        self.logged.append(("end", run_name))

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
        ("end", "clip-shop"),
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
    assert not (tmp_path / "work").exists()


@pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow is not installed: pip install '.[tracking]'")
@pytest.mark.filterwarnings("ignore")
def test_run_is_kept_by_the_installed_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run stands in the work directory, files and all."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracking.run("run", tmp_path):
        tracking.params({"seed": 1})
        tracking.metrics({"loss": 1.0}, step=1)
    assert len(list(tmp_path.glob("mlruns/*/*/params/seed"))) == 1
    assert len(list(tmp_path.glob("mlruns/*/*/metrics/loss"))) == 1
