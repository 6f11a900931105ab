"""Calibration or thresholds have changed → which products' alerts change with them, found without inference.

Each worker looks through the alert agent's table whenever the release that it runs, or the partitions that it owns, are
others than before. For a product whose alert that release decides otherwise it publishes a Redecision, and the agent of
whoever owns the product decides. So the table itself says what is still to be done: a worker that is killed on the way
leaves it to the next owner, who looks through it again.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import structlog

from streamer.alert import redecide
from streamer.alert_state import from_table
from streamer.events import Redecision
from streamer.wire import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.outbox import Publish
    from streamer.policy import Policy

log = structlog.get_logger(__name__)

AT_A_TIME = 100
"""Products between two turns of the event loop, some two milliseconds; and requests on their way to the broker."""

RETRY_S = 5.0
"""After a store that failed: its disk, or partitions that were taken away while it was read."""


class Redecider:
    """Looks for products to decide anew; belongs to one event loop.

    Args:
        table: the alert agent's; read only.
        policy: how the release that runs decides.
        publish: returns when the broker has the request.
        topic: of requests.
        on_disk: whether the table is: then it can be read while it is written, and need not be copied.
        retry_s: before a table that could not be read is read again.
    """

    def __init__(
        self,
        *,
        table: Any,  # noqa: ANN401 - Faust's table
        policy: Callable[[], Policy],
        publish: Publish,
        topic: str,
        on_disk: bool,
        retry_s: float = RETRY_S,
    ) -> None:
        self._table = table
        self._policy = policy
        self._publish = publish
        self._topic = topic
        self._on_disk = on_disk
        self._retry_s = retry_s
        self._due = asyncio.Event()

    def look(self) -> None:
        """Look through the table soon: another release runs, or the worker owns other partitions."""
        self._due.set()

    async def run(self) -> None:
        """Look through the table whenever that is due, until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._look_through(self._policy())
            except Exception as error:  # noqa: BLE001 - the stores' errors have no common base
                log.warning("alerts.not_redecided", error=repr(error), retry_s=self._retry_s)
                await asyncio.sleep(self._retry_s)
                self.look()

    async def _look_through(self, policy: Policy) -> None:
        started, looked_at, asked = time.monotonic(), 0, 0
        products = iter(self._table.keys() if self._on_disk else list(self._table.keys()))
        while (chunk := list(islice(products, AT_A_TIME))) and not self._due.is_set():
            changed = [product for product in chunk if self._changes(product, policy)]
            await asyncio.gather(*(self._ask(product, policy) for product in changed))
            await asyncio.sleep(0)
            looked_at, asked = looked_at + len(chunk), asked + len(changed)
        seconds = round(time.monotonic() - started, 3)
        log.info("alerts.looked_through", release=policy.release, products=looked_at, redecided=asked, seconds=seconds)

    def _changes(self, product_id: str, policy: Policy) -> bool:
        state = from_table(self._table.get(product_id))
        return state is not None and redecide(state, product_id, policy, source="", now=_NOW)[1] is not None

    async def _ask(self, product_id: str, policy: Policy) -> None:
        request = Redecision(product_id=product_id, release=policy.release)
        await self._publish(self._topic, product_id.encode(), encode(request))


_NOW = datetime.fromtimestamp(0, UTC)  # of decisions that are only tried
