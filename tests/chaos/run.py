"""One run: events are published, workers run, a fault befalls them, and every topic is read and judged."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer

from streamer import topics
from streamer.settings import Settings
from tests import brokers
from tests.chaos import history, traffic
from tests.chaos.checker import Span, Verdict, check
from tests.chaos.faults import Setting, Step, schedule
from tests.chaos.images import image_hosts
from tests.chaos.supervisor import Supervisor
from tests.chaos.worker import EngineFaults

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.faults import Fault
    from tests.chaos.images import Host
    from tests.chaos.place import Place
    from tests.chaos.proxy import Cut
    from tests.chaos.supervisor import Exit

PER_SECOND = 400
SHORTEST_S, LONGEST_S = 10.0, 120.0  # of publishing: the faults fall into it
FIRST = 50  # events that are there before the first fault
BROKER_STARTS = 3  # a node on a busy machine may fail to register with itself
SETTLE_S = 120.0
SESSION_TIMEOUT_S = 6.0
DRAIN_TIMEOUT_S = 10.0
INFERENCE_DEADLINE_S = 3.0

PLANNED: tuple[Fault, ...] = ("terminate", "scale")
REDELIVERED_AT_MOST = 0.02
"""Of the events, outcomes that a planned rebalance repeats."""


@dataclass(frozen=True)
class Size:
    """How large a run is."""

    events: int = 50_000
    partitions: int = 12
    workers: int = 3

    @property
    def publishing_s(self) -> float:
        """How long its events are published, in seconds."""
        return min(LONGEST_S, max(SHORTEST_S, self.events / PER_SECOND))


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run: the verdict, the processes that ended, and how long it took."""

    fault: Fault
    seed: int
    verdict: Verdict
    exits: list[Exit]
    liveness_kills: int
    untidy: int
    seconds: float

    def problems(self) -> list[str]:
        """Return what the run broke, in words."""
        verdict = self.verdict
        found = [*verdict.wrong, *verdict.ahead]
        found += [f"{verdict.lost} events without an outcome"] if verdict.lost else []
        found += [f"{verdict.lag} records not committed"] if verdict.lag else []
        found += [f"{self.untidy} workers did not leave in order"] if self.untidy else []
        if self.fault in PLANNED and verdict.duplicates > REDELIVERED_AT_MOST * verdict.events:
            found.append(f"{verdict.duplicates} of {verdict.events} outcomes redelivered by a planned rebalance")
        return found

    @property
    def restarts(self) -> int:
        """How many workers ended by themselves and were started again."""
        return sum(not one.told for one in self.exits)


async def run(place: Place, root: Path, fault: Fault, seed: int, size: Size) -> Result:
    """Return what came of one run.

    Args:
        place: where it takes place, for this run alone.
        root: an empty directory for its state and its logs.
        fault: what befalls the workers.
        seed: of everything random.
        size: how many events, partitions and workers.
    """
    started = time.monotonic()
    name = f"{fault}-{seed}-{time.time_ns()}"
    async with AsyncExitStack() as stack:
        hosts = stack.enter_context(image_hosts())
        settings = _settings(place.proxied, name, fault, seed, hosts)
        events = traffic.draw(
            size.events,
            seed,
            hosts,
            broken_images=fault in ("images", "mixed"),
            poison=fault in ("engine", "mixed"),
        )
        await topics.create(
            settings.broker, topics.specs(settings.topics.model_copy(update={"partitions": size.partitions}))
        )
        clock = place.clock if fault in ("clock", "mixed") else None
        supervisor = await stack.enter_async_context(
            Supervisor(settings, root, engine=_engine_faults(fault, seed, size), clock=clock)
        )
        supervisor.scale(size.workers)
        first_outcome = asyncio.Event()
        async with asyncio.TaskGroup() as group:  # if one fails, the others must not go on with the next run's broker
            group.create_task(_publish(place.kafka.bootstrap, settings, events, size, first_outcome))
            await _wait_for_outcomes(place.kafka.bootstrap, settings)
            first_outcome.set()
            steps = schedule(fault, seed, Setting(size.publishing_s, size.workers))
            befalling = [group.create_task(_befall(step, place, supervisor)) for step in steps]
        faults = [step.result() for step in befalling]
        await _settle(place.kafka.bootstrap, settings)
        exits = list(supervisor.exits)
        await supervisor.stop()
        # One that has just started dies of SIGTERM: it takes no signals yet, and has nothing to leave in order.
        untidy = sum(one.code not in (0, -signal.SIGTERM) for one in supervisor.exits[len(exits) :])
        found = await history.read(place.kafka.bootstrap, settings.topics, settings.broker.group, events)
    verdict = check(found, faults)
    return Result(fault, seed, verdict, exits, supervisor.liveness_kills, untidy, time.monotonic() - started)


async def _befall(step: Step, place: Place, supervisor: Supervisor) -> Span:
    """Let the step happen at its time; return when that was."""
    await asyncio.sleep(step.at_s)
    begin_ms = _now_ms()
    target = step.target if isinstance(step.target, int) else 0
    match step.action:
        case "kill":
            supervisor.signal(target, signal.SIGKILL)
        case "terminate":
            supervisor.signal(target, signal.SIGTERM)
        case "scale":
            supervisor.scale(target)
        case "broker-stop" | "broker-kill":
            async with place.one_outage:
                await _restart(place.kafka, step)
        case "cut":
            what: Cut = step.target  # type: ignore[assignment] # a schedule's cut names a Cut
            with place.proxy.cut(what):
                await asyncio.sleep(step.lasts_s)
        case "disk":
            with supervisor.full_disk(target):
                await asyncio.sleep(step.lasts_s)
        case "clock":
            with supervisor.clock_off_by(target, step.jump_s):
                await asyncio.sleep(step.lasts_s)
    return Span(begin_ms, _now_ms())


def _now_ms() -> int:
    return time.time_ns() // 10**6


async def _restart(kafka: brokers.Kafka, step: Step) -> None:
    """Stop the broker and start it again."""
    if step.action == "broker-kill":
        kafka.kill()
    else:
        await asyncio.to_thread(kafka.stop)
    await asyncio.sleep(step.lasts_s)
    for _ in range(BROKER_STARTS):
        kafka.launch()  # not in a thread: the broker would end with it
        with contextlib.suppress(pytest.fail.Exception):
            await asyncio.to_thread(kafka.wait_until_it_answers)
            return
    raise RuntimeError("the broker does not start again")


async def _publish(
    bootstrap: str, settings: Settings, events: list[traffic.Event], size: Size, first_outcome: asyncio.Event
) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, linger_ms=5, acks="all", enable_idempotence=True, request_timeout_ms=300_000
    )
    await producer.start()
    try:
        sent = []
        per_second = size.events / size.publishing_s
        began = time.monotonic()
        for number, event in enumerate(events):
            if number == FIRST:
                await first_outcome.wait()
                began = time.monotonic()
            headers = [(history.NUMBER, str(number).encode())]
            sent.append(await producer.send(settings.topics.updates, event.value, key=event.key, headers=headers))
            early_s = number / per_second - (time.monotonic() - began)
            if early_s > 0.05:
                await asyncio.sleep(early_s)
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def _wait_for_outcomes(bootstrap: str, settings: Settings) -> None:
    names = (settings.topics.scores, settings.topics.dead_letters)
    async with asyncio.timeout(SETTLE_S):
        while not any([sum((await brokers.end_offsets(bootstrap, topic)).values()) for topic in names]):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def _settle(bootstrap: str, settings: Settings) -> None:
    """Return when everything is committed, or when nothing was committed for SETTLE_S."""
    known, moved = 0, time.monotonic()
    while time.monotonic() - moved < SETTLE_S:
        behind = sum((await history.lag(bootstrap, settings.topics, settings.broker.group)).values())
        if not behind:
            return
        if behind != known:
            known, moved = behind, time.monotonic()
        await asyncio.sleep(0.5)


def _engine_faults(fault: Fault, seed: int, size: Size) -> EngineFaults:
    if fault not in ("engine", "mixed"):
        return EngineFaults(seed=seed)
    until = time.monotonic() + size.publishing_s
    share = 0.01 * SHORTEST_S / size.publishing_s  # of the batches: a few workers of a run, however long it is
    return EngineFaults(seed=seed, raises=0.1, memory=4, hangs=share, breaks=share, until=until)


def _settings(bootstrap: str, name: str, fault: Fault, seed: int, hosts: dict[Host, str]) -> Settings:
    names = {topic: f"{name}-{topic}" for topic in ("updates", "scores", "alerts", "dead_letters")}
    store = "rocksdb" if fault in ("disk", "mixed") else random.Random(f"{fault} {seed}").choice(("memory", "rocksdb"))
    return Settings.model_validate(
        {
            "broker": {
                "bootstrap": bootstrap,
                "group": name,
                "session_timeout_s": SESSION_TIMEOUT_S,
                "heartbeat_interval_s": 1,
            },
            "topics": names,
            "fetch": {"allow_hosts": tuple(hosts.values()), "timeout_s": 4, "attempts": 2, "backoff_s": 0.1},
            "pipeline": {"drain_timeout_s": DRAIN_TIMEOUT_S},
            "state": {"store": store},
            "engine": {"deadline_s": INFERENCE_DEADLINE_S},
        }
    )
