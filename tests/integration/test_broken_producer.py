"""A producer whose numbers the broker refuses, as after an outage in which it gave a batch up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.errors import OutOfOrderSequenceNumber
from aiokafka.structs import TopicPartition

from streamer.outbox import Outbox
from streamer.settings import BrokerSettings
from tests.brokers import create_topics, read_count

if TYPE_CHECKING:
    from tests.brokers import GivenKafka, Kafka


async def test_producer_with_a_gap_in_its_numbers_is_replaced_and_nothing_is_lost(kafka: Kafka | GivenKafka) -> None:
    """By itself it is refused for ever; many records that wait for it come once each, by one that takes over."""
    await create_topics(kafka.bootstrap, "numbered")
    async with Outbox(BrokerSettings(bootstrap=kafka.bootstrap)) as outbox:
        await outbox.send("numbered", b"k", b"0")
        broken: Any = outbox._producer
        broken._txn_manager.increment_sequence_number(TopicPartition("numbered", 0), 3)
        with pytest.raises(OutOfOrderSequenceNumber):
            await (await broken.send("numbered", b"refused", partition=0))
        await asyncio.wait_for(asyncio.gather(*(outbox.send("numbered", b"k", b"%d" % n) for n in range(1, 20))), 30)
        assert outbox._producer is not broken
    records = await read_count(kafka.bootstrap, "numbered", 20)
    assert sorted(int(record.value or b"") for record in records) == list(range(20))
