"""`streamer.membership`: no answer is taken for "nothing committed", and who is no member commits nothing."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, GroupAuthorizationFailedError
from aiokafka.protocol.commit import OffsetFetchRequest, OffsetFetchResponse_v3

from streamer.membership import make_strict
from tests.brokers import committed, create_topics, produce

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.brokers import Kafka

GROUP = "members"
LOADING, NOT_AVAILABLE, MOVED, FORBIDDEN = 14, 15, 16, 30


@asynccontextmanager
async def one_who_stands_outside(kafka: Kafka, topic: str) -> AsyncIterator[Any]:
    """Give a consumer that names the group without having joined it, as one whose session has ended."""
    consumer: Any = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=GROUP, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        yield consumer
    finally:
        await consumer.stop()


async def topic_with_a_commit(kafka: Kafka, topic: str) -> TopicPartition:
    """Make a topic of ten records, of which the group has committed seven."""
    await create_topics(kafka.bootstrap, topic)
    await produce(kafka.bootstrap, topic, [(b"k", b"v")] * 10)
    partition = TopicPartition(topic, 0)
    async with one_who_stands_outside(kafka, topic) as consumer:
        await consumer.commit({partition: 7})
    return partition


def answer_first(consumer: Any, *codes: int) -> list[int]:  # noqa: ANN401 - reaches into aiokafka
    """Let the broker answer the first questions about offsets with these codes; return those not yet answered."""
    left, send = list(codes), consumer._client.send

    async def send_or_answer(node: int, request: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
        if left and isinstance(request, OffsetFetchRequest):
            return OffsetFetchResponse_v3(0, [], left.pop(0))
        return await send(node, request, **kwargs)

    consumer._client.send = send_or_answer
    return left


async def test_committed_broker_is_loading_waits_for_the_offset(kafka: Kafka) -> None:
    """By itself aiokafka says that nothing was committed; made strict it asks again until there is an answer."""
    partition = await topic_with_a_commit(kafka, "loading")
    async with one_who_stands_outside(kafka, "loading") as consumer:
        answer_first(consumer, LOADING)
        assert await consumer.committed(partition) is None, "aiokafka reads the code now, `make_strict` can go"
        left = answer_first(consumer, LOADING, NOT_AVAILABLE, MOVED, LOADING)
        make_strict(consumer)
        assert await consumer.committed(partition) == 7
        assert left == []


async def test_committed_group_is_not_ours_to_ask_raises(kafka: Kafka) -> None:
    """What asking again does not mend ends in the broker's reason."""
    partition = await topic_with_a_commit(kafka, "forbidden")
    async with one_who_stands_outside(kafka, "forbidden") as consumer:
        answer_first(consumer, FORBIDDEN)
        make_strict(consumer)
        with pytest.raises(GroupAuthorizationFailedError):
            await consumer.committed(partition)


async def test_commit_of_one_who_is_no_member_is_refused(kafka: Kafka) -> None:
    """The broker would take it, as the group is empty, and others' commits would be taken back."""
    partition = await topic_with_a_commit(kafka, "outside")
    async with one_who_stands_outside(kafka, "outside") as consumer:
        make_strict(consumer)
        with pytest.raises(CommitFailedError):
            await consumer.commit({partition: 2})
    assert await committed(kafka.bootstrap, GROUP, "outside") == {0: 7}


async def test_member_made_strict_commits_as_before(kafka: Kafka) -> None:
    """Who has joined is hindered by nothing."""
    partition = await topic_with_a_commit(kafka, "inside")
    consumer: Any = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap, group_id=GROUP, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        make_strict(consumer)
        consumer.subscribe(["inside"])
        await consumer.getone()
        await consumer.commit({partition: 8})
    finally:
        await consumer.stop()
    assert await committed(kafka.bootstrap, GROUP, "inside") == {0: 8}
