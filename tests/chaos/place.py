"""Where a run takes place: a broker, the proxy in front of it, and the library that makes clocks jump."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.demo.broker import LOOPBACK, free_port
from tests import brokers
from tests.chaos.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BROKER_NICENESS = -5


@dataclass(frozen=True, slots=True)
class Place:
    """What a run finds.

    Attributes:
        kafka: the broker.
        proxy: stands in front of it.
        proxied: where workers reach the broker.
        clock: the library; None where there is no C compiler.
        background: whether other work goes first.
        one_outage: held while the broker is away.
    """

    kafka: brokers.Kafka
    proxy: Proxy
    proxied: str
    clock: Path | None
    background: bool = False
    one_outage: asyncio.Lock = field(default_factory=asyncio.Lock)


@contextlib.asynccontextmanager
async def place(directory: Path, *, background: bool = False) -> AsyncIterator[Place]:
    """Yield a place of a run's own: a broker that keeps the topics of many runs takes minutes to start again.

    In the background the workers stand back behind other work, and the broker does not: it starves first.
    Skips the test where KAFKA_HOME names no Kafka.
    """
    port = free_port()
    kafka = brokers.Kafka(
        brokers.kafka_home(), directory, proxied=port, niceness=BROKER_NICENESS if background else None
    )
    try:
        kafka.start()
        async with Proxy(port, kafka.behind_proxy) as proxy:
            yield Place(kafka, proxy, f"{LOOPBACK}:{port}", _clock(directory), background)
    finally:
        kafka.kill()  # nobody wants its data any more


def _clock(directory: Path) -> Path | None:
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = directory / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library
