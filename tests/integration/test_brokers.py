"""The brokers that tests stand on, and what the embedded one can do."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer

from streamer.demo import broker as embedded
from streamer.demo.broker import EmbeddedBroker
from streamer.errors import FatalError
from tests.brokers import committed, create_topics, end_offsets, produce, read_all, read_count

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import Broker, Kafka

RECORDS = [(b"a", b"1"), (b"b", None), (None, b"3"), (b"a", b"4")]


async def commit_all(bootstrap: str, group: str, topic: str, count: int) -> None:
    """Consume `count` records as a member of the group and commit them."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        seen = 0
        while seen < count:
            seen += sum(map(len, (await consumer.getmany(timeout_ms=200)).values()))
        await consumer.commit()
    finally:
        await consumer.stop()


@pytest.fixture(params=["tansu", "kafka"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each broker in turn."""
    return request.getfixturevalue(request.param)


async def test_broker_given_records_returns_them(broker: Broker) -> None:
    """Keys, values and null values come back as they were sent."""
    await create_topics(broker.bootstrap, "given", partitions=3)
    await produce(broker.bootstrap, "given", RECORDS)
    records = await read_count(broker.bootstrap, "given", len(RECORDS))
    assert sorted((r.key or b"", r.value or b"") for r in records) == [
        (b"", b"3"),
        (b"a", b"1"),
        (b"a", b"4"),
        (b"b", b""),
    ]


async def test_broker_group_commits_and_shows_offsets(broker: Broker) -> None:
    """What a group commits is what `committed` returns; before that it is None."""
    await create_topics(broker.bootstrap, "grouped")
    await produce(broker.bootstrap, "grouped", RECORDS)
    assert await committed(broker.bootstrap, "readers", "grouped") == {0: None}
    await commit_all(broker.bootstrap, "readers", "grouped", len(RECORDS))
    assert await committed(broker.bootstrap, "readers", "grouped") == {0: len(RECORDS)}


async def test_kafka_read_all_ends_at_end_offsets(kafka: Kafka) -> None:
    """Empty partitions are no obstacle, and every record below the end offsets is there."""
    await create_topics(kafka.bootstrap, "whole", partitions=3)
    assert await read_all(kafka.bootstrap, "whole") == []
    await produce(kafka.bootstrap, "whole", [(b"k", str(n).encode(), n % 2) for n in range(1000)])
    assert await end_offsets(kafka.bootstrap, "whole") == {0: 500, 1: 500, 2: 0}
    assert len(await read_all(kafka.bootstrap, "whole")) == 1000


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_kafka_started_again_keeps_its_data(kafka: Kafka, end: str) -> None:
    """A stop and a kill leave the records, on the same address."""
    topic = f"kept-{end}"
    await create_topics(kafka.bootstrap, topic)
    await produce(kafka.bootstrap, topic, RECORDS)
    with getattr(kafka, end)():
        pass
    assert len(await read_all(kafka.bootstrap, topic)) == len(RECORDS)


def test_embedded_broker_listens_on_loopback_only(tansu: EmbeddedBroker) -> None:
    """Nobody else on the network can reach it."""
    port = int(tansu.bootstrap.removeprefix("127.0.0.1:"))
    with pytest.raises(OSError):  # noqa: PT011 - refused on Linux, where 127.0.0.2 exists; unreachable elsewhere
        socket.create_connection(("127.0.0.2", port), timeout=1)


def test_embedded_broker_block_raises_process_ends() -> None:
    """The child is gone when the block is left, also by an exception."""
    with pytest.raises(ZeroDivisionError), EmbeddedBroker() as broker:  # noqa: PT012 - the pid is known only inside
        pid = broker.pid
        _ = 1 / 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_embedded_broker_parent_killed_process_ends() -> None:
    """A parent that dies without cleaning up leaves no broker behind."""
    code = "from streamer.demo.broker import *; b = EmbeddedBroker().__enter__(); print(b.pid, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        descriptor = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    readable, _, _ = select.select([descriptor], [], [], 5)  # a pidfd is readable once its process has ended
    os.close(descriptor)
    assert readable


def test_embedded_broker_program_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A binary that cannot run here ends in advice, not in a hang."""
    program = tmp_path / "tansu"
    program.write_text("#!/bin/sh\necho wrong architecture\nexit 126\n")
    program.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(program))
    with pytest.raises(FatalError, match=r"(?s)126: wrong architecture.*--bootstrap") as caught, EmbeddedBroker():
        pass
    assert caught.value.code == "broker_unavailable"


def test_answers_other_cluster_is_no_answer(tansu: EmbeddedBroker) -> None:
    """A broker on the port that is not ours does not count."""
    port = int(tansu.bootstrap.removeprefix("127.0.0.1:"))
    assert embedded.answers(port, "embedded-")
    assert not embedded.answers(port, "another-cluster")


def test_embedded_broker_program_hangs_gives_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A binary that never answers is ended when its time is over."""
    program = tmp_path / "tansu"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(program))
    with pytest.raises(FatalError, match="does not answer") as caught, EmbeddedBroker(startup_timeout_s=0.1):
        pass
    assert caught.value.code == "broker_unavailable"
