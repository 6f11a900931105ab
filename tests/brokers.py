"""Real brokers for tests, and what tests read from them: one Apache Kafka node, the embedded broker, whole topics."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import socket
import subprocess
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from streamer.demo.broker import LOOPBACK, answers, log_tail, spawn
from tests.priority import set_niceness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from aiokafka import ConsumerRecord

KAFKA_START_TIMEOUT_S = 180.0  # a start takes 3 s, on a machine that has nothing else to do
READ_TIMEOUT_S = 60.0

HOW_TO_GIVE_KAFKA = (
    "no Apache Kafka: set KAFKA_HOME to a folder with libs/*.jar (Java 17 on the PATH), or KAFKA_BOOTSTRAP to HOST:PORT"
)

# Key and value as they are on the wire; a third element is the partition.
Record = tuple[bytes | None, bytes | None] | tuple[bytes | None, bytes | None, int]


class Broker(Protocol):
    """What every test may use."""

    @property
    def bootstrap(self) -> str: ...


class GivenKafka:
    """A Kafka that runs already (KAFKA_BOOTSTRAP): its processes are not ours to stop."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def start(self) -> None:
        pytest.skip("stopping and starting the broker needs KAFKA_HOME, not KAFKA_BOOTSTRAP")

    stop = kill = start

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        self.start()
        yield

    killed = stopped


class Kafka:
    """One KRaft node on 127.0.0.1; its ports and data outlive a stop, a kill and a start.

    Args:
        home: a folder with libs/*.jar.
        directory: for its data.
        proxied: opens a second listener, `behind_proxy`, whose clients are sent to this port of 127.0.0.1.
        niceness: of its process; as it comes when None.
    """

    def __init__(self, home: Path, directory: Path, *, proxied: int | None = None, niceness: int | None = None) -> None:
        self._proxied, self._niceness = proxied, niceness
        self.behind_proxy = _lasting_port()
        self._classpath = f"{home}/libs/*"
        self._directory = directory
        self._port, self._controller_port = _lasting_port(), _lasting_port()
        self._cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"{LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "Kafka is not running"
        return self._process.pid

    def start(self) -> None:
        """Start the node, with the data that it has, and return once it answers; nothing to do when it runs."""
        if self._process is None:
            self.launch()
            self.wait_until_it_answers()

    def launch(self) -> None:
        """Start the node and return at once; it lives no longer than the thread that calls this."""
        if not self._config.exists():
            self._format()
        with self._log.open("ab+") as log:
            self._process = spawn(self._java("-Xmx512m", "kafka.Kafka", str(self._config)), log=log)
        if self._niceness is not None:
            set_niceness(self._process.pid, self._niceness)

    def wait_until_it_answers(self) -> None:
        """Return once a node that was launched takes requests; fail the test when it does not in time."""
        assert self._process is not None, "Kafka was not launched"
        deadline = time.monotonic() + KAFKA_START_TIMEOUT_S
        while not answers(self._port, self._cluster):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                with self._log.open("rb") as log:
                    pytest.fail(f"Apache Kafka did not start: {log_tail(log)}")
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM: the node closes its log in order."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
            self.kill()

    def kill(self) -> None:
        """SIGKILL: as a machine that loses its power, without losing its disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the node for the length of the block; it runs again afterwards, whatever the block raises."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextlib.contextmanager
    def killed(self) -> Iterator[None]:
        """Kill the node for the length of the block; it runs again afterwards, whatever the block raises."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    @property
    def _config(self) -> Path:
        return self._directory / "server.properties"

    @property
    def _log(self) -> Path:
        return self._directory / "server.log"

    def _java(self, heap: str, *arguments: str) -> list[str]:
        log4j = Path(__file__).with_name("log4j2.properties")
        options = [
            heap,
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xshare:auto",
            f"-Dlog4j2.configurationFile={log4j}",
        ]
        return ["java", *options, "-cp", self._classpath, *arguments]

    def _format(self) -> None:
        draft = self._config.with_suffix(".draft")
        draft.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
        command = self._java("-Xmx64m", "kafka.tools.StorageTool", "format", "-t", self._cluster, "-c", str(draft))
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=KAFKA_START_TIMEOUT_S, check=False)
        except OSError as error:
            pytest.fail(f"Apache Kafka needs Java 17 on the PATH: {error}")
        if done.returncode:
            pytest.fail(f"Apache Kafka could not format its storage: {done.stdout}{done.stderr}")
        draft.rename(self._config)

    def _properties(self) -> dict[str, str | int]:
        direct = f"PLAINTEXT://{self.bootstrap}"
        proxied = self._proxied is not None
        behind_proxy = f",PROXIED://{LOOPBACK}:{self.behind_proxy}" if proxied else ""
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{LOOPBACK}:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{direct}{behind_proxy},CONTROLLER://{LOOPBACK}:{self._controller_port}",
            "advertised.listeners": direct + (f",PROXIED://{LOOPBACK}:{self._proxied}" if proxied else ""),
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self._directory / "data"),
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": 4,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "log.cleaner.dedupe.buffer.size": 16 << 20,
        }


def _lasting_port() -> int:
    """Return a free port that no outgoing connection takes while the broker is away: one below the ephemeral range."""
    for port in random.sample(range(15_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((LOOPBACK, port))
            return port
    pytest.fail("no free port between 15000 and 32000")


def kafka_home() -> Path:
    """Return the folder of the Apache Kafka that KAFKA_HOME names; skip when it names none."""
    home = os.environ.get("KAFKA_HOME")
    if not home:
        pytest.skip(HOW_TO_GIVE_KAFKA)
    if not list(Path(home, "libs").glob("kafka-server-[0-9]*.jar")):
        pytest.fail(f"KAFKA_HOME={home} holds no Apache Kafka: there is no libs/kafka-server-*.jar")
    return Path(home).resolve()


@contextlib.contextmanager
def running_kafka(directory: Path) -> Iterator[Kafka | GivenKafka]:
    """Yield the Kafka that the environment names, started here when it names a folder; skip when it names none."""
    if bootstrap := os.environ.get("KAFKA_BOOTSTRAP"):
        yield GivenKafka(bootstrap)
        return
    kafka = Kafka(kafka_home(), directory)
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop()


async def create_topics(bootstrap: str, *names: str, partitions: int = 1, config: dict[str, str] | None = None) -> None:
    """Create the topics, and return once the broker's metadata shows them."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        topics = [NewTopic(name, partitions, 1, topic_configs=config or {}) for name in names]
        response = await admin.create_topics(topics)
        failed = [entry for entry in response.topic_errors if entry[1]]
        assert not failed, f"topics not created: {failed}"
        async with asyncio.timeout(READ_TIMEOUT_S):
            while not set(names) <= set(await admin.list_topics()):  # noqa: ASYNC110 - the broker calls nobody
                await asyncio.sleep(0.02)
    finally:
        await admin.close()


async def produce(bootstrap: str, topic: str, records: Iterable[Record]) -> None:
    """Send the records, each to its own partition or to the one its key names, and return when all are acknowledged."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=5, acks="all")
    await producer.start()
    try:
        sent = [
            await producer.send(topic, key=key, value=value, partition=partition[0] if partition else None)
            for key, value, *partition in records
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def end_offsets(bootstrap: str, topic: str) -> dict[int, int]:
    """Return the offset after the last record, by partition. Apache Kafka only: the embedded broker answers wrongly."""
    async with _reader(bootstrap, topic) as (consumer, partitions):
        ends = await consumer.end_offsets(partitions)
    return {partition.partition: offset for partition, offset in ends.items()}


async def committed(bootstrap: str, group: str, topic: str) -> dict[int, int | None]:
    """Return what the group has committed, by partition; None where it has committed nothing."""
    async with _reader(bootstrap, topic, group=group) as (consumer, partitions):
        return {partition.partition: await consumer.committed(partition) for partition in partitions}


async def read_all(bootstrap: str, topic: str) -> list[ConsumerRecord[bytes | None, bytes | None]]:
    """Return every record between the earliest and the end offsets of now, by partition and offset. Apache Kafka only.

    Raises:
        TimeoutError: no record came for READ_TIMEOUT_S.
    """
    async with _reader(bootstrap, topic) as (consumer, partitions), asyncio.timeout(READ_TIMEOUT_S) as patience:
        ends = await consumer.end_offsets(partitions)
        records = []
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            batches = await consumer.getmany(timeout_ms=200)
            records += [record for batch in batches.values() for record in batch]
            if batches:
                patience.reschedule(asyncio.get_running_loop().time() + READ_TIMEOUT_S)
    in_range = [record for record in records if record.offset < ends[TopicPartition(topic, record.partition)]]
    return sorted(in_range, key=lambda record: (record.partition, record.offset))


async def read_count(
    bootstrap: str, topic: str, count: int, *, timeout_s: float = READ_TIMEOUT_S
) -> list[ConsumerRecord[bytes | None, bytes | None]]:
    """Return all records of the topic as soon as there are `count`, by partition and offset. For any broker.

    Raises:
        AssertionError: there were fewer after `timeout_s`.
    """
    records: list[ConsumerRecord[bytes | None, bytes | None]] = []
    async with _reader(bootstrap, topic) as (consumer, _):
        deadline = time.monotonic() + timeout_s
        while len(records) < count:
            assert time.monotonic() < deadline, f"{len(records)} of {count} records in {topic} after {timeout_s:g} s"
            batches = await consumer.getmany(timeout_ms=200)
            records += [record for batch in batches.values() for record in batch]
    return sorted(records, key=lambda record: (record.partition, record.offset))


@contextlib.asynccontextmanager
async def _reader(
    bootstrap: str, topic: str, *, group: str | None = None
) -> AsyncIterator[tuple[AIOKafkaConsumer[bytes | None, bytes | None], list[TopicPartition]]]:
    """Yield a consumer at the beginning of every partition of the topic; it joins no group and commits nothing."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in await _partition_numbers(bootstrap, topic)]
        consumer.assign(partitions)
        if group is None:
            await consumer.seek_to_beginning(*partitions)
        yield consumer, partitions
    finally:
        await consumer.stop()


async def _partition_numbers(bootstrap: str, topic: str) -> list[int]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        (description,) = await admin.describe_topics([topic])
    finally:
        await admin.close()
    assert description["partitions"], f"there is no topic {topic}"
    return sorted(partition["partition"] for partition in description["partitions"])
