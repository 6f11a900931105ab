"""What a training run does, kept by MLflow where it is installed (`pip install 'mismatch-streamer[tracking]'`).

Where it is not, nothing here does anything. Runs go where MLFLOW_TRACKING_URI says, or into the work directory. Where
MLflow fails (its server is down), the rest of the run is not tracked: what is trained is worth more than its record.
"""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from pathlib import Path

EXPERIMENT: Final = "mismatch-streamer"
REGISTERED: Final = "mismatch-engine"
"""The name under which the registry of models has the releases, each a version."""

CHAMPION, CHALLENGER = "champion", "challenger"
"""Aliases of versions: what scorers are told to run, by the topic engine-releases, and what was trained last to take
its place. The topic is the truth; whoever retrains lets the registry `follow` it."""

TRACKING_FOLDER: Final = "mlruns"
_MAX_VALUE_CHARS: Final = 500  # MLflow's own limit of a parameter

_active: list[Any] = []


class NumberedStep(Protocol):
    """What a step says of itself: its number, the last one's, and whatever else is logged."""

    @property
    def number(self) -> int: ...
    @property
    def total(self) -> int: ...


P = ParamSpec("P")
StepT = TypeVar("StepT", bound=NumberedStep)


@contextmanager
def run(name: str, work: Path, *, enabled: bool = True) -> Generator[None]:
    """Track what is done within, if MLflow is installed and `enabled`; a run that fails is marked as failed."""
    if not enabled or find_spec("mlflow") is None:
        yield
        return
    client = _connected(work)
    with _tolerated(client):
        client.set_experiment(EXPERIMENT)
        client.start_run(run_name=name)
        _active.append(client)
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    finally:
        if _active:
            with _tolerated(client):
                client.end_run(status)
            _active.clear()


@contextmanager
def _tolerated(client: Any) -> Generator[None]:  # noqa: ANN401 - a module that may not be installed
    """Track no more where MLflow fails; its errors of the network are OSErrors."""
    try:
        yield
    except (client.exceptions.MlflowException, OSError) as error:
        _active.clear()
        warnings.warn(f"MLflow failed, and tracks no more of this: {error}", RuntimeWarning, stacklevel=3)


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
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow wrote it there: the next run's folder may be another
    return client


def _tracked(told: Callable[Concatenate[Any, P], None]) -> Callable[P, None]:
    """Return what tells MLflow something, if a run is tracked."""

    @wraps(told)
    def tell(*arguments: P.args, **options: P.kwargs) -> None:
        if _active:
            with _tolerated(_active[-1]):
                told(_active[-1], *arguments, **options)

    return tell


@_tracked
def params(client: Any, values: Mapping[str, object], prefix: str = "") -> None:  # noqa: ANN401 - as above
    """Log what the run was given, nested mappings under dotted names."""
    for name, value in values.items():
        if isinstance(value, dict):
            params(value, f"{prefix}{name}.")
        else:
            client.log_param(f"{prefix}{name}", str(value)[:_MAX_VALUE_CHARS])


@_tracked
def metrics(client: Any, values: Mapping[str, float], step: int) -> None:  # noqa: ANN401 - as above
    """Log numbers of an epoch, or of the end."""
    client.log_metrics(dict(values), step=step)


@_tracked
def artifacts(client: Any, path: Path) -> None:  # noqa: ANN401 - as above
    """Keep a file, or what stands in a directory under its name."""
    if path.is_dir():
        client.log_artifacts(str(path), artifact_path=path.name)
    else:
        client.log_artifact(str(path))


@_tracked
def register(client: Any, release: Path, alias: str) -> None:  # noqa: ANN401 - as above
    """Enter a release into the registry, with the files of this run, and give it an alias; it is entered once."""
    registry = client.MlflowClient()
    version = _version_of(registry, release.name)
    if version is None:
        client.log_artifacts(str(release), artifact_path=release.name)
        _ensure_registered(client, registry)
        entered = registry.create_model_version(
            REGISTERED,
            source=client.get_artifact_uri(release.name),
            run_id=client.active_run().info.run_id,
            tags={"release": release.name},
        )
        version = str(entered.version)
    registry.set_registered_model_alias(REGISTERED, alias, version)


def follow(running: str, work: Path) -> None:
    """Give the alias `champion` to the release that runs, and to none where the registry does not know that one.

    A challenger that runs is no challenger any more.
    """
    if find_spec("mlflow") is None:
        return
    client = _connected(work)
    with _tolerated(client):
        registry = client.MlflowClient()
        version = _version_of(registry, running)
        for registered in registry.search_registered_models(f"name='{REGISTERED}'"):
            if version is not None:
                registry.set_registered_model_alias(REGISTERED, CHAMPION, version)
            elif CHAMPION in registered.aliases:
                registry.delete_registered_model_alias(REGISTERED, CHAMPION)
            if version is not None and registered.aliases.get(CHALLENGER) == version:
                registry.delete_registered_model_alias(REGISTERED, CHALLENGER)


def _version_of(registry: Any, release: str) -> str | None:  # noqa: ANN401 - of a package that may not be installed
    """Return the version of a release as aliases name it, None where it was not entered."""
    found = registry.search_model_versions(f"name='{REGISTERED}'")
    return next((str(one.version) for one in found if one.tags.get("release") == release), None)


def _ensure_registered(client: Any, registry: Any) -> None:  # noqa: ANN401 - as above
    try:
        registry.create_registered_model(REGISTERED)
    except client.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def by_epoch(
    on_step: Callable[Concatenate[StepT, P], None], steps_per_epoch: int, names: Sequence[str]
) -> Callable[Concatenate[StepT, P], None]:
    """Return a callback that also logs the means, over each epoch, of the steps' numbers with these names."""
    seen: list[StepT] = []

    def logged(step: StepT, /, *arguments: P.args, **options: P.kwargs) -> None:
        on_step(step, *arguments, **options)
        seen.append(step)
        if step.number % steps_per_epoch == 0 or step.number == step.total:
            epoch = -(-step.number // steps_per_epoch)
            metrics({name: float(np.mean([getattr(one, name) for one in seen])) for name in names}, epoch)
            seen.clear()

    return logged
