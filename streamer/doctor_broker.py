"""The doctor's questions to Kafka: does it answer, are the topics there, does anyone work, do the clocks agree.

The broker is only read, except by the clock check: it creates a topic of its own, writes into it and deletes it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import ApiVersionRequest

from streamer import topics
from streamer.errors import StreamerError
from streamer.findings import Finding, failure
from streamer.records import MAX_UNPACKED_BYTES

if TYPE_CHECKING:
    from collections.abc import Container, Coroutine, Mapping

    from aiokafka.admin import AIOKafkaAdminClient

    from streamer.settings import BrokerSettings, Settings

CHECK_TIMEOUT_S = 20.0  # one check; a busy cluster creates a topic in a few seconds
MAX_CLOCK_SKEW_S = 1.0  # above it, latencies from publish to alert mean nothing
CLOCK_ROUNDS = 5
LOG_APPEND_TIME = 1  # the broker's own clock, in a record's timestamp_type
FETCH_API = 1
_UNPACKED_MIB = MAX_UNPACKED_BYTES >> 20


async def examine(settings: Settings, *, read_only: bool = False) -> list[Finding]:
    """Check what a worker needs of Kafka; when it does not answer, nothing else is asked."""
    reached = await _checked("broker", reach(settings.broker))
    if reached[0].status == "fail":
        return [*reached, *(Finding(name, "skipped", "no broker to ask") for name in ("topics", "group", "clock"))]
    findings = reached + await _checked("topics", topics_exist(settings)) + await _checked("group", group(settings))
    if read_only:
        return [*findings, Finding("clock", "skipped", "not checked: --read-only")]
    return findings + await _checked("clock", clock(settings.broker))


async def _checked(name: str, check: Coroutine[Any, Any, list[Finding]]) -> list[Finding]:
    try:
        return await asyncio.wait_for(check, CHECK_TIMEOUT_S)
    except StreamerError as error:
        return [failure(name, error, "no worker can run before this is repaired")]
    except (KafkaError, TimeoutError) as error:
        return [failure(name, error, "the broker refused, or did not answer in time: see its log and its ACLs")]


async def reach(broker_settings: BrokerSettings) -> list[Finding]:
    """Connect, and name what answered."""
    started = time.perf_counter()
    async with topics.admin(broker_settings) as client:
        cluster = await client.describe_cluster()
    answered_ms = (time.perf_counter() - started) * 1000
    low, high = await _fetch_versions(broker_settings)
    found = f"{broker_settings.bootstrap} answered in {answered_ms:.0f} ms: cluster {cluster['cluster_id']}, "
    return [Finding("broker", "ok", f"{found}{len(cluster['brokers'])} broker(s), Fetch API {low} to {high}")]


async def _fetch_versions(broker_settings: BrokerSettings) -> tuple[int, int]:
    """Return the range that tells brokers apart: Apache Kafka 4 begins at 4, older ones and other brokers at 0."""
    client = AIOKafkaClient(**topics.client_kwargs(broker_settings))
    try:
        with topics.connecting(broker_settings):
            await client.bootstrap()
        response: Any = await client.send(client.get_random_node(), ApiVersionRequest())
        return next((low, high) for key, low, high in response.api_versions if key == FETCH_API)
    finally:
        await client.close()


async def topics_exist(settings: Settings) -> list[Finding]:
    """Compare the topics with the settings."""
    async with topics.admin(settings.broker) as client:
        existing = await topics.describe(client)
        findings = await _packing(client, settings, existing)
    needed = topics.stream_specs(settings.topics)
    findings = [
        judge_topic(spec, existing.get(spec.name), needed=spec in needed) for spec in topics.specs(settings.topics)
    ] + findings
    updates, scores = existing.get(settings.topics.updates), existing.get(settings.topics.scores)
    if updates and scores and updates.partitions != scores.partitions:
        found = f"{updates.partitions} partitions of {updates.name}, {scores.partitions} of {scores.name}"
        findings.append(Finding("topics", "warn", found, "give both the same count, so that workers share both evenly"))
    return findings


def judge_topic(spec: topics.TopicSpec, state: topics.TopicState | None, *, needed: bool = True) -> Finding:
    """Say whether the topic is there, and where it differs from the settings; scorers alone do without some."""
    check = f"topic {spec.name}"
    if state is None and not needed:
        advice = "releases, shadow trials, reviews and labels need it: streamer topics create"
        return Finding(check, "warn", "does not exist", advice)
    if state is None:
        return Finding(check, "fail", "does not exist", "create it: streamer topics create")
    found = f"{state.partitions} partitions, {state.replication} copies"
    differences = topics.differences(spec, state)
    return Finding(check, "warn" if differences else "ok", found, "; ".join(differences))


async def _packing(client: AIOKafkaAdminClient, settings: Settings, existing: Container[str]) -> list[Finding]:
    """Warn of topics that keep what others packed; brokers that do not tell are not judged."""
    wanted = [
        spec for spec in topics.specs(settings.topics) if topics.UNPACKED_BY_THE_BROKER.items() <= spec.config.items()
    ]
    names = [spec.name for spec in wanted if spec.name in existing]
    given = await topics.settings_of(client, names)
    return [
        found
        for name in names
        if (found := judge_packing(name, given.get(name, {}), settings.broker.bootstrap)) is not None
    ]


def judge_packing(name: str, given: Mapping[str, str | None], bootstrap: str) -> Finding | None:
    """Say whether the broker stores the topic's batches as they were packed, and how to end that."""
    ((setting, wanted),) = topics.UNPACKED_BY_THE_BROKER.items()
    if given.get(setting, wanted) == wanted:
        return None
    found = (
        f"{setting}={given[setting]}: max.message.bytes limits packed bytes, workers unpack up to {_UNPACKED_MIB} MiB"
    )
    change = f"--entity-type topics --entity-name {name} --add-config {setting}={wanted}"
    return Finding(f"topic {name}", "warn", found, f"kafka-configs.sh --bootstrap-server {bootstrap} --alter {change}")


async def group(settings: Settings) -> list[Finding]:
    """Say how many updates wait for the group, and whether anyone works on them."""
    name = settings.broker.group
    waiting, committed = await _lag(settings)
    members = await _members(settings.broker)
    found = f"{name}: {waiting:,} updates wait" + ("" if committed else ", nothing committed yet")
    if members is None:
        return [Finding("group", "ok", f"{found}; this broker does not tell its members")]
    found = f"{found}, {members} member(s)"
    if waiting and not members:
        return [Finding("group", "warn", found, "start a worker: streamer score")]
    return [Finding("group", "ok", found)]


async def _lag(settings: Settings) -> tuple[int, bool]:
    """Return records of product-updates past the committed offsets, and whether any offset is committed."""
    async with topics.admin(settings.broker) as client:
        updates = (await topics.describe(client)).get(settings.topics.updates)
    partitions = [TopicPartition(settings.topics.updates, n) for n in range(updates.partitions if updates else 0)]
    if not partitions:
        return 0, False
    consumer: Any = AIOKafkaConsumer(
        **topics.client_kwargs(settings.broker), group_id=settings.broker.group, enable_auto_commit=False
    )
    try:
        with topics.connecting(settings.broker):
            await consumer.start()
        consumer.assign(partitions)  # assigned, not subscribed: the group is asked, not joined
        ends, begins = await consumer.end_offsets(partitions), await consumer.beginning_offsets(partitions)
        offsets = {partition: await consumer.committed(partition) for partition in partitions}
    finally:
        await consumer.stop()
    waiting = sum(max(0, ends[p] - (begins[p] if offsets[p] is None else offsets[p])) for p in partitions)
    return waiting, any(offset is not None for offset in offsets.values())


async def _members(broker_settings: BrokerSettings) -> int | None:
    try:
        async with topics.admin(broker_settings) as client:
            (response,) = await client.describe_consumer_groups([broker_settings.group])
    except StreamerError:
        return None
    described: Any = response
    return len(described.groups[0][5])  # error_code, group, state, protocol_type, protocol, members


async def clock(broker_settings: BrokerSettings) -> list[Finding]:
    """Compare this machine's clock with the one the broker stamps a record with (LogAppendTime).

    Kafka has no request that tells the time, and topics usually keep the producer's: hence a topic of its own.
    """
    name = f"{broker_settings.group}-doctor-{uuid.uuid4().hex[:8]}"
    topic = NewTopic(name, 1, 1, topic_configs={"message.timestamp.type": "LogAppendTime", "retention.ms": "3600000"})
    async with topics.admin(broker_settings) as client:
        created: Any = await client.create_topics([topic])
        code, message = created.topic_errors[0][1:3]
        if code:
            return [Finding("clock", "skipped", f"not checked: the topic {name} was refused: {message}")]
        try:
            skew_s = await _skew_s(broker_settings, name)
        finally:
            await client.delete_topics([name])
    return [judge_skew(skew_s)]


def judge_skew(skew_s: float | None) -> Finding:
    """Say whether the clocks agree; `skew_s` is the broker's time minus this machine's."""
    if skew_s is None:
        return Finding("clock", "skipped", "not checked: this broker does not stamp records with its own clock")
    found = f"{abs(skew_s) * 1000:.0f} ms {'behind' if skew_s > 0 else 'ahead of'} the broker"
    if abs(skew_s) > MAX_CLOCK_SKEW_S:
        return Finding(
            "clock", "warn", found, "synchronise both (chrony, NTP): latencies and alert times are off by it"
        )
    return Finding("clock", "ok", found)


async def _skew_s(broker_settings: BrokerSettings, topic: str) -> float | None:
    """Return broker minus local time, taken at the middle of the request with the shortest round trip."""
    producer = AIOKafkaProducer(**topics.client_kwargs(broker_settings))
    rounds: list[tuple[float, float]] = []
    try:
        with topics.connecting(broker_settings):
            await producer.start()
        await producer.send_and_wait(topic, b"warm: the first request also waits for metadata")
        for _ in range(CLOCK_ROUNDS):
            sent = time.time()
            record = await producer.send_and_wait(topic, b"what time is it?")
            received = time.time()
            if record.timestamp_type != LOG_APPEND_TIME:
                return None
            rounds.append((received - sent, record.timestamp / 1000 - (sent + received) / 2))
    finally:
        await producer.stop()
    return min(rounds)[1]
