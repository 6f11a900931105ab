"""`streamer doctor`: is everything here that a worker needs, and if not, what to do about it.

Each check ends in a Finding; none raises for what it was made to find. The broker is only read, except by the clock
check, which creates a topic of its own, writes one record into it and deletes it.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import statistics
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import ApiVersionRequest

from engines.contract import Batch, Engine, Manifest
from engines.errors import EngineError
from streamer import settings as settings_module
from streamer import topics
from streamer.errors import StreamerError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from streamer.settings import BrokerSettings, EngineSettings, Settings

CHECK_TIMEOUT_S = 20.0  # one check of the broker; a busy cluster creates a topic in a few seconds
MAX_CLOCK_SKEW_S = 1.0  # above it, latencies from publish to alert mean nothing
MIN_FREE_BYTES = 512 * 2**20  # a worker with the engine that ships stays below 400 MB
TIMED_RUNS = 5
LOG_APPEND_TIME = 1  # the broker's own clock, in a record's timestamp_type
FETCH_API = 1

Status = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One check: what was found in words, and what to do unless all is well."""

    check: str
    status: Status
    found: str
    advice: str = ""


def examine(*, read_only: bool = False, **overrides: Any) -> list[Finding]:  # noqa: ANN401 - sections of settings
    """Return every finding, in the order of a worker's start; `read_only` leaves the clock out."""
    findings = [machine(), onnxruntime()]
    try:
        settings = settings_module.load(**overrides)
    except StreamerError as error:
        return [*findings, _failure("settings", error, "correct the variables; `streamer settings` lists all of them")]
    findings.append(Finding("settings", "ok", f"valid; group {settings.broker.group}"))
    if findings[1].status == "ok":
        findings += engine(settings.engine)
    return findings + asyncio.run(broker(settings, read_only=read_only))


def _failure(check: str, error: Exception, advice: str) -> Finding:
    code = getattr(error, "code", type(error).__name__)
    return Finding(check, "fail", f"{code}: {error}", advice)


def machine() -> Finding:
    """Count the cores this process may use, and the memory that is free within its limits."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = _free_bytes()
    if free is None:
        return Finding("machine", "skipped", f"{cores} cores; free memory is not known on this system")
    found = f"{cores} cores, {free / 2**20:,.0f} MB free"
    if free < MIN_FREE_BYTES:
        return Finding("machine", "warn", found, f"a worker needs about {MIN_FREE_BYTES >> 20} MB: free some, or move")
    return Finding("machine", "ok", found)


def _free_bytes() -> int | None:
    """Return what the kernel says is available, or what the container's limit leaves when that is less."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - used)


def onnxruntime() -> Finding:
    """Name the runtime's version and what it can run on."""
    try:
        runtime: Any = importlib.import_module("onnxruntime")  # a broken installation is a finding, not a crash
    except ImportError as error:
        return _failure("onnxruntime", error, "install it again: pip install --force-reinstall onnxruntime")
    return Finding("onnxruntime", "ok", f"{runtime.__version__}; {', '.join(runtime.get_available_providers())}")


def engine(settings: EngineSettings) -> list[Finding]:
    """Verify the release, load it, and time it on blank pairs."""
    from engines import releases  # noqa: PLC0415 - the runtime is loaded for this check only
    from engines.runtime import loader  # noqa: PLC0415

    directory = settings.release or releases.shipped()
    try:
        manifest = releases.verify(directory)
    except EngineError as error:
        advice = "STREAMER_ENGINE__RELEASE or --release names a release directory; fetch or build it again"
        return [
            _failure("release", error, advice),
            Finding("engine", "skipped", "not loaded: its release is not whole"),
        ]
    release = Finding("release", "ok", f"{manifest.release}, every digest as in its manifest ({directory})")
    try:
        started = time.perf_counter()
        loaded = loader.load(directory, threads=settings.threads, max_batch=settings.max_batch)
        load_s = time.perf_counter() - started
    except EngineError as error:
        return [release, _failure("engine", error, "this release does not run on this machine: see its message")]
    try:
        return [release, time_engine(loaded, load_s)]
    except EngineError as error:
        return [release, _failure("engine", error, "the model loads but does not score: build the release again")]
    finally:
        loaded.close()


def time_engine(loaded: Engine, load_s: float) -> Finding:
    """Score blank pairs, alone and in full batches; `load_s` is how long loading took.

    Raises:
        InferenceFailed: the engine does not score.
    """
    one = _ms_per_pair(loaded, 1)
    many = loaded.manifest.max_batch
    found = f"{loaded.device}, loaded in {load_s:.1f} s; {one:.1f} ms a pair alone"
    return Finding("engine", "ok", f"{found}, {_ms_per_pair(loaded, many):.1f} ms in batches of {many}")


def _ms_per_pair(loaded: Engine, pairs: int) -> float:
    batch = blank(loaded.manifest, pairs)
    loaded.infer(batch)  # the first run of a new shape allocates
    times_s: list[float] = []
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        loaded.infer(batch)
        times_s.append(time.perf_counter() - started)
    return statistics.median(times_s) * 1000 / pairs


def blank(manifest: Manifest, pairs: int) -> Batch:
    """Return white pictures beside texts of one repeated token: enough to run, nothing to judge."""
    image, tokens = manifest.image, manifest.text.max_tokens
    return Batch(
        pixel_values=np.full((pairs, 3, image.height, image.width), 255, dtype=np.uint8),
        input_ids=np.ones((pairs, tokens), dtype=np.int32),
        attention_mask=np.ones((pairs, tokens), dtype=np.int32),
    )


async def broker(settings: Settings, *, read_only: bool = False) -> list[Finding]:
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
        return [_failure(name, error, "no worker can run before this is repaired")]
    except (KafkaError, TimeoutError) as error:
        return [_failure(name, error, "the broker refused, or did not answer in time: see its log and its ACLs")]


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
    findings = [judge_topic(spec, existing.get(spec.name)) for spec in topics.specs(settings.topics)]
    updates, scores = existing.get(settings.topics.updates), existing.get(settings.topics.scores)
    if updates and scores and updates.partitions != scores.partitions:
        found = f"{updates.partitions} partitions of {updates.name}, {scores.partitions} of {scores.name}"
        findings.append(Finding("topics", "warn", found, "give both the same count, so that workers share both evenly"))
    return findings


def judge_topic(spec: topics.TopicSpec, state: topics.TopicState | None) -> Finding:
    """Say whether the topic is there, and where it differs from the settings."""
    check = f"topic {spec.name}"
    if state is None:
        return Finding(check, "fail", "does not exist", "create it: streamer topics create")
    found = f"{state.partitions} partitions, {state.replication} copies"
    differences = topics.differences(spec, state)
    return Finding(check, "warn" if differences else "ok", found, "; ".join(differences))


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
        for _ in range(TIMED_RUNS):
            sent = time.time()
            record = await producer.send_and_wait(topic, b"what time is it?")
            received = time.time()
            if record.timestamp_type != LOG_APPEND_TIME:
                return None
            rounds.append((received - sent, record.timestamp / 1000 - (sent + received) / 2))
    finally:
        await producer.stop()
    return min(rounds)[1]
