"""How far a run has got, asked of the broker again and again while it runs; the broker may be away."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import TypeVar

    from streamer.settings import TopicSettings

    T = TypeVar("T")

ANSWER_S = 5.0
_STATE = 2  # of a group, in the answer to DescribeGroups


class Watch:
    """Looks on; an async context manager.

    Args:
        bootstrap: of the broker.
        names: of the topics.
        group: of the workers.
        partitions: of each topic.
    """

    def __init__(self, bootstrap: str, names: TopicSettings, group: str, partitions: int) -> None:
        self._bootstrap, self._group = bootstrap, group
        self._consumed = [TopicPartition(name, p) for name in (names.updates, names.scores) for p in range(partitions)]
        self._outcomes = [
            TopicPartition(name, p) for name in (names.scores, names.dead_letters) for p in range(partitions)
        ]
        self._updates = names.updates
        self._consumer: AIOKafkaConsumer[bytes, bytes]
        self._admin: AIOKafkaAdminClient

    async def __aenter__(self) -> Self:
        options = {"bootstrap_servers": self._bootstrap, "request_timeout_ms": int(ANSWER_S * 1000)}
        self._consumer = AIOKafkaConsumer(**options)
        await self._consumer.start()
        self._admin = AIOKafkaAdminClient(**options)
        await self._admin.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._admin.close()
        await self._consumer.stop()

    async def outcomes(self) -> int:
        """Return how many outcomes there are; 0 while the broker does not answer."""
        ends = await _asked(self._consumer.end_offsets(self._outcomes))
        return sum((ends or {}).values())

    async def committed(self) -> int | None:
        """Return how many updates the group has committed, None while the broker does not answer."""
        found = await _asked(self._admin.list_consumer_group_offsets(self._group))
        if found is None:
            return None
        return sum(max(at.offset, 0) for tp, at in found.items() if tp.topic == self._updates)

    async def lag(self) -> int | None:
        """Return how many records of updates and scores are not committed, None while the broker does not answer."""
        ends = await _asked(self._consumer.end_offsets(self._consumed))
        found = await _asked(self._admin.list_consumer_group_offsets(self._group))
        if ends is None or found is None:
            return None
        return sum(end - (max(found[tp].offset, 0) if tp in found else 0) for tp, end in ends.items())

    async def rebalancing(self) -> bool:
        """Whether the group is giving its partitions to others just now."""
        answers = await _asked(self._admin.describe_consumer_groups([self._group]))
        return bool(answers) and answers[0].groups[0][_STATE] in ("PreparingRebalance", "CompletingRebalance")


async def _asked(question: Awaitable[T]) -> T | None:
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(ANSWER_S):
            return await question
    return None
