"""The Faust app of a worker: what of Faust is used, and the three places where it is made to fit.

Imported by the composition roots only, as `streamer.transport` is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import faust
from faust.tables.manager import TableManager

from streamer import fencing, records, topics
from streamer.transport import OrderedTransport

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from faust.types import FutureMessage

    from streamer.settings import BrokerSettings, Settings
    from streamer.topics import TopicState
    from streamer.transport import OrderedConsumer

REBALANCE_MARGIN_S = 30.0
"""A rebalance waits for every member's drain; this much more, for members that are slow to answer."""


class _Tables(TableManager):  # type: ignore[misc] # Faust is untyped to mypy
    """Faust's table manager without the second it waits for tables to be declared: ours are, before the app starts."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class _Table(faust.Table):  # type: ignore[misc] # Faust is untyped to mypy
    """Faust's table that tells which record of its changelog holds the change just made, and is fenced against others.

    See `streamer.fencing`.
    """

    last_change: asyncio.Future[Any]

    def send_changelog(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Faust's signature
        self.last_change = super().send_changelog(*args, **kwargs)
        return self.last_change

    def apply_changelog_batch(self, batch: Iterable[Any]) -> None:
        events = list(batch)
        counts = fencing.standing([(event.key, event.value) for event in events], self.data.get)
        super().apply_changelog_batch([event for event, counted in zip(events, counts, strict=True) if counted])
        for tp, offset in {event.message.tp: event.message.offset for event in events}.items():
            self.data.set_persisted_offset(tp, offset)  # of those that do not count, too

    def _on_changelog_sent(self, fut: FutureMessage) -> None:
        written = fut.result()
        if fencing.follows(self.data.persisted_offset(written.topic_partition), written.offset):
            super()._on_changelog_sent(fut)


def _unheard() -> None:
    """Nobody wants to know."""


class WorkerApp(faust.App):  # type: ignore[misc] # Faust is untyped to mypy
    """A Faust app whose consumer loses nothing (see `streamer.transport`)."""

    def _new_transport(self) -> OrderedTransport:
        return OrderedTransport(self.conf.broker_consumer, self)

    assigned: Callable[[], None] = staticmethod(_unheard)
    """Is told after each rebalance, once the state of the partitions that the worker has now is here."""

    def on_rebalance_end(self) -> None:
        super().on_rebalance_end()
        self.assigned()

    @property
    def ordered(self) -> OrderedConsumer:
        """The app's consumer, as the type it is."""
        return cast("OrderedConsumer", self.consumer)

    @property
    def recovered(self) -> bool:
        """Whether partitions are assigned and their state is here."""
        recovery: Any = self.tables.recovery  # pyright: ignore[reportAttributeAccessIssue]
        return not self.rebalancing and bool(recovery.completed.is_set())

    async def wait_crashed(self) -> BaseException | None:
        """Return when a part of Faust has failed, with what it failed of."""
        await self._crashed.wait()
        reason: BaseException | None = self._crash_reason
        return reason


BUFFERED_EVENTS: Final = 256
"""Between the consumer and an agent. Faust's 4,096 may be 4 GB, and keep a quiet partition waiting for minutes."""


def create(settings: Settings, *, group: str | None = None) -> WorkerApp:
    """Return the app, not yet started and without agents; `group` is another one than the scorers'."""
    broker, state = settings.broker, settings.state
    records.read_any_batch()
    app = WorkerApp(
        group or broker.group,
        broker=[f"kafka://{address}" for address in broker.bootstrap.split(",")],
        broker_credentials=_credentials(broker),
        broker_session_timeout=broker.session_timeout_s,
        broker_heartbeat_interval=broker.heartbeat_interval_s,
        broker_commit_interval=broker.commit_interval_s,
        broker_rebalance_timeout=settings.pipeline.drain_timeout_s + REBALANCE_MARGIN_S,
        consumer_auto_offset_reset="earliest",
        producer_linger=0.005,
        store="memory://" if state.store == "memory" else "rocksdb://?driver=rocksdict",
        datadir=str(state.directory),
        topic_replication_factor=settings.topics.replication,
        topic_disable_leader=True,
        table_standby_replicas=0,  # Faust's skip records, and are believed when they are promoted: ADR 2
        stream_wait_empty=True,
        stream_buffer_maxsize=BUFFERED_EVENTS,
        web_enabled=False,
        Table=_Table,
        TableManager=_Tables,
    )
    app.ordered.drain_timeout_s = settings.pipeline.drain_timeout_s
    app.ordered.fetch_max_wait_ms = broker.fetch_max_wait_ms
    return app


def state_table(app: WorkerApp, scores: TopicState) -> Any:  # noqa: ANN401 - Faust's table
    """Return the table of the alert agent's state, kept as product-scores is: as many partitions, as many copies."""
    table = app.Table(
        "alert-state",
        partitions=scores.partitions,
        key_type=str,
        extra_topic_configs=topics.changelog(scores.replication),
    )
    table.changelog_topic.replicas = scores.replication
    return table


def _credentials(broker: BrokerSettings) -> Any:  # noqa: ANN401 - Faust's credentials
    options = topics.client_kwargs(broker)
    context = options.get("ssl_context")
    if broker.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            mechanism=broker.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None
