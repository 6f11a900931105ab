"""The alert agent: scores in, one at a time; alerts out, and a table entry for each product.

    product-scores      ─► [alert] ─► mismatch-alerts
    alert-redecisions   ─►

What a score changes is decided in `streamer.alert`. Here it is carried out, in the order that loses nothing: the alert
is published before the state is written, and the record is acknowledged when the broker has the state's change. A table
can only be written while its stream is at a record of the same partition, so what is to be decided anew comes as one,
too (`streamer.redecision`). Faust's stream, events and table are handed in; the composition root alone imports it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from streamer.alert import decide, redecide, stems_from
from streamer.alert_state import AlertState, from_table, to_table
from streamer.errors import FatalError, RejectedEvent, StreamerError
from streamer.events import CLOUD_EVENT, Redecision, parse_redecision, parse_score
from streamer.fencing import stamped
from streamer.incoming import dead_letter, incoming_of, letter_record, reading
from streamer.tracing import OFF
from streamer.wire import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.events import MismatchAlert, ProductScore
    from streamer.incoming import Incoming
    from streamer.keeping import Keeper
    from streamer.outbox import Publish
    from streamer.policy import Policy
    from streamer.settings import Settings
    from streamer.telemetry import Telemetry
    from streamer.tracing import Tracing

log = structlog.get_logger(__name__)


class AlertAgent:
    """Decides on alerts; belongs to one event loop.

    Args:
        table: Faust's, of `AlertState` by product id.
        policy: how the release that runs decides.
        settings: of the worker.
        publish_alert: sends an alert; alerts go one at a time, each waited for.
        publish: sends a dead letter.
        keeper: remembers what alerts are about, where evidence is kept.
        telemetry: is told of every alert.
        tracing: is told what becomes of each score.
    """

    def __init__(
        self,
        *,
        table: Any,  # noqa: ANN401 - Faust's table
        policy: Callable[[], Policy],
        settings: Settings,
        publish_alert: Publish,
        publish: Publish,
        keeper: Keeper | None,
        telemetry: Telemetry,
        tracing: Tracing = OFF,
    ) -> None:
        self._table = table
        self._policy = policy
        self._topics = settings.topics
        self._source = f"/{settings.broker.group}"
        self._directory = settings.state.directory
        self._publish_alert = publish_alert
        self._publish = publish
        self._keeper = keeper
        self._telemetry = telemetry
        self._tracing = tracing
        self.fatal: asyncio.Future[StreamerError] = asyncio.get_running_loop().create_future()

    async def run(self, stream: Any) -> None:  # noqa: ANN401 - Faust's stream
        """Take one record after the other; what goes wrong ends in `fatal`, and the record is not acknowledged."""
        async for event in stream.noack().events():
            try:
                change = await self._traced(event)
            except Exception as error:  # noqa: BLE001 - whatever it is, the worker stops
                self._fail(error)
                return  # raised, it would crash Faust, which then leaves its consumer running
            if change is None:
                event.ack()
            else:
                change.add_done_callback(partial(self._acknowledge, event))

    async def _traced(self, event: Any) -> asyncio.Future[Any] | None:  # noqa: ANN401 - Faust's event
        if self._tracing is OFF:
            return await self._take(event)
        came = incoming_of(event)
        with self._tracing.processing(came.position, came.headers, key=came.key, value=came.value):
            return await self._take(event)

    async def _take(self, event: Any) -> asyncio.Future[Any] | None:  # noqa: ANN401 - Faust's event
        """Carry out what the record leads to; return the delivery of the state's change, None when nothing changed."""
        incoming = incoming_of(event)
        parse = parse_redecision if incoming.position.topic == self._topics.redecisions else parse_score
        try:
            with reading(incoming.position):
                asked = parse(b"" if incoming.value is None else incoming.value)
        except RejectedEvent as error:
            await self._reject(incoming, error)
            return None
        if isinstance(asked, Redecision):
            return await self._redecide(event, asked.product_id)
        return await self._decide(event, asked)

    async def _decide(self, event: Any, score: ProductScore) -> asyncio.Future[Any] | None:  # noqa: ANN401 - Faust's event
        state = from_table(self._table.get(score.product_id))
        following, alert = decide(state, score, source=self._source, policy=self._policy())
        if alert is not None:
            await self._tell(alert, following)
        if following is not None and (following != state or stems_from(following, score)):
            return self._remember(event, score.product_id, following)
        return None

    async def _redecide(
        self,
        event: Any,  # noqa: ANN401 - Faust's event
        product_id: str,
    ) -> asyncio.Future[Any] | None:
        state = from_table(self._table.get(product_id))
        if state is None:
            return None
        following, alert = redecide(state, product_id, self._policy(), source=self._source, now=datetime.now(UTC))
        if alert is not None:
            await self._tell(alert, following)
            self._telemetry.redecided()
        # One that comes again may find its own change on the disk that the changelog lacks: as `stems_from`.
        return self._remember(event, product_id, following) if following != state or following.redecided else None

    async def _tell(self, alert: MismatchAlert, following: AlertState | None) -> None:
        """Publish an alert, before its state is written: a crash in between repeats it, under the same id."""
        data = alert.data
        if self._keeper is not None and data.reason == "mismatch":
            await self._keeper.point(alert, scored_by=following.scored_by if following else data.release)
        await self._publish_alert(self._topics.alerts, data.product_id.encode(), encode(alert), [CLOUD_EVENT])
        self._telemetry.alert(alert.type.rpartition(".")[2])
        log.info(alert.type, product_id=data.product_id, alert_id=data.alert_id, probability=data.probability)

    def _remember(
        self,
        event: Any,  # noqa: ANN401 - Faust's event
        product_id: str,
        state: AlertState,
    ) -> asyncio.Future[Any]:
        """Write the state; return the delivery of its record in the changelog.

        Raises:
            FatalError: state_not_written. The next start rebuilds the state from its changelog.
        """
        generation = event.message.generation_id  # not that of now: it may have been delivered before a rebalance
        entry = stamped(to_table(state), generation=generation, held=self._table.get(product_id))
        try:
            self._table[product_id] = entry
        except Exception as error:  # the stores' errors have no common base
            raise FatalError(
                "state_not_written", f"is the disk of {self._directory} full? The store says: {error}"
            ) from error
        change: asyncio.Future[Any] = self._table.last_change
        return change

    def _acknowledge(self, event: Any, change: asyncio.Future[Any]) -> None:  # noqa: ANN401 - Faust's event
        """Acknowledge an event whose change of state the broker has; a change that it refused stops the worker."""
        if change.cancelled():
            return
        error = change.exception()
        if error is None:
            event.ack()
        else:
            self._fail(FatalError("state_not_written", f"the changelog did not take a change: {error!r}"))

    async def _reject(self, incoming: Incoming, error: RejectedEvent) -> None:
        """Send a record that no worker wrote to the dead letters."""
        log.warning("event.rejected", reason=error.code, message=str(error), source=incoming.position)
        letter = dead_letter(incoming, error, release=self._policy().release)
        await self._publish(self._topics.dead_letters, *letter_record(incoming, letter))

    def _fail(self, error: Exception) -> None:
        log.error("worker.failed", error=repr(error), exc_info=error)
        if not self.fatal.done():
            wrapped = FatalError("alert_agent_failed", f"{type(error).__name__}: {error}")
            self.fatal.set_result(error if isinstance(error, FatalError) else wrapped)
