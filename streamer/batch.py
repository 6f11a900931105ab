"""Dynamic batching: the engine's own threads take what is waiting, up to a cap, and never wait while there is work.

There is a thread for each batch that the engine runs at the same time; they share what waits evenly. There is no window
to wait for: while one batch runs, the next one gathers. A lone event on an idle engine is scored
at once; under load batches fill by themselves. What explains an alert goes before what is fresh.

An engine has a lane of its own: a pair goes down the lane of the engine that it was made ready for, and a batch holds
pairs of one lane only. So engines are swapped between two batches, by giving new pairs to another lane, and an engine
may be closed when the last pair has come out of its lane.

A batch that fails is halved until it is known which pair it was, or until it fits into memory. An engine that does not
answer within its deadline cannot be stopped, so the worker is.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engines.errors import EngineError, InferenceFailed, ReleaseRefused
from streamer.errors import FatalError
from streamer.pairs import Collator, Pair, Scored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engines.contract import Engine

MAX_FAILURES_IN_A_ROW = 16
"""A pair that fails alone is that pair's fault. After this many in a row the engine is asked for a pair that it has
scored before; if it cannot, or there is none, the failures are its own, and the worker stops."""

DEADLINE_S = 60.0
"""For one batch, unless said otherwise: a hundred times what the slowest engine takes."""

_SMOOTHING = 0.2  # of the engine's pace: the weight of the last batch
_LOOKS = 10  # at the running batches, in a deadline


@dataclass(frozen=True, slots=True)
class _Waiting:
    lane: Lane
    pair: Pair
    result: asyncio.Future[Scored]
    since: float
    explains: bool


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What one run of the engine took, in seconds."""

    size: int
    infer_s: float


class Lane:
    """One engine's way through the threads of a batcher: made by `Batcher.open`, for tasks of its event loop.

    Attributes:
        engine: runs the lane's batches.
        max_batch: pairs in one of them, at most.
    """

    def __init__(self, batcher: Batcher, engine: Engine, max_batch: int) -> None:
        self._batcher = batcher
        self.engine = engine
        self.max_batch = max_batch
        self._inside = 0  # pairs that wait or run, also those that nobody waits for any more
        self._empty = asyncio.Event()
        self._empty.set()

    async def logit(self, pair: Pair, *, explains: bool = False) -> Scored:
        """Return the engine's answer for the pair.

        Args:
            pair: a picture and a text, made ready for this engine.
            explains: the pair is about a product that was scored already. It goes first: behind the fresh products
                its alert would wait a second time. Its failure never stops the worker.

        Raises:
            InferenceFailed: the engine cannot score this pair, not even alone.
        """
        return await self._batcher.put(self, pair, explains=explains)

    async def emptied(self) -> None:
        """Return when the engine has no pair and runs none: it may then be closed, if nobody brings it another."""
        await self._empty.wait()

    def enter(self) -> None:
        """Count a pair that has come in."""
        self._inside += 1
        self._empty.clear()

    def leave(self, pairs: int) -> None:
        """Count pairs that have come out."""
        self._inside -= pairs
        if not self._inside:
            self._empty.set()


class Batcher:
    """Feeds engines from threads; any number of tasks of one event loop may await a lane's `logit`.

    Args:
        engine: what runs the batches; it has `concurrency` threads, and so has whatever takes its place.
        max_batch: pairs in one batch, at most.
        report: is told of each batch.
        deadline_s: for one batch, in seconds.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_batch: int,
        report: Callable[[BatchReport], None],
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.lane = Lane(self, engine, max_batch)
        """Of the engine that runs: new pairs go here."""
        self._deadline_s = deadline_s
        self._report = report
        # Pairs arrive in the queue, which costs the event loop nothing; whichever thread is free sorts and takes them.
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._taking = threading.Lock()
        self._explaining: deque[_Waiting] = deque()
        self._fresh: deque[_Waiting] = deque()
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._failures = 0  # in a row; the loop's own
        self._sound: Pair | None = None  # the last pair that was scored
        self._asked = False  # for that pair again
        self.pairs_per_s = 0.0
        """What the engine answers while it has work, as its last batches went; 0 before the first."""
        self.fatal: asyncio.Future[FatalError] = self._loop.create_future()
        self._threads = [
            threading.Thread(target=self._run, name=f"engine-{number}", daemon=True)
            for number in range(engine.concurrency)
        ]
        self._running: dict[threading.Thread, float] = {}  # since when each thread's batch runs
        for thread in self._threads:
            thread.start()
        self._watch = self._loop.create_task(self._watch_deadline())

    @property
    def concurrency(self) -> int:
        """How many batches the engine runs at the same time."""
        return len(self._threads)

    @property
    def capacity(self) -> int:
        """How many pairs the engine can be given at the same time."""
        return self.lane.max_batch * len(self._threads)

    @property
    def waiting(self) -> int:
        """How many pairs stand in the queue."""
        return self._queue.qsize() + len(self._explaining) + len(self._fresh)

    def put(self, lane: Lane, pair: Pair, *, explains: bool) -> asyncio.Future[Scored]:
        """Put a pair into a lane; the answer, or the InferenceFailed, is the future's."""
        waiting = _Waiting(lane, pair, self._loop.create_future(), time.perf_counter(), explains)
        lane.enter()
        self._queue.put(waiting)
        return waiting.result

    def open(self, engine: Engine, *, max_batch: int) -> Lane:
        """Return a lane for another engine beside the one that runs, which is not touched.

        Raises:
            ReleaseRefused: release_incompatible, when it runs another number of batches at the same time.
        """
        if engine.concurrency != self.concurrency:
            raise ReleaseRefused(
                f"{engine.manifest.release} runs {engine.concurrency} batches at the same time, this worker has "
                f"{self.concurrency} threads for them: restart the worker",
                code="release_incompatible",
            )
        return Lane(self, engine, max_batch)

    def swap(self, lane: Lane) -> None:
        """Make this lane the one that new pairs go to; what is in the other one comes out of it."""
        self.lane = lane
        self._failures, self._sound = 0, None

    async def close(self) -> None:
        """Score what is queued, then end the threads; one whose engine hangs is left to end with the process."""
        self._queue.put(None)
        self._watch.cancel()
        await asyncio.gather(*(asyncio.to_thread(self._join, thread) for thread in self._threads))

    def _join(self, thread: threading.Thread) -> None:
        while thread.is_alive() and not self._hangs(thread):
            thread.join(self._deadline_s / _LOOKS)

    def _hangs(self, thread: threading.Thread) -> bool:
        since = self._running.get(thread)
        return since is not None and time.monotonic() - since > self._deadline_s

    async def _watch_deadline(self) -> None:
        while not any(self._hangs(thread) for thread in self._threads):  # noqa: ASYNC110 - a hung thread calls nobody
            await asyncio.sleep(self._deadline_s / _LOOKS)
        self._stop("engine_hung", f"the engine has not answered for {self._deadline_s:g} s; its worker cannot go on")

    def _run(self) -> None:
        collator = Collator()
        try:
            while taken := self._take():
                self._score(taken, collator)
        except Exception as error:  # noqa: BLE001 - a thread that ends unseen leaves its events waiting for ever
            self._loop.call_soon_threadsafe(self._stop, "engine_failing", f"{type(error).__name__}: {error}")

    def _take(self) -> list[_Waiting]:
        """Wait for a pair and take this thread's share of what is there, of one lane; nothing when all is done."""
        taken: list[_Waiting] = []
        with self._taking:
            self._sort()
            while not taken and (self._explaining or self._fresh or not self._ended):
                if not (self._explaining or self._fresh):
                    self._sort(self._queue.get())
                waiting = len(self._explaining) + len(self._fresh)
                share = -(-waiting // len(self._threads))
                for line in (self._explaining, self._fresh):
                    self._fill(taken, line, share)
        return taken

    def _fill(self, taken: list[_Waiting], line: deque[_Waiting], share: int) -> None:
        """Take from the line what belongs to the lane of the first that was taken, up to the share; keep the rest."""
        others: list[_Waiting] = []
        while line and len(taken) < min(share, taken[0].lane.max_batch if taken else share):
            first = line.popleft()
            if first.result.done():  # superseded while it waited
                self._loop.call_soon_threadsafe(first.lane.leave, 1)
            elif taken and first.lane is not taken[0].lane:
                others.append(first)
            else:
                taken.append(first)
        line.extendleft(reversed(others))

    def _sort(self, *arrived: _Waiting | None) -> None:
        """Put what has arrived where it belongs."""
        for waiting in (*arrived, *_all_of(self._queue)):
            if waiting is None:
                self._ended = True
            else:
                (self._explaining if waiting.explains else self._fresh).append(waiting)

    def _score(self, taken: list[_Waiting], collator: Collator) -> None:
        started = time.perf_counter()
        results = self._infer(taken, collator)
        infer_s = time.perf_counter() - started
        self._loop.call_soon_threadsafe(self._deliver, taken, results, started, infer_s)

    def _infer(self, taken: list[_Waiting], collator: Collator) -> list[float | EngineError]:
        """Return one logit or error per pair; a batch that fails is tried again in halves.

        Raises:
            MemoryError: there is not even memory for one pair.
        """
        thread = threading.current_thread()
        try:
            batch = collator.collate([waiting.pair for waiting in taken], room=taken[0].lane.max_batch)
            self._running[thread] = time.monotonic()
            logits = taken[0].lane.engine.infer(batch)
        except (InferenceFailed, MemoryError) as error:
            if len(taken) == 1:
                if isinstance(error, MemoryError):
                    raise
                return [error]
            middle = len(taken) // 2
            return self._infer(taken[:middle], collator) + self._infer(taken[middle:], collator)
        finally:
            self._running.pop(thread, None)
        return [float(logit) for logit in logits]

    def _deliver(
        self, taken: list[_Waiting], results: list[float | EngineError], started: float, infer_s: float
    ) -> None:
        self._report(BatchReport(len(taken), infer_s))
        pace = len(taken) * len(self._threads) / max(infer_s, 1e-6)
        self.pairs_per_s += (pace - self.pairs_per_s) * (_SMOOTHING if self.pairs_per_s else 1.0)
        taken[0].lane.leave(len(taken))
        runs = taken[0].lane is self.lane  # how an engine fails that is on its way out concerns nobody
        for waiting, result in zip(taken, results, strict=True):
            failed = isinstance(result, EngineError)
            if runs:
                self._failures = self._failures + (not waiting.explains) if failed else 0
            if waiting.result.done():
                continue
            if isinstance(result, EngineError):
                waiting.result.set_exception(result)
            else:
                self._sound = waiting.pair if runs else self._sound
                waiting.result.set_result(Scored(result, started - waiting.since, infer_s))
        if self._failures >= MAX_FAILURES_IN_A_ROW and not self._asked:
            self._ask()

    def _ask(self) -> None:
        """Ask the engine for a pair that it has scored before; it goes before all that waits."""
        if self._sound is None:
            self._judge(InferenceFailed("no pair was ever scored"))
            return
        self._asked = True
        lane, answer = self.lane, self.put(self.lane, self._sound, explains=True)
        answer.add_done_callback(lambda answer: self._judge(answer.exception(), lane))

    def _judge(self, error: BaseException | None, lane: Lane | None = None) -> None:
        if error is not None and lane in (None, self.lane):
            self._stop("engine_failing", f"the engine failed {self._failures} times in a row, last with: {error}")
        self._failures, self._asked = 0, False

    def _stop(self, code: str, reason: str) -> None:
        if not self.fatal.done():
            self.fatal.set_result(FatalError(code, reason))


def _all_of(arrivals: queue.SimpleQueue[_Waiting | None]) -> Iterator[_Waiting | None]:
    with contextlib.suppress(queue.Empty):
        while True:
            yield arrivals.get_nowait()
