"""What a training run does, kept by MLflow where it is installed (`pip install 'mismatch-streamer[tracking]'`).

Where it is not, nothing here does anything. Runs go where MLFLOW_TRACKING_URI says, or into the work directory.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from pathlib import Path

EXPERIMENT: Final = "mismatch-streamer"
REGISTERED: Final = "mismatch-engine"
"""The name under which the registry of models has the releases, each a version; `champion` and `challenger` are its
aliases."""

CHAMPION, CHALLENGER = "champion", "challenger"
TRACKING_FOLDER: Final = "mlruns"
_MAX_VALUE_CHARS: Final = 500  # MLflow's own limit of a parameter

_active: list[Any] = []


class NumberedStep(Protocol):
    """What a step says of itself: its number, the last one's, and whatever else is logged."""

    @property
    def number(self) -> int: ...
    @property
    def total(self) -> int: ...


StepT = TypeVar("StepT", bound=NumberedStep)


@contextmanager
def run(name: str, work: Path, *, enabled: bool = True) -> Generator[None]:
    """Track what is done within, if MLflow is installed and `enabled`; a run that fails is marked as failed."""
    if not enabled or find_spec("mlflow") is None:
        yield
        return
    client = _connected(work)
    client.set_experiment(EXPERIMENT)
    with client.start_run(run_name=name):
        _active.append(client)
        try:
            yield
        finally:
            _active.pop()


def _connected(work: Path) -> Any:  # noqa: ANN401 - a module that may not be installed
    """Return MLflow, told where runs go."""
    local = not os.environ.get("MLFLOW_TRACKING_URI")
    if local:  # files need neither a server nor the database packages that `mlflow-skinny` leaves out
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # training tells nobody outside
    client: Any = import_module("mlflow")
    if local:
        work.mkdir(parents=True, exist_ok=True)
        client.set_tracking_uri((work / TRACKING_FOLDER).absolute().as_uri())
    return client


def params(values: Mapping[str, object], prefix: str = "") -> None:
    """Log what the run was given, nested mappings under dotted names."""
    for name, value in values.items() if _active else ():
        if isinstance(value, dict):
            params(value, f"{prefix}{name}.")
        else:
            _active[-1].log_param(f"{prefix}{name}", str(value)[:_MAX_VALUE_CHARS])


def metrics(values: Mapping[str, float], step: int) -> None:
    """Log numbers of an epoch, or of the end."""
    if _active:
        _active[-1].log_metrics(dict(values), step=step)


def artifacts(path: Path) -> None:
    """Keep a file, or what stands in a directory under its name."""
    if _active and path.is_dir():
        _active[-1].log_artifacts(str(path), artifact_path=path.name)
    elif _active:
        _active[-1].log_artifact(str(path))


def register(release: Path, alias: str) -> None:
    """Enter a release into the registry, with the files of this run, and give it an alias."""
    if not _active:
        return
    client = _active[-1]
    client.log_artifacts(str(release), artifact_path=release.name)
    registry = client.MlflowClient()
    _ensure_registered(client, registry)
    run_id = client.active_run().info.run_id
    version = registry.create_model_version(
        REGISTERED, source=client.get_artifact_uri(release.name), run_id=run_id, tags={"release": release.name}
    )
    registry.set_registered_model_alias(REGISTERED, alias, version.version)


def promoted(release: str, work: Path) -> bool:
    """Give the alias `champion` to a release that was registered; return False where MLflow has no such version."""
    if find_spec("mlflow") is None:
        return False
    client = _connected(work)
    registry = client.MlflowClient()
    found = [
        one for one in registry.search_model_versions(f"name='{REGISTERED}'") if one.tags.get("release") == release
    ]
    if not found:
        return False
    newest = max(found, key=lambda one: int(one.version))
    registry.set_registered_model_alias(REGISTERED, CHAMPION, newest.version)
    return True


def _ensure_registered(client: Any, registry: Any) -> None:  # noqa: ANN401 - as above
    try:
        registry.create_registered_model(REGISTERED)
    except client.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def by_epoch(on_step: Callable[[StepT], None], steps_per_epoch: int, names: Sequence[str]) -> Callable[[StepT], None]:
    """Return a callback that also logs the means, over each epoch, of the steps' numbers with these names."""
    seen: list[StepT] = []

    def logged(step: StepT) -> None:
        on_step(step)
        seen.append(step)
        if step.number % steps_per_epoch == 0 or step.number == step.total:
            epoch = -(-step.number // steps_per_epoch)
            metrics({name: float(np.mean([getattr(one, name) for one in seen])) for name in names}, epoch)
            seen.clear()

    return logged
