"""The alert agent: scores in, one at a time for each partition; alerts out, and a table entry for each product.

What a score changes is decided in `streamer.alert`. Here it is carried out, in the order that loses nothing: the alert
is published before the state is written, and the score is acknowledged when the broker has the state's change. Faust's
stream, events and table are handed in; it is imported by the composition root only.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from streamer import alert as alerting
from streamer.errors import FatalError, RejectedEvent, StreamerError
from streamer.events import CLOUD_EVENT, parse_score
from streamer.incoming import dead_letter, incoming_of
from streamer.tracing import OFF
from streamer.wire import encode

if TYPE_CHECKING:
    from streamer.incoming import Incoming
    from streamer.keeping import Keeper
    from streamer.pipeline import Publish
    from streamer.settings import Settings
    from streamer.telemetry import Telemetry
    from streamer.tracing import Tracing

log = structlog.get_logger(__name__)


class AlertAgent:
    """Decides on alerts; belongs to one event loop.

    Args:
        table: Faust's, of `AlertState` by product id.
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
        settings: Settings,
        publish_alert: Publish,
        publish: Publish,
        keeper: Keeper | None,
        telemetry: Telemetry,
        tracing: Tracing = OFF,
    ) -> None:
        self._table = table
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
        """Take one score after the other; what goes wrong ends in `fatal`, and the score is not acknowledged."""
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
        """Publish what the score changes, then write the state: a crash in between repeats the alert, same id.

        Returns the delivery of the state's change, None when nothing has changed.
        """
        try:
            score = parse_score(event.value)
        except RejectedEvent as error:
            await self._reject(incoming_of(event), error)
            return None
        state = alerting.from_table(self._table.get(score.product_id))
        next_state, alert = alerting.decide(state, score, source=self._source)
        if alert is not None:
            if self._keeper is not None and alert.data.reason == "mismatch":
                await self._keeper.point(alert)
            await self._publish_alert(self._topics.alerts, score.product_id.encode(), encode(alert), [CLOUD_EVENT])
            self._telemetry.alert(alert.type.rpartition(".")[2])
            log.info(
                alert.type, product_id=score.product_id, alert_id=alert.data.alert_id, probability=score.probability
            )
        if next_state is not None and (next_state != state or alerting.stems_from(next_state, score)):
            return self._remember(score.product_id, next_state)
        return None

    def _remember(self, product_id: str, state: alerting.AlertState) -> asyncio.Future[Any]:
        """Write the state; return the delivery of its record in the changelog.

        Raises:
            FatalError: state_not_written. The next start rebuilds the state from its changelog.
        """
        try:
            self._table[product_id] = alerting.to_table(state)
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
        """Send a record of product-scores that no scorer wrote to the dead letters."""
        log.warning("event.rejected", reason=error.code, message=str(error), source=incoming.position)
        await self._publish(self._topics.dead_letters, incoming.key, encode(dead_letter(incoming, error)))

    def _fail(self, error: Exception) -> None:
        log.error("worker.failed", error=repr(error), exc_info=error)
        if not self.fatal.done():
            wrapped = FatalError("alert_agent_failed", f"{type(error).__name__}: {error}")
            self.fatal.set_result(error if isinstance(error, FatalError) else wrapped)
