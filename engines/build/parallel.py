"""Readers of one model → trained, several at a time, each in a process of its own.

A reader is small: two threads that share a step are hardly faster than one (`benchmarks/training_step.py`), while the
readers have nothing to do with each other. On a GPU, with one thread, and where what is left is done before processes
have started, they are trained here, one after the other. A reader sees the same draws either way.
"""

from __future__ import annotations

import copy
import copyreg
import io
import math
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import numpy as np
import torch
from accelerate import Accelerator

from engines.build.finetune import Step, Trainer, steps_done
from engines.build.models.compact import Reader
from engines.build.schedule import steps
from engines.errors import EngineError, TrainingEnded

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from engines.build.dataset import Catalog
    from engines.build.features import Features
    from engines.build.finetune import Doubted
    from engines.build.recipe import AdaptRecipe

OnStep = Callable[[int, Step, int], None]
OnEpoch = Callable[[int, int, Reader], None]

SEED_STEP: Final = 1000
"""Between the readers of a model, and between its taggers: each has draws of its own."""

_FEW_STEPS: Final = 50
"""Of a reader: a process has hardly imported torch when another has done so many."""


@dataclass(frozen=True)
class Training:
    """One reader's run: what `finetune.Trainer` is given, and the file of its checkpoints."""

    reader: Reader
    catalog: Catalog
    features: Features
    labels: NDArray[np.int64]
    recipe: AdaptRecipe
    checkpoint: Path
    chance: NDArray[np.float64] | None = None
    doubted: Doubted | None = None

    @property
    def steps(self) -> int:
        """How many steps the reader takes, from the start."""
        return steps(len(self.catalog.products), self.recipe)

    @property
    def done(self) -> int:
        """How many of them an earlier run has taken."""
        return steps_done(self.checkpoint)

    def run(self, on_step: Callable[[Step], None], on_epoch: Callable[[int, Reader], None] | None) -> None:
        """Train the reader in place, from its checkpoint where there is one.

        Raises:
            CatalogInvalid: all products show the same.
        """
        trainer = Trainer(
            self.reader,
            self.catalog,
            self.features,
            self.labels,
            self.recipe,
            chance=self.chance,
            doubted=self.doubted,
        )
        trainer.run(on_step, self.checkpoint, on_epoch)


class _Epoch(NamedTuple):
    """What a process tells after an epoch: its number, and the average of the reader's weights, as torch saves it."""

    number: int
    average: bytes


class _Trained(NamedTuple):
    """What a process tells at its end."""

    average: bytes


_Told = Step | _Epoch | _Trained | EngineError | OSError


def train_all(trainings: Sequence[Training], on_step: OnStep, on_epoch: OnEpoch | None = None) -> None:
    """Train readers in place, from their checkpoints where there are any; they end on the CPU, in evaluation mode.

    Args:
        trainings: one for each reader.
        on_step: is given a reader's number, from 0, what its step did, and how many steps of all readers are done by
            then, those of finished readers counted; the steps of several readers come mixed.
        on_epoch: is given a reader's number, that of an epoch, from 1, and the averaged reader as it was then.

    Raises:
        CatalogInvalid: all products show the same.
        TrainingEnded: a process that trained was ended, or failed in a way that nobody expected.
        OSError: the disk is full; the checkpoints before are still there.
    """
    done = [training.done for training in trainings]

    def stepped(number: int, step: Step) -> None:
        done[number] = step.number
        on_step(number, step, sum(done))

    long = [number for number, training in enumerate(trainings) if training.steps - done[number] >= _FEW_STEPS]
    threads = torch.get_num_threads()
    at_once = _at_once(len(long), threads)
    for number, training in enumerate(trainings):
        if at_once == 1 or number not in long:
            training.run(partial(stepped, number), None if on_epoch is None else partial(on_epoch, number))
    if at_once > 1:
        apart = {number: trainings[number] for number in long}
        _in_processes(apart, at_once, threads // at_once, stepped, on_epoch)


def _at_once(count: int, threads: int) -> int:
    """Return how many of so many readers are trained at a time: the fewest that need no more turns.

    No more than there are threads, and cores that this process may use.
    """
    here = Accelerator()
    if not count or here.device.type != "cpu" or here.num_processes > 1:
        return 1
    turns = math.ceil(count / min(count, threads, len(os.sched_getaffinity(0))))
    return math.ceil(count / turns)


def _in_processes(
    trainings: Mapping[int, Training],
    at_once: int,
    threads: int,
    on_step: Callable[[int, Step], None],
    on_epoch: OnEpoch | None,
) -> None:
    waiting = deque(trainings.items())
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, training = waiting.popleft()
                connection, process = _start(training, threads, watched=on_epoch is not None)
                running[connection] = number, process
            for connection in cast("list[Connection]", wait(list(running))):
                number, process = running[connection]
                told = _receive(connection, number, process)
                match told:
                    case Step():
                        on_step(number, told)
                    case _Epoch():
                        average = copy.deepcopy(trainings[number].reader)
                        _load(average, told.average)
                        assert on_epoch is not None
                        on_epoch(number, told.number, average)
                    case _Trained():
                        _load(trainings[number].reader, told.average)
                        process.join()
                        del running[connection]
                    case EngineError() | OSError():
                        raise told
    finally:
        for _, process in running.values():
            process.kill()
            process.join()


def _start(training: Training, threads: int, *, watched: bool) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(theirs, _packed(training), threads, watched), daemon=True)
    with _environment("OPENBLAS_NUM_THREADS", str(threads)):  # numpy's, which torch does not tell
        process.start()
    theirs.close()
    return ours, process


@contextmanager
def _environment(name: str, value: str) -> Generator[None]:
    """Let processes that are started within have this variable."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _receive(connection: Connection, number: int, process: BaseProcess) -> _Told:
    """Return what a process tells next.

    Raises:
        TrainingEnded: it is gone.
    """
    try:
        told: _Told = connection.recv()
    except (EOFError, OSError) as error:  # between two messages, within one
        process.join()
        why = "its error stands above"
        if process.exitcode == -signal.SIGKILL:
            why = "SIGKILL, most often for a lack of memory: `--threads 1` needs less"
        elif (process.exitcode or 0) < 0:
            why = f"signal {-cast('int', process.exitcode)}"
        raise TrainingEnded(
            f"the process that trained reader {number} has ended ({why}); started again, the run goes on from the last "
            "epoch"
        ) from error
    return told


def _train(connection: Connection, packed: bytes, threads: int, watched: bool) -> None:
    """Train a reader and tell of it: the whole life of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it decides when it ends
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)

    def on_epoch(number: int, average: Reader) -> None:
        connection.send(_Epoch(number, _saved(average)))

    try:
        training: Training = pickle.loads(packed)  # noqa: S301 - from the process that has started this one
        training.run(connection.send, on_epoch if watched else None)
    except (EngineError, OSError) as error:
        connection.send(error)
    else:
        connection.send(_Trained(_saved(training.reader)))


def _end_with_parent() -> None:
    """Leave nobody behind that writes to the checkpoints when a run was killed and is started again."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _packed(training: Training) -> bytes:
    """Return it for another process: pictures are left out, which are features by now, and files are opened there."""
    few = replace(training, catalog=replace(training.catalog, pixel_values=training.catalog.pixel_values[..., :0, :0]))
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer)
    pickler.dispatch_table = copyreg.dispatch_table | {np.memmap: _by_file}
    pickler.dump(few)
    return buffer.getvalue()


def _by_file(array: np.memmap[Any, Any]) -> tuple[Any, ...]:
    """Return how another process makes this array: it opens the file, unless the array is a part or a copy of one."""
    if array.filename is None or isinstance(array.base, np.ndarray):
        return np.asarray, (array.view(np.ndarray),)
    return np.memmap, (array.filename, array.dtype, "r", array.offset, array.shape)


def _saved(reader: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.save(reader.state_dict(), buffer)
    return buffer.getvalue()


def _load(reader: nn.Module, saved: bytes) -> None:
    reader.load_state_dict(torch.load(io.BytesIO(saved), weights_only=True))
    reader.eval()
