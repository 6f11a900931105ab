"""`engines.build.parallel`: readers are trained in processes of their own as they would be here, and none is left."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

pytest.importorskip("torch", reason="needs the extra train: pip install '.[train]'")

import torch

from engines.build import parallel
from engines.build.finetune import Doubted
from engines.build.parallel import Training, train_all
from engines.errors import CatalogInvalid, TrainingEnded
from tests.unit.test_finetune import RECIPE, catalog, features, labels, reader

if TYPE_CHECKING:
    from collections.abc import Generator
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Event

    from engines.build.features import Features
    from engines.build.finetune import Step
    from engines.build.models.compact import Reader

READERS = 3


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
    """All weights, steps and epochs are the same; two learn at a time, and the third in its turn."""
    seen: dict[str, list[list[Step]]] = {}
    epochs: dict[str, set[tuple[int, int]]] = {}
    states: dict[str, list[dict[str, torch.Tensor]]] = {}
    trainers: dict[str, set[frozenset[int | None]]] = {}
    for way, threads in (("here", 1), ("there", 2)):
        torch.set_num_threads(threads)
        (tmp_path / way).mkdir()
        runs = trainings(tmp_path / way)
        steps: list[list[Step]] = [[] for _ in runs]
        at_work: set[frozenset[int | None]] = set()
        averages: dict[tuple[int, int], Reader] = {}

        def on_step(
            number: int,
            step: Step,
            done: int,
            seen: list[list[Step]] = steps,
            at_work: set[frozenset[int | None]] = at_work,
        ) -> None:
            seen[number].append(step)
            at_work.add(frozenset(child.pid for child in active_children()))
            assert done == sum(len(each) for each in seen)

        def on_epoch(number: int, epoch: int, average: Reader, kept: dict[tuple[int, int], Reader] = averages) -> None:
            assert not average.training
            kept[number, epoch] = average

        train_all(runs, on_step, on_epoch)
        seen[way], epochs[way], trainers[way] = steps, set(averages), at_work
        states[way] = [run.reader.state_dict() for run in runs]
        assert not any(run.reader.training for run in runs)
        last = max(epoch for _, epoch in averages)
        for number, run in enumerate(runs):
            for name, value in averages[number, last].state_dict().items():
                assert torch.equal(value, run.reader.state_dict()[name])
    assert trainers["here"] == {frozenset()}
    assert max(map(len, trainers["there"])) == 2
    assert len(frozenset[int | None]().union(*trainers["there"])) == READERS
    assert seen["here"] == seen["there"]
    assert epochs["here"] == epochs["there"]
    for here, there in zip(states["here"], states["there"], strict=True):
        for name, value in here.items():
            torch.testing.assert_close(there[name], value, rtol=0, atol=0)
    temperatures = {float(state["log_temperature"]) for state in states["there"]}
    assert len(temperatures) == READERS, "each has its own draws"

    torch.set_num_threads(1)
    again, taken = trainings(tmp_path / "there"), list[tuple[int, int]]()
    again[1].checkpoint.unlink()
    train_all(again, lambda number, _step, done: taken.append((number, done)))
    assert taken == [(1, 24 + step) for step in range(1, 13)], "what was trained there is gone on from here"
    for run, there in zip(again, states["there"], strict=True):
        assert all(torch.equal(value, there[name]) for name, value in run.reader.state_dict().items())


def test_who_is_nearly_done_is_finished_here_while_others_have_processes(tmp_path: Path) -> None:
    """No process is started for nothing, and what was done before is counted from the first step on."""
    torch.set_num_threads(1)
    train_all(trainings(tmp_path)[2:], lambda _number, _step, _done: None)
    torch.set_num_threads(2)
    taken: list[tuple[int, int]] = []
    at_work: set[int] = set()

    def on_step(number: int, _step: Step, done: int) -> None:
        taken.append((number, done))
        at_work.add(len(active_children()))

    runs = trainings(tmp_path)
    train_all(runs, on_step)
    assert [done for _, done in taken] == list(range(13, 37))
    assert {number for number, _ in taken} == {0, 1}
    assert 2 in at_work
    assert not any(run.reader.training for run in runs)


def test_an_error_of_a_process_is_raised_here(tmp_path: Path) -> None:
    """It keeps its type, and nobody is left."""
    same = replace(catalog(), products=tuple(replace(one, identity=0) for one in catalog().products))
    with pytest.raises(CatalogInvalid):
        train_all(trainings(tmp_path, catalog=same), lambda _number, _step, _done: None)
    assert not active_children()


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
    assert not active_children()
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
    killed: list[int | None] = []

    def on_step(_number: int, _step: Step, _done: int) -> None:
        if not killed:
            victim = active_children()[0]
            killed.append(victim.pid)
            victim.kill()

    with pytest.raises(TrainingEnded, match="SIGKILL"):
        train_all(trainings(tmp_path, recipe=replace(RECIPE, epochs=100)), on_step)
    assert not active_children()


@pytest.mark.parametrize(
    ("count", "threads", "cores", "at_once"),
    [(4, 2, 2, 2), (4, 1, 8, 1), (4, 3, 8, 2), (4, 8, 8, 4), (4, 8, 2, 2), (1, 2, 2, 1), (0, 2, 2, 1), (5, 4, 4, 3)],
)
def test_no_more_are_trained_at_once_than_save_a_turn(
    monkeypatch: pytest.MonkeyPatch, count: int, threads: int, cores: int, at_once: int
) -> None:
    """Nor more than there are threads, or cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    assert parallel._at_once(count, threads) == at_once


@pytest.mark.parametrize(("device", "processes"), [("cuda", 1), ("mps", 1), ("cpu", 2)])
def test_one_after_the_other_learns_on_a_gpu(monkeypatch: pytest.MonkeyPatch, device: str, processes: int) -> None:
    """And where `accelerate launch` has started several processes, of which the trainer says that they are too many."""
    here = SimpleNamespace(device=torch.device(device), num_processes=processes)
    monkeypatch.setattr(parallel, "Accelerator", lambda: here)
    assert parallel._at_once(4, 4) == 1


def test_processes_are_told_their_threads_and_nobody_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is as before, or not there as before, also after an error."""
    monkeypatch.delenv("ANY_THREADS", raising=False)
    with suppress(OSError), parallel._environment("ANY_THREADS", "3"):
        assert os.environ["ANY_THREADS"] == "3"
        raise OSError
    assert "ANY_THREADS" not in os.environ
    monkeypatch.setenv("ANY_THREADS", "7")
    with parallel._environment("ANY_THREADS", "3"):
        assert os.environ["ANY_THREADS"] == "3"
    assert os.environ["ANY_THREADS"] == "7"


def test_what_nobody_expected_is_told_as_the_end_of_training(tmp_path: Path) -> None:
    """Its error stands in the log; a lack of memory is not blamed for it."""
    with pytest.raises(TrainingEnded, match="its error stands above"):
        train_all(trainings(tmp_path, labels=np.zeros((1, 1), dtype=np.int64)), lambda _number, _step, _done: None)
    assert not active_children()


def test_parts_and_copies_of_a_file_reach_the_processes_by_value(tmp_path: Path) -> None:
    """Only a whole file is opened there again."""
    whole = on_disk(tmp_path)
    changed = replace(whole, palette=np.zeros_like(whole.palette), states=whole.states[2:5])
    there: Training = pickle.loads(parallel._packed(trainings(tmp_path, features=changed)[0]))
    np.testing.assert_array_equal(there.features.palette, changed.palette)
    np.testing.assert_array_equal(there.features.states, changed.states)


def _wait_for_ever(started: Event) -> None:
    Thread(target=parallel._end_with_parent, daemon=True).start()
    started.set()
    time.sleep(600)


def _parent_of_one(pid: Connection, started: Event) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_wait_for_ever, args=(started,))
    child.start()
    pid.send(child.pid)
    child.join()


def test_who_takes_no_step_ends_with_who_has_started_it_too() -> None:
    """A reader that looks for neighbours, or writes, tells nothing for minutes: it must not wait for its next word."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    started = context.Event()
    parent = context.Process(target=_parent_of_one, args=(theirs, started))
    parent.start()
    child = psutil.Process(ours.recv())
    assert started.wait(60)
    parent.kill()
    parent.join()
    _, alive = psutil.wait_procs([child], timeout=20)
    for one in alive:
        one.kill()
    assert not alive


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
        assert len(left) >= 2
        process.kill()
        process.wait(30)
    _, alive = psutil.wait_procs(left, timeout=20)
    for one in alive:
        one.kill()
    assert not alive
