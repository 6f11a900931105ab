"""Simulated people: each judges what is asked of the season's products, and is wrong in one case of twenty.

Two look at each product; where they disagree a third does. They write to `confirmed-labels` as any review tool.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from streamer.reviews import ConfirmedLabel
from streamer.wire import encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from streamer.loop.ledger import Question
    from streamer.loop.season import Offer
    from streamer.reviews import Verdict

ERROR: Final = 0.05
PEOPLE: Final = ("ana", "ben", "cai")


class Reviewers:
    """Judges questions; the same person says the same of the same product, whenever asked.

    Args:
        offers: the products that people are shown, by id; others are left alone.
        seed: of their errors.
    """

    def __init__(self, offers: Mapping[str, Offer], *, seed: int) -> None:
        self._offers = offers
        self._seed = seed

    def judge(self, question: Question) -> Iterator[ConfirmedLabel]:
        """Yield the verdicts on a product, none where it is not for review."""
        offer = self._offers.get(question.product_id)
        if offer is None:
            return
        verdicts: list[Verdict] = [self._says(person, offer) for person in PEOPLE]
        agreed = verdicts[0] == verdicts[1]
        for person, verdict in zip(PEOPLE, verdicts[:2] if agreed else verdicts, strict=False):
            yield self._label(person, verdict, question)

    def _says(self, person: str, offer: Offer) -> Verdict:
        errs = random.Random(f"{self._seed}/{person}/{offer.id}").random() < ERROR  # noqa: S311 - a simulation
        return "mismatch" if offer.wrong != errs else "match"

    def _label(self, person: str, verdict: Verdict, question: Question) -> ConfirmedLabel:
        return ConfirmedLabel(
            label_id=f"{person}-{question.product_id}",
            product_id=question.product_id,
            alert_id=question.alert_id,
            image_sha256=question.image_sha256,
            text_sha256=question.text_sha256,
            verdict=verdict,
            reviewer=person,
            labeled_at=datetime.now(UTC),
            source="loop",
        )


def record(label: ConfirmedLabel) -> tuple[bytes, bytes]:
    """Return key and value of a label's record."""
    return label.product_id.encode(), encode(label)
