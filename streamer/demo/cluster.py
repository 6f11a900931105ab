"""Where a demo's events go: the embedded broker, or a Kafka of the user's, of which nothing else is touched."""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamer import settings, topics
from streamer.demo.broker import EmbeddedBroker
from streamer.errors import StreamerError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from rich.console import Console

    from streamer.settings import BrokerSettings, TopicSettings

PARTITIONS = 4
_ROLES = (
    *("updates", "scores", "alerts", "dead_letters", "redecisions"),
    *("reviews", "labels", "shadow_scores", "releases"),
)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The broker, and the topics and group that belong to this run alone."""

    broker: BrokerSettings
    names: TopicSettings
    description: str
    has_producer_ids: bool


@asynccontextmanager
async def run_cluster(bootstrap: str | None, console: Console) -> AsyncGenerator[Cluster]:
    """Give a broker with this run's topics; on a Kafka at `bootstrap` they have names of their own and go at the end.

    Raises:
        FatalError: the embedded broker does not start, or the Kafka does not answer or refuses the topics.
    """
    async with _embedded() if bootstrap is None else _own(bootstrap, console) as cluster:
        await topics.create(cluster.broker, topics.specs(cluster.names))
        yield cluster


@asynccontextmanager
async def _embedded() -> AsyncGenerator[Cluster]:
    with EmbeddedBroker() as embedded:
        yield Cluster(
            broker=settings.BrokerSettings(
                bootstrap=embedded.bootstrap,
                session_timeout_s=2.0,  # the broker holds the first join back for half of it
                heartbeat_interval_s=0.5,
                fetch_max_wait_ms=20,  # it holds every fetch for the whole of this, news or not
            ),
            names=settings.TopicSettings(partitions=PARTITIONS),
            description="embedded broker",
            has_producer_ids=False,
        )


@asynccontextmanager
async def _own(bootstrap: str, console: Console) -> AsyncGenerator[Cluster]:
    """Give the user's Kafka, with the security of their settings, and delete this run's topics afterwards."""
    given, run = settings.load(), f"demo-{uuid.uuid4().hex[:8]}"
    broker = given.broker.model_copy(update={"bootstrap": bootstrap, "group": f"{given.broker.group}-{run}"})
    renamed = {role: f"{getattr(given.topics, role)}-{run}" for role in _ROLES}
    names = given.topics.model_copy(update=renamed | {"partitions": PARTITIONS})
    try:
        yield Cluster(broker=broker, names=names, description=f"Kafka at {bootstrap}", has_producer_ids=True)
    finally:
        await _delete_topics(broker, run, console)


async def _delete_topics(broker: BrokerSettings, run: str, console: Console) -> None:
    """Delete the topics whose names hold this run's own word, the state's changelog among them."""
    try:
        async with topics.admin(broker) as client:
            mine = [name for name in await topics.describe(client) if run in name]
            if mine:
                await client.delete_topics(mine)
    except StreamerError as error:
        console.print(f"topics with {run} in their name are left on {broker.bootstrap}: {error}", markup=False)
