"""Dynamic batching: the engine's own threads take what is waiting, up to a cap, and never wait while there is work.

There is a thread for each batch that the engine runs at the same time; they share what waits evenly. There is no window
to wait for: while one batch runs, the next one gathers. A lone event on an idle engine is scored
at once; under load batches fill by themselves. What explains an alert goes before what is fresh.

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

import numpy as np

from engines.contract import Batch
from engines.errors import EngineError, InferenceFailed
from streamer.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from engines.contract import Engine

MAX_FAILURES_IN_A_ROW = 16
"""A pair that fails alone is that pair's fault. After this many in a row the engine is asked for a pair that it has
scored before; if it cannot, or there is none, the failures are its own, and the worker stops."""

DEADLINE_S = 60.0
"""For one batch, unless said otherwise: a hundred times what the slowest engine takes."""

_SMOOTHING = 0.2  # of the engine's pace: the weight of the last batch
_LOOKS = 10  # at the running batches, in a deadline


@dataclass(frozen=True, slots=True)
class Pair:
    """One product ready for the engine.

    pixel_values: uint8 (3, H, W). input_ids, attention_mask: int32 (T,). attributes: float32 (A, 2), or None where the
    engine takes none.
    """

    pixel_values: NDArray[np.uint8]
    input_ids: NDArray[np.int32]
    attention_mask: NDArray[np.int32]
    attributes: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """The engine's answer for one pair: its logit, how long it waited for the engine, how long its batch ran."""

    logit: float
    waited_s: float
    infer_s: float


@dataclass(frozen=True, slots=True)
class _Waiting:
    pair: Pair
    result: asyncio.Future[Scored]
    since: float
    explains: bool


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What one run of the engine took, in seconds."""

    size: int
    infer_s: float


class Batcher:
    """Feeds one engine from its `concurrency` threads; any number of tasks of one event loop may await `logit`.

    Args:
        engine: what runs the batches.
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
        self._engine = engine
        self._max_batch = max_batch
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
        return self._max_batch * len(self._threads)

    @property
    def waiting(self) -> int:
        """How many pairs stand in the queue."""
        return self._queue.qsize() + len(self._explaining) + len(self._fresh)

    async def logit(self, pair: Pair, *, explains: bool = False) -> Scored:
        """Return the engine's answer for the pair.

        Args:
            pair: a picture and a text.
            explains: the pair is about a product that was scored already. It goes first: behind the fresh products
                its alert would wait a second time. Its failure never stops the worker.

        Raises:
            InferenceFailed: the engine cannot score this pair, not even alone.
        """
        waiting = _Waiting(pair, self._loop.create_future(), time.perf_counter(), explains)
        self._queue.put(waiting)
        return await waiting.result

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
        collator = _Collator(self._max_batch)
        try:
            while taken := self._take():
                self._score(taken, collator)
        except Exception as error:  # noqa: BLE001 - a thread that ends unseen leaves its events waiting for ever
            self._loop.call_soon_threadsafe(self._stop, "engine_failing", f"{type(error).__name__}: {error}")

    def _take(self) -> list[_Waiting]:
        """Wait for a pair and take this thread's share of what is there; nothing when all is done."""
        taken: list[_Waiting] = []
        with self._taking:
            self._sort()
            while not taken and (self._explaining or self._fresh or not self._ended):
                if not (self._explaining or self._fresh):
                    self._sort(self._queue.get())
                waiting = len(self._explaining) + len(self._fresh)
                share = min(self._max_batch, -(-waiting // len(self._threads)))
                while len(taken) < share and (line := self._explaining or self._fresh):
                    first = line.popleft()
                    if not first.result.done():  # superseded while it waited
                        taken.append(first)
        return taken

    def _sort(self, *arrived: _Waiting | None) -> None:
        """Put what has arrived where it belongs."""
        for waiting in (*arrived, *_all_of(self._queue)):
            if waiting is None:
                self._ended = True
            else:
                (self._explaining if waiting.explains else self._fresh).append(waiting)

    def _score(self, taken: list[_Waiting], collator: _Collator) -> None:
        started = time.perf_counter()
        results = self._infer(taken, collator)
        infer_s = time.perf_counter() - started
        self._loop.call_soon_threadsafe(self._deliver, taken, results, started, infer_s)

    def _infer(self, taken: list[_Waiting], collator: _Collator) -> list[float | EngineError]:
        """Return one logit or error per pair; a batch that fails is tried again in halves.

        Raises:
            MemoryError: there is not even memory for one pair.
        """
        thread = threading.current_thread()
        try:
            batch = collator.collate([waiting.pair for waiting in taken])
            self._running[thread] = time.monotonic()
            logits = self._engine.infer(batch)
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
        for waiting, result in zip(taken, results, strict=True):
            failed = isinstance(result, EngineError)
            self._failures = self._failures + (not waiting.explains) if failed else 0
            if waiting.result.done():
                continue
            if isinstance(result, EngineError):
                waiting.result.set_exception(result)
            else:
                self._sound = waiting.pair
                waiting.result.set_result(Scored(result, started - waiting.since, infer_s))
        if self._failures >= MAX_FAILURES_IN_A_ROW and not self._asked:
            self._ask()

    def _ask(self) -> None:
        """Ask the engine for a pair that it has scored before; it goes before all that waits."""
        if self._sound is None:
            self._judge(InferenceFailed("no pair was ever scored"))
            return
        self._asked = True
        answer: asyncio.Future[Scored] = self._loop.create_future()
        answer.add_done_callback(lambda answer: self._judge(answer.exception()))
        self._queue.put(_Waiting(self._sound, answer, time.perf_counter(), explains=True))

    def _judge(self, error: BaseException | None) -> None:
        if error is not None:
            self._stop("engine_failing", f"the engine failed {self._failures} times in a row, last with: {error}")
        self._failures, self._asked = 0, False

    def _stop(self, code: str, reason: str) -> None:
        if not self.fatal.done():
            self.fatal.set_result(FatalError(code, reason))


class _Collator:
    """Pairs → one batch, its pictures in memory that is used again: fresh pages would cost more."""

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._pictures: memoryview | None = None  # of max_batch pictures

    def collate(self, pairs: list[Pair]) -> Batch:
        """Return the pairs as one batch, good until the next call.

        Pictures are copied as plain bytes: numpy gives the interpreter away at each copy, and the engine would wait to
        get it back once per pair.
        """
        shape, size = pairs[0].pixel_values.shape, pairs[0].pixel_values.nbytes
        if self._pictures is None:
            self._pictures = memoryview(bytearray(self._max_batch * size))
        for row, pair in enumerate(pairs):
            self._pictures[row * size : (row + 1) * size] = pair.pixel_values.data.cast("B")
        pictures = np.frombuffer(self._pictures, np.uint8, count=len(pairs) * size)
        known = [pair.attributes for pair in pairs if pair.attributes is not None]
        return Batch(
            pixel_values=pictures.reshape(len(pairs), *shape),
            input_ids=np.stack([pair.input_ids for pair in pairs]),
            attention_mask=np.stack([pair.attention_mask for pair in pairs]),
            attributes=np.stack(known) if known else None,
        )


def _all_of(arrivals: queue.SimpleQueue[_Waiting | None]) -> Iterator[_Waiting | None]:
    with contextlib.suppress(queue.Empty):
        while True:
            yield arrivals.get_nowait()
