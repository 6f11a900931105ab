"""A log that ends before what the group has committed, as after an unclean election or a topic made anew."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.console import Console

from streamer.demo.cluster import run_cluster
from streamer.demo.worker import running_worker, settings_variables
from tests.brokers import committed, produce, read_count

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.settings import BrokerSettings
    from tests.brokers import GivenKafka, Kafka

PARTITION, COMMITTED = 0, 40


async def commit(broker: BrokerSettings, topic: str) -> None:
    """Let the group have read what is not there."""
    member: Any = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=broker.group, enable_auto_commit=False)
    await member.start()
    try:
        member.assign([TopicPartition(topic, PARTITION)])
        await member.commit({TopicPartition(topic, PARTITION): COMMITTED})
    finally:
        await member.stop()


def updates(*numbers: int) -> list[tuple[bytes, bytes, int]]:
    """Return updates without a picture: rejected at once."""
    return [(b"p", orjson.dumps({"id": "p", "version": n, "title": "a mug"}), PARTITION) for n in numbers]


async def test_log_that_ends_before_what_was_committed_is_read_from_its_beginning(
    kafka: Kafka | GivenKafka, tmp_path: Path
) -> None:
    """Nothing of it, nor of what is written then, goes without an outcome; what is committed goes back to it."""
    async with run_cluster(kafka.bootstrap, Console(file=StringIO())) as cluster, aiohttp.ClientSession() as session:
        topic = cluster.names.updates
        await produce(kafka.bootstrap, topic, updates(1, 2, 3))
        await commit(cluster.broker, topic)
        sections = {"broker": cluster.broker, "topics": cluster.names}
        with running_worker(settings_variables(sections), tmp_path / "worker.log") as worker:
            await worker.wait_until_ready(session)
            await read_count(kafka.bootstrap, cluster.names.dead_letters, 3)
            await produce(kafka.bootstrap, topic, updates(4, 5))
            letters = await read_count(kafka.bootstrap, cluster.names.dead_letters, 5)
        log = (tmp_path / "worker.log").read_text()
        assert (await committed(kafka.bootstrap, cluster.broker.group, topic))[PARTITION] == 5
    sources = sorted(orjson.loads(letter.value or b"")["source"]["offset"] for letter in letters)
    assert sources == [0, 1, 2, 3, 4]
    assert log.count("partition.cut_short") == 1
