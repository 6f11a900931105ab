"""A feed on real brokers: whole, in order, the same twice, also when its run is killed."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from streamer import doctor_broker
from streamer.errors import FatalError
from streamer.publish import Published, PublishOptions, publish
from streamer.settings import BrokerSettings, Settings, TopicSettings
from streamer.topics import admin, create, describe, specs
from streamer.updates import parse_update
from tests.brokers import create_topics, read_all, read_count

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from streamer.demo.broker import EmbeddedBroker
    from streamer.errors import RejectedEvent
    from streamer.feeds import Feed
    from tests.brokers import Broker

ROWS = 4000
PRODUCTS = 500
KILL_DEADLINE_S = 60.0


class Nobody:
    """A watch that looks away."""

    def advanced(self, feed: Feed, published: Published) -> None:
        """Nothing to show."""

    def rejected(self, line: int, error: RejectedEvent) -> None:
        """Nothing to show."""


def write_feed(folder: Path) -> Path:
    """Write a feed in which each product stands several times, the last row being its newest."""
    path = folder / "feed.jsonl"
    rows = ({"id": f"p{n % PRODUCTS}", "title": f"row {n}"} for n in range(ROWS))
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def unique_topics() -> TopicSettings:
    """Return topics that no other test uses."""
    mark = uuid.uuid4().hex[:8]
    names = ("updates", "scores", "alerts", "dead_letters")
    return TopicSettings.model_validate({name: f"{name}-{mark}" for name in names} | {"partitions": 3})


def last_titles(records: Iterable[Any]) -> dict[str, str | None]:
    """Return what stands last for each product; a product's records are all in one partition."""
    updates = [parse_update(record.key, record.value) for record in records]
    return {update.id: update.title for update in updates}


def expected_titles() -> dict[str, str]:
    """Return the title of the last row of each product."""
    return {f"p{n % PRODUCTS}": f"row {n}" for n in range(ROWS)}


async def published(broker: Broker, options: PublishOptions) -> Published:
    """Create the topic and publish."""
    await create_topics(broker.bootstrap, options.topic, partitions=3)
    return await publish(options, BrokerSettings(bootstrap=broker.bootstrap), Nobody())


async def test_publish_on_the_embedded_broker_arrives_whole(tansu: EmbeddedBroker, tmp_path: Path) -> None:
    """A broker without producer ids gets the feed all the same."""
    done = await published(tansu, PublishOptions(feed=write_feed(tmp_path), topic="updates"))
    assert (done.sent, done.rejected, done.finished) == (ROWS, 0, True)
    records = await read_count(tansu.bootstrap, "updates", ROWS)
    assert last_titles(records) == expected_titles()


async def test_publish_on_kafka_arrives_once_and_in_order(kafka: Broker, tmp_path: Path) -> None:
    """Every row is in the topic once, and a product's rows in the order of the feed."""
    topic = unique_topics().updates
    done = await published(kafka, PublishOptions(feed=write_feed(tmp_path), topic=topic))
    assert done.finished
    records = await read_all(kafka.bootstrap, topic)
    assert len(records) == ROWS
    assert last_titles(records) == expected_titles()


async def test_publish_killed_and_started_again_loses_nothing(kafka: Broker, tmp_path: Path) -> None:
    """SIGKILL in the middle: the next run goes on after the last row counted, and repeats at most what was not."""
    feed, topic = write_feed(tmp_path), unique_topics().updates
    await create_topics(kafka.bootstrap, topic, partitions=3)
    options = PublishOptions(feed=feed, topic=topic)
    counted = kill_in_the_middle(kafka, options)
    done = await publish(options, BrokerSettings(bootstrap=kafka.bootstrap), Nobody())
    assert (done.resumed_at, done.sent, done.finished) == (counted, ROWS - counted, True)
    records = await read_all(kafka.bootstrap, topic)
    assert len(records) >= ROWS
    assert len({record.value for record in records}) == ROWS, "a row that was sent twice says the same twice"
    assert last_titles(records) == expected_titles()


def kill_in_the_middle(broker: Broker, options: PublishOptions) -> int:
    """Run the command slowly, kill it once it has counted something, and return the rows that it counted."""
    script = "from streamer.cli import main; main()"
    arguments = ["publish", str(options.feed), "--topic", options.topic, "--bootstrap", broker.bootstrap]
    command = [sys.executable, "-c", script, *arguments, "--rate", str(ROWS / 8)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + KILL_DEADLINE_S
        try:
            while not (rows := counted_rows(options)):
                assert process.poll() is None, "the command ended before it could be killed"
                assert time.monotonic() < deadline, "no row was counted"
                time.sleep(0.05)
        finally:
            process.kill()
    rows = counted_rows(options)
    assert 0 < rows < ROWS
    return rows


def counted_rows(options: PublishOptions) -> int:
    """Return the rows that the state file counts; none while there is no file."""
    return orjson.loads(options.state_path.read_bytes())["rows"] if options.state_path.exists() else 0


@pytest.mark.parametrize(("position", "days"), [(0, 7), (1, 7), (2, 30), (3, 30)])
async def test_topics_on_kafka_are_kept_as_long_as_specified(kafka: Broker, position: int, days: int) -> None:
    """The broker has taken the retention, not only the name."""
    broker = BrokerSettings(bootstrap=kafka.bootstrap)
    spec = specs(unique_topics())[position]
    assert (await create(broker, [spec])).created == [spec.name]
    resource = ConfigResource(ConfigResourceType.TOPIC, spec.name, {"retention.ms": "", "cleanup.policy": ""})
    async with admin(broker) as client:
        (response,) = await client.describe_configs([resource])
    entries: Any = response.resources[0][4]
    assert {entry[0]: entry[1] for entry in entries} == {
        "retention.ms": str(days * 86_400_000),
        "cleanup.policy": "delete",
    }


async def test_topics_on_kafka_with_too_many_copies_are_refused_in_the_broker_s_words(kafka: Broker) -> None:
    """One broker cannot keep three copies, and says so."""
    spec = specs(unique_topics().model_copy(update={"replication": 3}))[0]
    with pytest.raises(FatalError, match="replication factor of 3") as caught:
        await create(BrokerSettings(bootstrap=kafka.bootstrap), [spec])
    assert caught.value.code == "topic_not_created"


async def test_doctor_on_kafka_reads_its_clock_and_leaves_nothing_behind(kafka: Broker) -> None:
    """Broker and test run on one machine: their clocks agree; the topic for it is gone afterwards."""
    settings = Settings(broker=BrokerSettings(bootstrap=kafka.bootstrap, group=f"g-{uuid.uuid4().hex[:8]}"))
    settings = settings.model_copy(update={"topics": unique_topics()})
    await create(settings.broker, specs(settings.topics))
    findings = {finding.check: finding for finding in await doctor_broker.examine(settings)}
    assert findings["clock"].status == "ok", findings["clock"]
    assert findings["group"].found.endswith("0 updates wait, nothing committed yet, 0 member(s)")
    assert all(finding.status == "ok" for finding in findings.values())
    async with admin(settings.broker) as client:
        assert not [name for name in await describe(client) if name.startswith(settings.broker.group)]
