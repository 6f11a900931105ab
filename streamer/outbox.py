"""Records on their way out: returns when the broker has them, tries for as long as it takes.

An event is acknowledged only after its outcome is here, so giving up would not lose it, only stall it; the worker
therefore keeps trying through a broker outage and says so in its log.

aiokafka's idempotent producer numbers a batch when it is first sent. One that it gives up in a long outage leaves a
gap, and the broker refuses whatever follows in that partition, for ever (OutOfOrderSequenceNumber). The Java client
then takes a new epoch (KIP-360); here a new producer takes over, whose numbers begin at 0.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Protocol, Self

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidProducerEpoch,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    UnknownProducerId,
)

from streamer import topics
from streamer.errors import FatalError
from streamer.tracing import OFF

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Sequence

    from streamer.settings import BrokerSettings
    from streamer.tracing import Tracing

log = structlog.get_logger(__name__)

LINGER_MS = 5
RETRY_S = 1.0
STOP_S = 10.0  # for a producer that is given up to fail what it still holds
MAX_RECORD_BYTES = topics.MAX_DEAD_LETTER_BYTES

_BROKEN = (OutOfOrderSequenceNumber, UnknownProducerId, InvalidProducerEpoch, ProducerFenced)
"""Errors after which a producer's numbers are of no use any more."""


class Publish(Protocol):
    """Returns once the broker has the record on enough replicas; retries for as long as it takes."""

    def __call__(
        self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> Awaitable[None]: ...


class Outbox:
    """A producer whose `send` returns when the broker has the record; a context manager, for any number of tasks."""

    def __init__(self, broker: BrokerSettings, *, linger_ms: int = LINGER_MS, tracing: Tracing = OFF) -> None:
        self._broker = broker
        self._tracing = tracing
        self._linger_ms = linger_ms
        self._stack = contextlib.AsyncExitStack()
        self._producer: AIOKafkaProducer
        self._renewal = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._producer = await self._stack.enter_async_context(self._connecting())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def send(
        self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """Return once every in-sync replica has the record.

        Raises:
            FatalError: record_too_large; no retry can help.
        """
        with self._tracing.sending(topic, key, value) as carried:
            await self._deliver(topic, key, value, [*headers, *carried])

    async def _deliver(self, topic: str, key: bytes | None, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        while True:
            kafka = self._producer
            try:
                delivery = await kafka.send(topic, value, key=key, headers=headers)
                await delivery
            except MessageSizeTooLargeError as error:
                advice = f"{topic}: {len(value)} bytes are more than its max.message.bytes; raise it"
                raise FatalError("record_too_large", advice) from error
            except KafkaError as error:
                log.warning("record.not_delivered", topic=topic, error=repr(error), retry_s=RETRY_S)
                await asyncio.sleep(RETRY_S)
                if isinstance(error, _BROKEN):
                    await self._renew(kafka)
            else:
                return

    async def _renew(self, broken: AIOKafkaProducer) -> None:
        """Let another producer take over from one that is broken, unless one has, or the broker is away."""
        async with self._renewal:
            if self._producer is not broken:
                return
            try:
                self._producer = await self._stack.enter_async_context(self._connecting())
            except (FatalError, KafkaError) as error:
                log.warning("producer.not_renewed", error=repr(error))
                return
            log.warning("producer.renewed")
            with contextlib.suppress(TimeoutError, KafkaError):  # what it holds has failed, and comes here again
                await asyncio.wait_for(broken.stop(), STOP_S)

    def _connecting(self) -> contextlib.AbstractAsyncContextManager[AIOKafkaProducer]:
        return producer(self._broker, linger_ms=self._linger_ms)


@contextlib.asynccontextmanager
async def producer(broker: BrokerSettings, **options: Any) -> AsyncGenerator[AIOKafkaProducer]:  # noqa: ANN401 - aiokafka's
    """Yield a connected producer: acks from all replicas, idempotent where the broker can.

    One that is not idempotent may store a retried batch twice.

    Raises:
        FatalError: broker_unreachable, settings_invalid, broker_refused.
    """
    with topics.connecting(broker):
        try:
            kafka = await _started(broker, options | {"enable_idempotence": True})
        except KafkaConnectionError:
            raise
        except KafkaError as error:  # a broker without producer ids, or credentials without IdempotentWrite
            log.info("producer.not_idempotent", reason=repr(error))
            kafka = await _started(broker, options)
    try:
        yield kafka
    finally:
        await kafka.stop()


async def _started(broker: BrokerSettings, options: dict[str, Any]) -> AIOKafkaProducer:
    chosen: dict[str, Any] = topics.client_kwargs(broker) | {"linger_ms": LINGER_MS} | options
    kafka = AIOKafkaProducer(acks="all", max_request_size=MAX_RECORD_BYTES, **chosen)
    try:
        await asyncio.wait_for(kafka.start(), topics.CONNECT_TIMEOUT_S)
    except BaseException:
        await kafka.stop()
        raise
    return kafka
