"""One run: events are published, workers run, a fault befalls them, and every topic is read and judged."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamer import topics
from tests.chaos import history, traffic
from tests.chaos.befall import Befalling
from tests.chaos.checker import Span, check
from tests.chaos.faults import Setting, schedule
from tests.chaos.images import image_hosts
from tests.chaos.orders import TOLD
from tests.chaos.pace import Pace
from tests.chaos.results import TIDY, Exit, Result
from tests.chaos.supervisor import Supervisor
from tests.chaos.watch import Watch
from tests.chaos.workload import engine_faults, publish, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.settings import Settings
    from tests.chaos.faults import Fault
    from tests.chaos.history import History
    from tests.chaos.place import Place
    from tests.chaos.size import Size

STILL_S = 120.0
"""Without a commit; then a run that has lag is judged as it stands."""
LOOK_S = 0.5


@dataclass
class _Done:
    """What there is to judge when the workers have left."""

    history: History
    faults: list[Span]
    hits: dict[str, int]
    exits: list[Exit]
    liveness_kills: int
    untidy: int
    busy: float


async def run(  # noqa: PLR0917 - what a run is
    place: Place,
    root: Path,
    fault: Fault,
    seed: int,
    size: Size,
    tell: Callable[[str, float], None] = lambda *_: None,
) -> Result:
    """Return what came of one run.

    Args:
        place: where it takes place, for this run alone.
        root: an empty directory for its state and its logs.
        fault: what befalls the workers.
        seed: of everything random.
        size: how many events, partitions and workers.
        tell: is told what is done, and how much of it, 0 to 1.
    """
    started = time.monotonic()
    done = await _Run(place, root, fault, seed, size, tell).done()
    return Result(
        fault,
        seed,
        check(done.history, done.faults),
        hits=done.hits,
        exits=done.exits,
        liveness_kills=done.liveness_kills,
        untidy=done.untidy,
        seconds=round(time.monotonic() - started, 1),
        busy=round(done.busy, 3),
    )


def _befell_engines(root: Path) -> Counter[str]:
    """Return how often each fault befell an engine, by the workers' logs."""
    logs = (log.read_text(encoding="utf-8", errors="replace") for log in root.glob("worker-*.log"))
    told = (line.partition(TOLD)[2].strip() for log in logs for line in log.splitlines() if TOLD in line)
    return Counter(told)


class _Run:
    def __init__(  # noqa: PLR0917 - as `run` takes them
        self, place: Place, root: Path, fault: Fault, seed: int, size: Size, tell: Callable[[str, float], None]
    ) -> None:
        self._place, self._root, self._fault, self._seed, self._size, self._tell = place, root, fault, seed, size, tell
        self._bootstrap = place.kafka.bootstrap
        self._pace = Pace()
        self._calm = root / "calm"
        self._settings: Settings
        self._supervisor: Supervisor
        self._watch: Watch

    async def done(self) -> _Done:
        """Let the run take place and read what it left."""
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            events = await self._set_up(stack)
            self._supervisor.scale(self._size.workers)
            befalling = Befalling(self._place, self._supervisor, self._watch, self._pace)
            faults = await self._take_place(events, befalling)
            await self._settle()
            had, wall_s = self._pace.now(), time.monotonic() - began
            exits = list(self._supervisor.exits)
            await self._supervisor.stop()
            untidy = sum(one.code not in TIDY for one in self._supervisor.exits[len(exits) :])
            self._tell("checking", 0.0)
            group = self._settings.broker.group
            found = await history.read(self._bootstrap, self._settings.topics, group, events)
            hits = dict(befalling.hits + _befell_engines(self._root))
            return _Done(found, faults, hits, exits, self._supervisor.liveness_kills, untidy, 1 - had / wall_s)

    async def _set_up(self, stack: AsyncExitStack) -> list[traffic.Event]:
        """Make ready all that a run needs; return its events."""
        name, fault, seed = f"{self._fault}-{self._seed}-{time.time_ns()}", self._fault, self._seed
        await stack.enter_async_context(self._pace)
        hosts = stack.enter_context(image_hosts())
        self._settings = settings_of(self._place.proxied, name, fault, seed, hosts, self._root)
        names = self._settings.topics.model_copy(update={"partitions": self._size.partitions})
        await topics.create(self._settings.broker, topics.specs(names))
        self._watch = await stack.enter_async_context(
            Watch(self._bootstrap, names, self._settings.broker.group, self._size.partitions)
        )
        self._supervisor = await stack.enter_async_context(
            Supervisor(
                self._settings,
                self._root,
                engine=engine_faults(fault, seed, self._calm),
                clock=self._place.clock if fault in ("clock", "mixed") else None,
                pace=self._pace,
                background=self._place.background,
            )
        )
        return traffic.draw(
            self._size.events,
            seed,
            hosts,
            broken_images=fault in ("images", "mixed"),
            poison=fault in ("engine", "mixed"),
        )

    async def _take_place(self, events: list[traffic.Event], befalling: Befalling) -> list[Span]:
        """Publish everything and let everything befall; return when what happened."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:  # if one fails, the others end with it
            group.create_task(self._keep_telling(over))
            try:
                befallen = await self._befall(events, befalling, group)
            finally:
                over.set()
        return [step.result() for step in befallen]

    async def _befall(
        self, events: list[traffic.Event], befalling: Befalling, group: asyncio.TaskGroup
    ) -> list[asyncio.Task[Span]]:
        size, first_outcome = self._size, asyncio.Event()
        topic = self._settings.topics.updates
        publishing = group.create_task(publish(self._bootstrap, topic, events, size, self._pace, first_outcome))
        await self._until_first_outcome()
        first_outcome.set()
        began = self._pace.now()
        steps = schedule(self._fault, self._seed, Setting(size.publishing_s, size.workers))
        befallen = [group.create_task(befalling.step(step, began)) for step in steps]
        await asyncio.wait([publishing, *befallen], return_when=asyncio.FIRST_EXCEPTION)
        self._calm.touch()
        return befallen

    async def _keep_telling(self, over: asyncio.Event) -> None:
        while not over.is_set():  # not cancelled: an aiokafka that waits for an answer may lose a cancellation
            self._tell("running", (await self._watch.committed() or 0) / self._size.events)
            await asyncio.sleep(LOOK_S)

    async def _until_first_outcome(self) -> None:
        """Return when there is an outcome.

        Raises:
            RuntimeError: there is none for a long time.
        """
        ends = self._pace.now() + STILL_S
        while not await self._watch.outcomes():
            if self._pace.now() > ends:
                raise RuntimeError("the workers do not begin")
            await asyncio.sleep(LOOK_S / 5)

    async def _settle(self) -> None:
        """Return when everything is committed, or when nothing was committed for STILL_S."""
        known, moved = -1, self._pace.now()
        while self._pace.now() - moved < STILL_S:
            behind = await self._watch.lag()
            if behind == 0:
                return
            if behind is not None and behind != known:
                known, moved = behind, self._pace.now()
            self._tell("settling", (await self._watch.committed() or 0) / self._size.events)
            await asyncio.sleep(LOOK_S)
