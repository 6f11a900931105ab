"""A batch of confirmed labels on its way: parse → join with what was scored → decide → data set; or erase, or reject.

Records are taken in the order of their partition. Each ends in exactly one outcome and is acknowledged after it: after
the data set has the row, or the broker the dead letter. A store that does not answer is asked until it does; nothing is
acknowledged meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog

from streamer.errors import RejectedEvent, TransientError
from streamer.incoming import Incoming, dead_letter, letter_record, reading
from streamer.labels import Joined, LabelOutcome, decide
from streamer.reviews import ConfirmedLabel, check_record, erased_product, parse_label

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

    from streamer.erasures import Erasures
    from streamer.evidence import EvidenceStore
    from streamer.labels import VoteKey, VoteTime
    from streamer.telemetry import LabelTelemetry

log = structlog.get_logger(__name__)

RETRY_S = 1.0
MAX_RETRY_S = 30.0

T = TypeVar("T")


class Dataset(Protocol):
    """Where rows go (`streamer.dataset`); blocks."""

    @property
    def version(self) -> int | None: ...

    def known(self, items: set[str]) -> dict[VoteKey, VoteTime]: ...

    def keep(self, sha256: str, picture: Callable[[], bytes]) -> None: ...

    def write(self, rows: Mapping[VoteKey, Joined]) -> None: ...

    def erase(self, product_id: str) -> int: ...


class Recorder:
    """Takes labels to their outcomes; one batch at a time.

    Args:
        evidence: what was scored.
        dataset: where rows go.
        erasures: products of which nothing is recorded.
        publish: returns when the broker has the record.
        dead_letters: the topic of rejected labels.
        telemetry: is told every outcome.
        clock: the time, with a zone.
        retry_s: before a store that did not answer is asked again; doubles, up to half a minute.
    """

    def __init__(
        self,
        *,
        evidence: EvidenceStore,
        dataset: Dataset,
        erasures: Erasures,
        publish: Callable[[str, bytes | None, bytes], Awaitable[None]],
        dead_letters: str,
        telemetry: LabelTelemetry,
        clock: Callable[[], datetime],
        retry_s: float = RETRY_S,
    ) -> None:
        self._evidence = evidence
        self._dataset = dataset
        self._erasures = erasures
        self._publish = publish
        self._dead_letters = dead_letters
        self._telemetry = telemetry
        self._clock = clock
        self._retry_s = retry_s

    async def record(self, batch: Sequence[Incoming]) -> None:
        """Take records to their outcomes, in their order; what stands before an erasure is written before it."""
        before: list[Incoming] = []
        for incoming in batch:
            if incoming.value is not None:
                before.append(incoming)
                continue
            await self._labels(before)
            before = []
            await self._erase(incoming)
        await self._labels(before)

    async def _labels(self, batch: Sequence[Incoming]) -> None:
        parsed = [(incoming, label) for incoming in batch if (label := await self._parse(incoming)) is not None]
        if not parsed:
            return
        outcomes = await self._insist(lambda: self._take([label for _, label in parsed]))
        for (incoming, label), outcome in zip(parsed, outcomes, strict=True):
            if isinstance(outcome, RejectedEvent):
                await self._reject(incoming, outcome, label.product_id)
            else:
                self._end(incoming, outcome, label.product_id)

    async def _parse(self, incoming: Incoming) -> ConfirmedLabel | None:
        """Return the label; None when it was rejected."""
        assert incoming.value is not None
        label: ConfirmedLabel | None = None
        try:
            with reading(incoming.position):
                label = parse_label(incoming.value)
                check_record(label, incoming.key, self._clock())
        except RejectedEvent as error:
            await self._reject(incoming, error, None if label is None else label.product_id)
            return None
        return label

    async def _take(self, labels: Sequence[ConfirmedLabel]) -> list[LabelOutcome | RejectedEvent]:
        """Join labels with what is kept, and write them.

        Tried again as one: while a store is away the partition may go to another worker, which erases the product. Only
        what was joined a moment before can still be written then (docs/adr/0016).
        """
        found = await asyncio.gather(*(asyncio.to_thread(self._find, label) for label in labels))
        outcomes = await asyncio.to_thread(self._write, found)
        # Once more: who was erasing another product with the same picture may not have seen that these rows show it.
        await asyncio.gather(*(asyncio.to_thread(self._find, label) for label in labels))
        return outcomes

    def _find(self, label: ConfirmedLabel) -> Joined | RejectedEvent:
        """Return the label and its item, whose picture the data set then has, or why there is none."""
        try:
            self._check_stands(label.product_id)
            item = self._evidence.find(label)
            self._dataset.keep(item.image_sha256, lambda: self._evidence.picture(item.image_sha256))
        except RejectedEvent as error:
            return error
        return Joined(label, item)

    def _check_stands(self, product_id: str) -> None:
        if product_id in self._erasures:
            raise RejectedEvent(
                "product_erased",
                "the product was erased, and nothing is recorded of it: `streamer labels restore` ends that",
            )

    def _write(self, found: Sequence[Joined | RejectedEvent]) -> list[LabelOutcome | RejectedEvent]:
        joined = [one for one in found if isinstance(one, Joined)]
        rows, outcomes = decide(self._dataset.known({one.item.item_id for one in joined}), joined)
        if rows:
            self._dataset.write(rows)
            self._telemetry.version(self._dataset.version or 0)
        told = iter(outcomes)
        return [one if isinstance(one, RejectedEvent) else next(told) for one in found]

    async def _erase(self, incoming: Incoming) -> None:
        try:
            with reading(incoming.position):
                product_id = erased_product(incoming.key)
        except RejectedEvent as error:
            await self._reject(incoming, error, None)
            return
        # The list before all: from then on no label and no catalogue brings the product back, whatever comes between.
        await self._insist(lambda: asyncio.to_thread(self._erasures.add, product_id))
        # Evidence next: until the rows are gone, too, no label can bring the product back.
        items = await self._insist(lambda: asyncio.to_thread(self._evidence.erase, product_id))
        rows = await self._insist(lambda: asyncio.to_thread(self._dataset.erase, product_id))
        log.info("product.erased", items=items, rows=rows)
        self._end(incoming, "erased", None)

    async def _reject(self, incoming: Incoming, error: RejectedEvent, product_id: str | None) -> None:
        letter = dead_letter(incoming, error, product_id=product_id)
        await self._publish(self._dead_letters, *letter_record(incoming, letter))
        self._telemetry.label("rejected", error.code)
        log.warning("label.rejected", reason=error.code, message=str(error), **_place(incoming))
        incoming.acknowledge()

    def _end(self, incoming: Incoming, outcome: LabelOutcome, product_id: str | None) -> None:
        self._telemetry.label(outcome)
        log.info("label.ended", outcome=outcome, product_id=product_id, **_place(incoming))
        incoming.acknowledge()

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return what the work returns; it is tried again until its store answers."""
        pause_s = self._retry_s
        while True:
            try:
                return await work()
            except TransientError as error:
                log.warning("store.not_reached", reason=error.code, message=str(error), retry_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_RETRY_S)


def _place(incoming: Incoming) -> dict[str, object]:
    source = incoming.position
    return {"topic": source.topic, "partition": source.partition, "offset": source.offset}
