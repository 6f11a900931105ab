"""A real worker, a picture that was missing, and the replay of what was rejected meanwhile."""

from __future__ import annotations

import asyncio
from io import StringIO
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
from aiokafka import AIOKafkaConsumer
from rich.console import Console

from streamer import topics
from streamer.dead_letters import Choice, replay
from streamer.demo.cluster import Cluster, run_cluster
from streamer.demo.images import ImageHost
from streamer.demo.worker import running_worker, settings_variables
from streamer.outbox import producer
from streamer.settings import FetchSettings
from tests.fakes import png

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 30.0


class Nobody:
    """A watch that looks away."""

    def advanced(self, done: int, total: int) -> None:
        """Nothing to show."""


class Outcomes:
    """The scores and dead letters of a cluster, as they come."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self.seen: list[dict[str, Any]] = []

    async def until(self, count: int) -> list[dict[str, Any]]:
        """Return the first so many records, in the order of their events."""
        while len(self.seen) < count:
            record = await asyncio.wait_for(self._consumer.getone(), PATIENCE_S)
            self.seen.append(orjson.loads(record.value))
        return sorted(self.seen, key=lambda one: (one["product_id"], one["source"]["offset"]))


async def outcomes_of(cluster: Cluster) -> Outcomes:
    """Return the outcomes of a cluster from its first record on; stop the consumer yourself."""
    names = cluster.names
    consumer = AIOKafkaConsumer(
        names.scores, names.dead_letters, **topics.client_kwargs(cluster.broker), auto_offset_reset="earliest"
    )
    await consumer.start()
    return Outcomes(consumer)


def update(product: str, version: int, url: str) -> bytes:
    """Return an update."""
    return orjson.dumps({"id": product, "version": version, "title": "a red mug", "image_link": url})


async def test_replay_scores_what_was_rejected_and_leaves_what_is_settled(tmp_path: Path) -> None:
    """The picture is there now: the rejected update is scored; the one that a newer version followed is superseded."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "there.png").write_bytes(png(200))
    with ImageHost(pictures) as host:
        async with run_cluster(None, Console(file=StringIO())) as cluster, aiohttp.ClientSession() as session:
            missing, there = f"http://{host.address}/late.png", f"http://{host.address}/there.png"
            sections = {
                "broker": cluster.broker,
                "topics": cluster.names,
                "fetch": FetchSettings(allow_hosts=(host.address,)),
            }
            outcomes = await outcomes_of(cluster)
            with running_worker(settings_variables(sections), tmp_path / "worker.log") as worker:
                await worker.wait_until_ready(session)
                async with producer(cluster.broker) as kafka:
                    for product, version, url in (("a", 1, missing), ("b", 1, missing), ("b", 2, there)):
                        key = product.encode()
                        await kafka.send_and_wait(cluster.names.updates, update(product, version, url), key=key)
                        await outcomes.until(len(outcomes.seen) + 1)
                (pictures / "late.png").write_bytes(png(100))
                chosen = Choice(reasons=frozenset({"image_not_found"}))
                done = await replay(cluster.broker, cluster.names, chosen, Nobody(), dry_run=False)
                records = await outcomes.until(5)
                worker.check()
            await outcomes._consumer.stop()
    assert (done.chosen, done.sent) == (2, 2)
    told = [(one["product_id"], one.get("order"), one.get("outcome") or one["reason"]) for one in records]
    assert told == [
        ("a", None, "image_not_found"),
        ("a", 1, "scored"),
        ("b", None, "image_not_found"),
        ("b", 2, "scored"),
        ("b", 1, "superseded"),
    ]
    assert records[1]["origin"] == records[0]["source"]
    assert records[4]["origin"] == records[2]["source"]
