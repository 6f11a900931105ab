"""`engines.inference`: ready batches, in order, as many at the same time as the engine runs best."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engines.contract import Batch
from engines.errors import InferenceFailed
from engines.inference import infer_all
from tests.fakes import SIDE, TOKENS, FakeEngine

if TYPE_CHECKING:
    from collections.abc import Iterator


def batch(red: int) -> Batch:
    """Return a batch of one pair whose picture has this red."""
    pixels = np.zeros((1, 3, SIDE, SIDE), np.uint8)
    pixels[:, 0] = red
    return Batch(pixels, np.ones((1, TOKENS), np.int32), np.ones((1, TOKENS), np.int32))


def test_infer_all_runs_as_many_at_once_as_the_engine_wants_and_keeps_their_order() -> None:
    """Two batches meet in the engine, each time; the answers come as the batches did."""
    engine = FakeEngine(gate=threading.Barrier(2, timeout=10).wait)
    engine.concurrency = 2
    logits = np.concatenate(list(infer_all(engine, map(batch, range(6)))))
    assert (logits + 127.5).round().tolist() == list(range(6))


def test_infer_all_makes_no_more_batches_than_it_runs() -> None:
    """A catalogue of any size is scored in bounded memory."""
    made: list[int] = []

    def batches() -> Iterator[Batch]:
        for red in range(100):
            made.append(red)
            yield batch(red)

    next(infer_all(FakeEngine(), batches()))
    assert len(made) == 2


def test_infer_all_of_a_batch_that_fails_says_so() -> None:
    """An error of the engine reaches the caller."""
    with pytest.raises(InferenceFailed):
        list(infer_all(FakeEngine(poison=3), map(batch, range(6))))
