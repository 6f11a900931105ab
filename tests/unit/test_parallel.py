"""`engines.build.parallel`: readers are trained in processes of their own as they would be here, and none is left."""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

pytest.importorskip("torch", reason="needs the extra train: pip install '.[train]'")

import torch

from engines.build import parallel
from engines.build.finetune import Doubted
from engines.build.parallel import Training, train_all
from engines.errors import CatalogInvalid, EngineUnavailable
from tests.unit.test_finetune import RECIPE, catalog, features, labels, reader

if TYPE_CHECKING:
    from collections.abc import Generator

    from engines.build.features import Features
    from engines.build.finetune import Step
    from engines.build.models.compact import Reader

READERS = 2


def trainers() -> list[psutil.Process]:
    """Return the processes that train for this one."""
    return [one for one in psutil.Process().children() if "spawn_main" in " ".join(one.cmdline())]


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Let two readers be trained at once, and be it for a dozen steps."""
    monkeypatch.setattr(parallel, "_FEW_STEPS", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def on_disk(folder: Path) -> Features:
    """Return features whose large parts are files, as `features.extract` leaves them."""
    whole, mapped = features(), {}
    for name in ("middle", "final", "palette", "states"):
        np.save(folder / f"{name}.npy", getattr(whole, name))
        mapped[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    return replace(whole, **mapped)


def trainings(folder: Path, **changes: object) -> list[Training]:
    """Return the runs of some readers, each with its own draws."""
    return [
        replace(
            Training(
                reader(),
                catalog(),
                on_disk(folder),
                labels(),
                replace(RECIPE, seed=number),
                folder / f"checkpoint-{number}.pt",
            ),
            **changes,
        )
        for number in range(READERS)
    ]


def test_processes_train_readers_as_this_process_would(tmp_path: Path) -> None:
    """All weights, steps and epochs are the same, and so are the checkpoints that they leave."""
    seen: dict[str, list[list[Step]]] = {}
    epochs: dict[str, set[tuple[int, int]]] = {}
    states: dict[str, list[dict[str, torch.Tensor]]] = {}
    for way, threads in (("here", 1), ("there", 2)):
        torch.set_num_threads(threads)
        (tmp_path / way).mkdir()
        runs = trainings(tmp_path / way)
        steps: list[list[Step]] = [[] for _ in runs]
        averages: dict[tuple[int, int], Reader] = {}

        def on_epoch(number: int, epoch: int, average: Reader, kept: dict[tuple[int, int], Reader] = averages) -> None:
            assert not average.training
            kept[number, epoch] = average

        train_all(runs, lambda number, step, _done, steps=steps: steps[number].append(step), on_epoch)
        seen[way], epochs[way] = steps, set(averages)
        states[way] = [run.reader.state_dict() for run in runs]
        assert not any(run.reader.training for run in runs)
        last = max(epoch for _, epoch in averages)
        for number, run in enumerate(runs):
            for name, value in averages[number, last].state_dict().items():
                assert torch.equal(value, run.reader.state_dict()[name])
    assert seen["here"] == seen["there"]
    assert epochs["here"] == epochs["there"]
    for here, there in zip(states["here"], states["there"], strict=True):
        for name, value in here.items():
            torch.testing.assert_close(there[name], value, rtol=0, atol=0)
    first, second = (state["log_temperature"] for state in states["there"])
    assert first != second, "each has its own draws"

    torch.set_num_threads(1)
    again, taken = trainings(tmp_path / "there"), list[tuple[int, int]]()
    again[1].checkpoint.unlink()
    train_all(again, lambda number, _step, done: taken.append((number, done)))
    assert taken == [(1, 12 + step) for step in range(1, 13)], "what was trained there is gone on from here"
    for run, there in zip(again, states["there"], strict=True):
        assert all(torch.equal(value, there[name]) for name, value in run.reader.state_dict().items())


def test_an_error_of_a_process_is_raised_here(tmp_path: Path) -> None:
    """It keeps its type, and nobody is left."""
    same = replace(catalog(), products=tuple(replace(one, identity=0) for one in catalog().products))
    with pytest.raises(CatalogInvalid):
        train_all(trainings(tmp_path, catalog=same), lambda _number, _step, _done: None)
    assert not trainers()


def test_a_file_that_cannot_grow_is_told_as_the_disk(tmp_path: Path) -> None:
    """Where a process cannot write its checkpoint, whoever reads the message learns why, and nobody is left."""
    runs = trainings(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))  # the processes have it from this one
    try:
        with pytest.raises(OSError, match="File too large"):
            train_all(runs, lambda _number, _step, _done: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not trainers()
    assert not any(run.checkpoint.exists() for run in runs)


def test_what_a_retraining_adds_reaches_the_processes(tmp_path: Path) -> None:
    """Chances and doubted items come along; what stands in files is opened there, and pictures are left here."""
    whole = on_disk(tmp_path)
    likely = np.linspace(0.1, 0.9, len(whole.looks))
    doubted = Doubted(whole, likely, np.full(len(likely), 1 / len(likely)), per_step=2, weight=0.3)
    sent = trainings(tmp_path, chance=likely / likely.sum(), doubted=doubted)[0]
    packed = parallel._packed(sent)
    there: Training = pickle.loads(packed)
    assert there.catalog.pixel_values.size == 0
    assert there.chance is not None
    assert there.doubted is not None
    np.testing.assert_array_equal(there.chance, sent.chance)
    np.testing.assert_array_equal(there.doubted.mismatch, likely)
    for name in ("middle", "final", "palette", "states"):
        for found in (there.features, there.doubted.features):
            assert isinstance(getattr(found, name), np.memmap)
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))


def test_a_process_that_is_killed_is_told_of(tmp_path: Path) -> None:
    """The kernel kills who takes too much memory: the error says so, and nobody is left."""

    def on_step(_number: int, step: Step, _done: int) -> None:
        if step.number == 1:
            trainers()[0].kill()

    with pytest.raises(EngineUnavailable, match="exit code -9"):
        train_all(trainings(tmp_path, recipe=replace(RECIPE, epochs=100)), on_step)
    assert not trainers()


ENDLESS = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from engines.build import parallel
from tests.unit.test_finetune import RECIPE
from tests.unit.test_parallel import trainings

if __name__ == "__main__":
    torch.set_num_threads(2)
    runs = trainings(Path(sys.argv[1]), recipe=replace(RECIPE, epochs=100_000))
    parallel.train_all(runs, lambda number, step, _done: print(number, step.number, flush=True))
"""


def test_who_trains_ends_with_who_has_started_it(tmp_path: Path) -> None:
    """A run that was killed leaves nobody who goes on writing checkpoints."""
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    ) as process:
        assert process.stdout is not None
        heard: set[str] = set()
        while len(heard) < 2:
            heard.add(process.stdout.readline().split()[0])
        left = psutil.Process(process.pid).children()
        assert len(left) >= READERS
        process.kill()
        process.wait(30)
    _, alive = psutil.wait_procs(left, timeout=20)
    for one in alive:
        one.kill()
    assert not alive
