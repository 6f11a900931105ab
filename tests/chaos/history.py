"""What a run left behind, read from the broker: every record with the broker's own time, and every commit there was."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from tests import brokers

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

    from streamer.settings import TopicSettings
    from tests.chaos.traffic import Event

Position = tuple[int, int]
"""Partition and offset."""

CHANGELOG = "alert-state-changelog"
OFFSETS_TOPIC = "__consumer_offsets"
NUMBER = "number"
"""The header that names an event by its place in the traffic."""


@dataclass(frozen=True, slots=True)
class Published:
    """One record of product-updates: the event that it is, when the broker had it, and its number in the traffic."""

    event: Event
    at_ms: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """One record that the workers wrote; `source` is the position of the update that it came of, None in an alert."""

    position: Position
    at_ms: int
    body: dict[str, Any]
    source: Position | None


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of the group, in the order of the broker's log."""

    partition: int
    offset: int
    at_ms: int


@dataclass
class History:
    """Everything that there is to judge a run by; records of a partition are in its order.

    Attributes:
        updates: by position.
        commits: by topic, "updates" or "scores".
        states: what the alert agent would know of each product if it began anew, by its table's changelog.
        lag: by partition, what was not committed when the run was over.
    """

    updates: dict[Position, Published] = field(default_factory=dict)
    scores: list[Record] = field(default_factory=list)
    dead_letters: list[Record] = field(default_factory=list)
    alerts: list[Record] = field(default_factory=list)
    commits: dict[str, list[Commit]] = field(default_factory=lambda: defaultdict(list))
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    lag: dict[str, int] = field(default_factory=dict)


async def read(bootstrap: str, topics: TopicSettings, group: str, events: list[Event]) -> History:
    """Return the history of a run whose workers have settled."""
    updates, scores, dead, alerts = await asyncio.gather(
        *(
            brokers.read_all(bootstrap, name)
            for name in (topics.updates, topics.scores, topics.dead_letters, topics.alerts)
        )
    )
    return History(
        updates={(r.partition, r.offset): Published(events[_number(r)], r.timestamp, _number(r)) for r in updates},
        scores=[_record(r) for r in scores],
        dead_letters=[_record(r) for r in dead],
        alerts=[_record(r) for r in alerts],
        commits=await _commits(bootstrap, group, {topics.updates: "updates", topics.scores: "scores"}),
        states=_states(await brokers.read_all(bootstrap, f"{group}-{CHANGELOG}")),
        lag=await lag(bootstrap, topics, group),
    )


def _states(changes: list[ConsumerRecord[Any, Any]]) -> dict[str, dict[str, Any]]:
    """Return what recovery keeps: of each product's changes the last one of the highest generation."""
    states: dict[str, dict[str, Any]] = {}
    for change in changes:
        product, entry = orjson.loads(change.key), orjson.loads(change.value)
        if entry["generation"] >= states.get(product, entry)["generation"]:
            states[product] = entry
    return states


async def lag(bootstrap: str, topics: TopicSettings, group: str) -> dict[str, int]:
    """Return how many records of each partition are not committed; partitions where all are, are left out."""
    behind = {}
    for topic in (topics.updates, topics.scores):
        ends, committed = await asyncio.gather(
            brokers.end_offsets(bootstrap, topic), brokers.committed(bootstrap, group, topic)
        )
        behind |= {f"{topic}-{p}": left for p, end in ends.items() if (left := end - (committed[p] or 0))}
    return behind


def _number(record: ConsumerRecord[Any, Any]) -> int:
    return int(dict(record.headers)[NUMBER])


def _record(record: ConsumerRecord[Any, Any]) -> Record:
    body = orjson.loads(record.value or b"")
    source = body.get("source")
    position = (source["partition"], source["offset"]) if isinstance(source, dict) else None
    return Record((record.partition, record.offset), record.timestamp, body, position)


async def _commits(bootstrap: str, group: str, names: dict[str, str]) -> dict[str, list[Commit]]:
    commits: dict[str, list[Commit]] = defaultdict(list)
    for record in await brokers.read_all(bootstrap, OFFSETS_TOPIC):
        key = _offset_key(record.key or b"")
        if key is None or record.value is None:
            continue
        owner, topic, partition = key
        if owner == group and topic in names:
            offset = int.from_bytes(record.value[2:10], "big", signed=True)
            commits[names[topic]].append(Commit(partition, offset, record.timestamp))
    return commits


def _offset_key(key: bytes) -> tuple[str, str, int] | None:
    """Return group, topic and partition of a commit's key; None where the record is something else.

    Source: Apache Kafka, group-coordinator/src/main/resources/common/message/OffsetCommitKey.json.
    """
    if int.from_bytes(key[:2], "big") > 1:
        return None
    group_ends = 4 + int.from_bytes(key[2:4], "big")
    topic_begins = group_ends + 2
    topic_ends = topic_begins + int.from_bytes(key[group_ends:topic_begins], "big")
    return key[4:group_ends].decode(), key[topic_begins:topic_ends].decode(), int.from_bytes(key[topic_ends:], "big")
