"""The engine's thread: takes what waits, isolates what fails."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import InferenceFailed, ReleaseRefused
from streamer.batch import MAX_FAILURES_IN_A_ROW, Batcher, BatchReport
from streamer.pairs import Pair
from tests.fakes import SIDE, TOKENS, FakeEngine, manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

    from engines.contract import Batch


def pair(red: int) -> Pair:
    """Return a pair whose picture has this red."""
    pixels = np.zeros((3, SIDE, SIDE), np.uint8)
    pixels[0] = red
    return Pair(pixels, np.ones(TOKENS, np.int32), np.ones(TOKENS, np.int32))


@pytest.fixture
async def gated() -> AsyncIterator[tuple[FakeEngine, Batcher, threading.Event, list[BatchReport]]]:
    """Yield an engine that waits for the event, and its batcher."""
    gate, reports = threading.Event(), []
    engine = FakeEngine(gate=gate.wait)
    batcher = Batcher(engine, max_batch=4, report=reports.append)
    yield engine, batcher, gate, reports
    gate.set()
    await batcher.close()


async def test_batcher_takes_all_that_waits_up_to_the_cap(
    gated: tuple[FakeEngine, Batcher, threading.Event, list[BatchReport]],
) -> None:
    """While one batch runs the next gathers; each pair gets its own answer."""
    engine, batcher, gate, reports = gated
    first = asyncio.create_task(batcher.lane.logit(pair(0)))
    rest = [asyncio.create_task(batcher.lane.logit(pair(red))) for red in range(1, 8)]
    await asyncio.sleep(0)
    gate.set()
    answers = [round(scored.logit + 127.5) for scored in await asyncio.gather(first, *rest)]
    assert answers == list(range(8))
    assert sorted(engine.batches) == sorted(report.size for report in reports)
    assert max(engine.batches) == 4


async def test_batcher_tells_the_pace_of_an_engine(
    gated: tuple[FakeEngine, Batcher, threading.Event, list[BatchReport]],
) -> None:
    """Before the first batch it is not known; then it is pairs a second."""
    _, batcher, gate, reports = gated
    assert batcher.pairs_per_s == 0
    gate.set()
    await batcher.lane.logit(pair(0))
    assert batcher.pairs_per_s == pytest.approx(1 / reports[0].infer_s)
    before = batcher.pairs_per_s
    await batcher.lane.logit(pair(0))
    assert batcher.pairs_per_s == pytest.approx(0.8 * before + 0.2 / reports[1].infer_s)


async def test_batcher_skips_pairs_nobody_waits_for(
    gated: tuple[FakeEngine, Batcher, threading.Event, list[BatchReport]],
) -> None:
    """A pair that was superseded in the queue costs no inference."""
    engine, batcher, gate, _ = gated
    first = asyncio.create_task(batcher.lane.logit(pair(0)))
    given_up = asyncio.create_task(batcher.lane.logit(pair(1)))
    kept = asyncio.create_task(batcher.lane.logit(pair(2)))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait({given_up})
    gate.set()
    await asyncio.gather(first, kept)
    assert sum(engine.batches) == 2


async def test_batcher_isolates_a_pair_that_the_engine_cannot_score() -> None:
    """The others of a failed batch are scored; the culprit alone gets the error."""
    gate = threading.Event()
    batcher = Batcher(FakeEngine(poison=9, gate=gate.wait), max_batch=8, report=lambda _: None)
    tasks = [asyncio.create_task(batcher.lane.logit(pair(red))) for red in (1, 9, 3)]
    await asyncio.sleep(0)
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await batcher.close()
    assert [isinstance(result, InferenceFailed) for result in results] == [False, True, False]
    assert not batcher.fatal.done()


async def test_batcher_reports_an_engine_that_only_fails() -> None:
    """Many failures in a row are the engine's own: the worker is told to stop."""
    batcher = Batcher(FakeEngine(poison=9), max_batch=1, report=lambda _: None)
    for _ in range(MAX_FAILURES_IN_A_ROW):
        with pytest.raises(InferenceFailed):
            await batcher.lane.logit(pair(9))
    await batcher.close()
    assert batcher.fatal.result().code == "engine_failing"


async def test_batcher_that_meets_many_bad_pairs_asks_the_engine_for_a_good_one() -> None:
    """An engine that still scores what it has scored before is sound: pairs that it cannot score stop no worker."""
    batcher = Batcher(FakeEngine(poison=9), max_batch=1, report=lambda _: None)
    await batcher.lane.logit(pair(1))
    for _ in range(3 * MAX_FAILURES_IN_A_ROW):
        with pytest.raises(InferenceFailed):
            await batcher.lane.logit(pair(9))
    await batcher.lane.logit(pair(1))
    await batcher.close()
    assert not batcher.fatal.done()


async def test_batcher_whose_engine_no_longer_scores_a_good_pair_stops_the_worker() -> None:
    """The failures are then the engine's own."""
    engine = FakeEngine(poison=9)
    batcher = Batcher(engine, max_batch=1, report=lambda _: None)
    await batcher.lane.logit(pair(1))
    engine.poison = 1
    for _ in range(MAX_FAILURES_IN_A_ROW):
        with pytest.raises(InferenceFailed):
            await batcher.lane.logit(pair(1))
    reason = await asyncio.wait_for(asyncio.shield(batcher.fatal), timeout=10)
    await batcher.close()
    assert reason.code == "engine_failing"


async def test_batcher_takes_what_explains_before_what_is_fresh(
    gated: tuple[FakeEngine, Batcher, threading.Event, list[BatchReport]],
) -> None:
    """The last to come is in the next batch, though fresh pairs would fill it."""
    _, batcher, gate, _ = gated
    done: list[str] = []
    for name in ("first", *(f"fresh {number}" for number in range(6)), "explains"):
        task = asyncio.create_task(batcher.lane.logit(pair(0), explains=name == "explains"), name=name)
        task.add_done_callback(lambda task: done.append(task.get_name()))
        await asyncio.sleep(0)
    gate.set()
    while len(done) < 8:  # noqa: ASYNC110 - the engine runs in a thread
        await asyncio.sleep(0)
    assert done.index("explains") < done.index("fresh 5")


async def test_batcher_explanations_that_fail_do_not_stop_the_worker() -> None:
    """Only what costs a product its score counts."""
    batcher = Batcher(FakeEngine(poison=0), max_batch=1, report=lambda _: None)
    for _ in range(MAX_FAILURES_IN_A_ROW):
        with pytest.raises(InferenceFailed):
            await batcher.lane.logit(pair(0), explains=True)
    assert not batcher.fatal.done()
    await batcher.close()


async def test_batcher_shares_what_waits_among_the_engine_s_threads() -> None:
    """An engine that runs two batches at once is given two halves, at the same time."""
    both = threading.Barrier(2, timeout=10)
    engine = FakeEngine(gate=both.wait)
    engine.concurrency = 2
    batcher = Batcher(engine, max_batch=8, report=lambda _: None)
    tasks = [asyncio.create_task(batcher.lane.logit(pair(red))) for red in range(2)]
    answers = [round(scored.logit + 127.5) for scored in await asyncio.gather(*tasks)]
    await batcher.close()
    assert answers == [0, 1]
    assert engine.batches == [1, 1]


async def test_batcher_explains_before_it_scores_what_is_fresh(
    gated: tuple[FakeEngine, Batcher, threading.Event, list[BatchReport]],
) -> None:
    """A pair of a product that was scored already goes before those that wait since longer."""
    _, batcher, gate, _ = gated
    order: list[int] = []

    async def score(red: int, *, explains: bool) -> None:
        await batcher.lane.logit(pair(red), explains=explains)
        order.append(red)

    tasks = [asyncio.create_task(score(red, explains=red == 9)) for red in (0, 1, 2, 3, 4, 5, 9)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks)
    assert order.index(9) < order.index(5)


async def test_batcher_whose_thread_breaks_says_so() -> None:
    """An error that is no engine's, such as memory that has run out, stops the worker: its events must not wait on."""

    def run_out() -> None:
        raise MemoryError

    batcher = Batcher(FakeEngine(gate=run_out), max_batch=4, report=lambda _: None)
    waiting = asyncio.create_task(batcher.lane.logit(pair(0)))
    reason = await asyncio.wait_for(asyncio.shield(batcher.fatal), timeout=10)
    assert reason.code == "engine_failing"
    assert "MemoryError" in str(reason)
    waiting.cancel()
    await batcher.close()


async def test_batcher_whose_engine_hangs_stops_the_worker() -> None:
    """A batch that takes longer than the deadline stops the worker, and closing does not wait for the hung thread."""
    gate = threading.Event()
    batcher = Batcher(FakeEngine(gate=gate.wait), max_batch=4, report=lambda _: None, deadline_s=0.05)
    waiting = asyncio.create_task(batcher.lane.logit(pair(0)))
    reason = await asyncio.wait_for(asyncio.shield(batcher.fatal), timeout=10)
    assert reason.code == "engine_hung"
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait_for(batcher.close(), timeout=10)
    gate.set()


async def test_batcher_that_waits_for_pairs_is_not_hung() -> None:
    """Only a batch that runs has a deadline, not the wait for the next one."""
    batcher = Batcher(FakeEngine(), max_batch=4, report=lambda _: None, deadline_s=0.2)
    for _ in range(2):
        await batcher.lane.logit(pair(0))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(batcher.fatal), timeout=0.5)
    await batcher.close()


async def test_batcher_whose_large_batches_find_no_memory_runs_smaller_ones() -> None:
    """A batch that does not fit into memory is halved until it does."""
    gate = threading.Event()
    engine = FakeEngine(gate=gate.wait, memory=2)
    batcher = Batcher(engine, max_batch=8, report=lambda _: None)
    tasks = [asyncio.create_task(batcher.lane.logit(pair(red))) for red in range(9)]
    await asyncio.sleep(0)
    gate.set()
    answers = [round(scored.logit + 127.5) for scored in await asyncio.gather(*tasks)]
    await batcher.close()
    assert answers == list(range(9))
    assert max(engine.batches) == 2
    assert not batcher.fatal.done()


def other_engine(**changes: object) -> FakeEngine:
    """Return an engine of another release, which answers twice what the first one does."""

    class Twice(FakeEngine):
        def infer(self, batch: Batch) -> NDArray[np.float32]:
            return 2 * super().infer(batch)

    engine = Twice()
    engine.manifest = manifest(release="fake-111111111111")
    for name, value in changes.items():
        setattr(engine, name, value)
    return engine


async def test_batcher_swapped_while_pairs_wait_gives_each_to_its_own_engine(
    gated: tuple[FakeEngine, Batcher, threading.Event, list[BatchReport]],
) -> None:
    """Those that came before the swap are answered by the old engine, those after it by the new one; none is lost."""
    old, batcher, gate, _ = gated
    before = batcher.lane
    first = [asyncio.create_task(batcher.lane.logit(pair(red))) for red in range(6)]
    await asyncio.sleep(0)
    new = other_engine()
    batcher.swap(batcher.open(new, max_batch=4))
    rest = [asyncio.create_task(batcher.lane.logit(pair(red))) for red in range(6)]
    late = [asyncio.create_task(before.logit(pair(red))) for red in range(6)]
    await asyncio.sleep(0)
    gate.set()
    answers = [[one.logit for one in await asyncio.gather(*tasks)] for tasks in (first, late, rest)]
    once = [red - 127.5 for red in range(6)]
    assert answers == [once, once, [2 * logit for logit in once]]
    assert (sum(old.batches), sum(new.batches)) == (12, 6)


async def test_batcher_lane_is_empty_when_its_last_batch_has_run() -> None:
    """Also when nobody waits for what is in it any more: only then may its engine be closed."""
    begun, gate = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        gate.wait()

    batcher = Batcher(FakeEngine(gate=hold), max_batch=4, report=lambda _: None)
    lane = batcher.lane
    await lane.emptied()
    running = asyncio.create_task(lane.logit(pair(1)))
    await asyncio.to_thread(begun.wait)
    waiting = asyncio.create_task(lane.logit(pair(2)))
    await asyncio.sleep(0)
    batcher.swap(batcher.open(other_engine(), max_batch=4))
    running.cancel()
    waiting.cancel()
    emptied = asyncio.create_task(lane.emptied())
    await asyncio.wait({running, waiting})
    assert not emptied.done()
    gate.set()
    await asyncio.wait_for(emptied, 10)
    await batcher.close()


async def test_batcher_swap_to_other_shapes_and_larger_batches(
    gated: tuple[FakeEngine, Batcher, threading.Event, list[BatchReport]],
) -> None:
    """A release may take other pictures and larger batches: its batches are its own."""
    _, batcher, gate, _ = gated
    gate.set()
    await batcher.lane.logit(pair(3))
    new = other_engine()
    batcher.swap(batcher.open(new, max_batch=6))
    wide = Pair(np.full((3, 2 * SIDE, SIDE), 5, np.uint8), np.ones(3, np.int32), np.ones(3, np.int32))
    scored = await asyncio.gather(*(batcher.lane.logit(wide) for _ in range(6)))
    assert {one.logit for one in scored} == {2 * (5 - 127.5)}


async def test_batcher_failures_of_an_engine_on_its_way_out_stop_no_worker() -> None:
    """Its events are rejected, as their own fault; the engine that runs is judged by what it does."""
    batcher = Batcher(FakeEngine(poison=9), max_batch=1, report=lambda _: None)
    old = batcher.lane
    batcher.swap(batcher.open(other_engine(), max_batch=1))
    for _ in range(MAX_FAILURES_IN_A_ROW):
        with pytest.raises(InferenceFailed):
            await old.logit(pair(9))
    assert not batcher.fatal.done()
    await batcher.close()


async def test_batcher_refuses_an_engine_that_needs_other_threads() -> None:
    """Threads are started once; a release that wants others is for a worker that is started anew."""
    batcher = Batcher(FakeEngine(), max_batch=1, report=lambda _: None)
    with pytest.raises(ReleaseRefused) as caught:
        batcher.open(other_engine(concurrency=2), max_batch=1)
    assert caught.value.code == "release_incompatible"
    await batcher.close()


@given(st.lists(st.booleans(), max_size=40))
def test_batcher_swap_makes_no_pair_wait_for_more_than_one_batch_longer(lanes: list[bool]) -> None:
    """However pairs of both engines are mixed behind a batch that runs: without a swap pair n is in batch n // 4."""
    asyncio.run(_swap_among(lanes))


async def _swap_among(lanes: list[bool]) -> None:
    gate, ran = threading.Event(), []

    class Recorded(FakeEngine):
        """Takes down which pairs are in each batch that is run."""

        def infer(self, batch: Batch) -> NDArray[np.float32]:
            logits = super().infer(batch)
            ran.append(batch.pixel_values[:, 0, 0, 0].tolist())
            return logits

    old, new = Recorded(gate=gate.wait), Recorded()
    batcher = Batcher(old, max_batch=4, report=lambda _: None)
    first = batcher.put(batcher.lane, pair(255), explains=False)
    lane = {False: batcher.lane, True: batcher.open(new, max_batch=4)}
    batcher.swap(lane[True])
    while batcher.waiting:  # noqa: ASYNC110 - until the thread has taken the first
        await asyncio.sleep(0)
    waiting = [batcher.put(lane[one], pair(number), explains=False) for number, one in enumerate(lanes)]
    gate.set()
    await asyncio.gather(first, *waiting)
    await batcher.close()
    turn = {number: batch for batch, numbers in enumerate(ran[1:]) for number in numbers}
    assert sorted(turn) == list(range(len(lanes)))
    assert all(turn[number] <= number // 4 + 1 for number in turn)
