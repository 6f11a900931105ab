"""Where runs take place: a broker, the proxy in front of it, and the library that makes clocks jump."""

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
    from collections.abc import AsyncIterator, Iterator


@dataclass(frozen=True, slots=True)
class Ground:
    """What outlives a run: the broker, the port of its proxy, and the library; None where there is no C compiler."""

    kafka: brokers.Kafka
    port: int
    clock: Path | None

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        """Yield the ground with its proxy running."""
        async with Proxy(self.port, self.kafka.behind_proxy) as proxy:
            yield Place(self.kafka, proxy, f"{LOOPBACK}:{self.port}", self.clock)


@dataclass(frozen=True, slots=True)
class Place:
    """What a run finds: `proxied` is where its workers reach the broker."""

    kafka: brokers.Kafka
    proxy: Proxy
    proxied: str
    clock: Path | None
    one_outage: asyncio.Lock = field(default_factory=asyncio.Lock)


@contextlib.contextmanager
def ground(directory: Path) -> Iterator[Ground]:
    """Yield a running Kafka that expects a proxy in front of it; skips the test where KAFKA_HOME names none."""
    port = free_port()
    kafka = brokers.Kafka(brokers.kafka_home(), directory, proxied=port)
    try:
        kafka.start()
        yield Ground(kafka, port, _clock(directory))
    finally:
        kafka.stop()


def _clock(directory: Path) -> Path | None:
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = directory / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library
