"""What a run gives its workers to do: events at a pace, and settings under which the faults show."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaProducer

from streamer.settings import Settings
from tests.chaos.history import NUMBER
from tests.chaos.orders import EngineFaults
from tests.chaos.size import PLANNED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.faults import Fault
    from tests.chaos.images import Host
    from tests.chaos.pace import Pace
    from tests.chaos.size import Size
    from tests.chaos.traffic import Event

FIRST = 50  # events that are there before the first fault
LOOK_EVERY = 25  # events, at the clock

SESSION_TIMEOUT_S, CALM_SESSION_TIMEOUT_S = 6.0, 20.0
DRAIN_TIMEOUT_S = 15.0
INFERENCE_DEADLINE_S = 3.0


async def publish(  # noqa: PLR0917 - what a run is made of
    bootstrap: str, topic: str, events: list[Event], size: Size, pace: Pace, first_outcome: asyncio.Event
) -> None:
    """Publish the first events, and when there is an outcome all others, each with its number."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, linger_ms=20, acks="all", enable_idempotence=True, request_timeout_ms=300_000
    )
    per_second = size.events / size.publishing_s
    await producer.start()
    try:
        sent, began = [], pace.now()
        for number, event in enumerate(events):
            if number == FIRST:
                await first_outcome.wait()
                began = pace.now()
            if number % LOOK_EVERY == 0:
                await pace.until(began + number / per_second)
            headers = [(NUMBER, str(number).encode())]
            sent.append(await producer.send(topic, event.value, key=event.key, headers=headers))
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


def engine_faults(fault: Fault, seed: int, calm: Path) -> EngineFaults:
    """Return what befalls the engine until something stands at the path `calm`."""
    if fault not in ("engine", "mixed"):
        return EngineFaults(seed=seed)
    return EngineFaults(seed=seed, raises=0.1, memory=4, hangs=0.001, breaks=0.001, calm=str(calm))


def settings_of(  # noqa: PLR0917 - what a run is made of
    bootstrap: str, name: str, fault: Fault, seed: int, hosts: dict[Host, str], root: Path
) -> Settings:
    """Return the workers' settings: quick to notice what is gone, slow to give up what a busy machine holds up."""
    names = {topic: f"{name}-{topic}" for topic in ("updates", "scores", "alerts", "dead_letters")}
    store = "rocksdb" if fault in ("disk", "mixed") else random.Random(f"{fault} {seed}").choice(("memory", "rocksdb"))
    fetch = {"allow_hosts": tuple(hosts.values()), "timeout_s": 20, "attempts": 3, "backoff_s": 0.1}
    return Settings.model_validate(
        {
            "broker": {
                "bootstrap": bootstrap,
                "group": name,
                "session_timeout_s": CALM_SESSION_TIMEOUT_S if fault in PLANNED else SESSION_TIMEOUT_S,
                "heartbeat_interval_s": 1,
            },
            "topics": names,
            "fetch": fetch,
            "pipeline": {"drain_timeout_s": DRAIN_TIMEOUT_S, "decode_cpu_s": 6},
            "state": {"store": store},
            "evidence": {"store": str(root / "evidence") if fault in ("disk", "mixed") else None},
            "engine": {"deadline_s": INFERENCE_DEADLINE_S if fault in ("engine", "mixed") else 60},
        }
    )
