"""Records on their way out: returns when the broker has them, tries for as long as it takes.

An event is acknowledged only after its outcome is here, so giving up would not lose it, only stall it; the worker
therefore keeps trying through a broker outage and says so in its log.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, UnsupportedVersionError

from streamer.errors import FatalError
from streamer.topics import client_kwargs

if TYPE_CHECKING:
    from streamer.settings import BrokerSettings

log = structlog.get_logger(__name__)

LINGER_MS = 5
RETRY_S = 1.0


class Outbox:
    """One producer: acks from all in-sync replicas, idempotent where the broker can.

    A context manager; `send` may be awaited by any number of tasks.
    """

    def __init__(self, broker: BrokerSettings) -> None:
        self._options: dict[str, Any] = client_kwargs(broker)
        self._producer: AIOKafkaProducer

    async def __aenter__(self) -> Self:
        self._producer = await start_producer(self._options)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    async def send(self, topic: str, key: bytes | None, value: bytes) -> None:
        """Return once the broker has the record.

        Raises:
            FatalError: record_too_large; no retry can help.
        """
        while True:
            try:
                delivery = await self._producer.send(topic, value, key=key)
                await delivery
            except MessageSizeTooLargeError as error:
                raise FatalError(
                    "record_too_large", f"{topic}: {len(value)} bytes; raise its max.message.bytes"
                ) from error
            except KafkaError as error:
                log.warning("record.not_delivered", topic=topic, error=repr(error), retry_s=RETRY_S)
                await asyncio.sleep(RETRY_S)
            else:
                return


async def start_producer(options: dict[str, Any]) -> AIOKafkaProducer:
    """Return a started producer, idempotent unless the broker does not know how (the embedded one does not)."""
    for idempotent in (True, False):
        producer = AIOKafkaProducer(
            **options, acks="all", linger_ms=LINGER_MS, enable_idempotence=idempotent, max_request_size=4 * 2**20
        )
        try:
            await producer.start()
        except (UnsupportedVersionError, KafkaError) as error:
            await producer.stop()
            if not idempotent:
                raise
            log.info("producer.not_idempotent", reason=repr(error))
        else:
            return producer
    raise AssertionError
