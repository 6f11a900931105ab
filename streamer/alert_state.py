"""What the alert agent remembers of one product, and how that stands in its table and the table's changelog. Pure."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec reads the annotations

import msgspec

from streamer.events import ProductScore
from streamer.wire import SourcePosition


class AlertState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is remembered of one product.

    `order` is the newest update seen, `partition` and `offset` say where it stands in product-updates; `alert` is the
    id of the alert that is open, None when none is. `floor` is (partition, offset) of the newest tombstone without a
    version: what stands before it is older, whatever its version.

    The rest is what the alert was decided from. `release` decided it, `scored_by` made the logit; they differ once the
    alert was decided anew, `redecided` times by now.
    """

    order: int
    partition: int
    offset: int
    deleted: bool = False
    floor: tuple[int, int] | None = None
    alert: str | None = None
    first_seen: datetime | None = None
    image_sha256: str | None = None
    text_sha256: str | None = None
    release: str | None = None
    threshold: float | None = None
    probability: float | None = None
    logit: float | None = None
    model: str | None = None
    scored_by: str | None = None
    redecided: int = 0
    title: str | None = None
    category: str | None = None
    image_url: str | None = None


def to_table(state: AlertState) -> dict[str, object]:
    """Return the state as it stands in the table and its changelog topic: JSON's own types."""
    plain: dict[str, object] = msgspec.to_builtins(state)
    return plain


def from_table(plain: dict[str, object] | None) -> AlertState | None:
    """Return the state that `to_table` wrote."""
    return None if plain is None else msgspec.convert(plain, AlertState)


def standing(state: AlertState, product_id: str, now: datetime) -> ProductScore:
    """Return the score that the state stems from, as far as it is remembered."""
    assert state.logit is not None
    assert state.model is not None
    place = SourcePosition(topic="", partition=state.partition, offset=state.offset)
    return ProductScore(
        product_id=product_id,
        order=state.order,
        outcome="unchanged",
        source=place,
        published_at=now,
        scored_at=now,
        title=state.title,
        category=state.category,
        image_url=state.image_url,
        image_sha256=state.image_sha256,
        text_sha256=state.text_sha256,
        probability=state.probability,
        threshold=state.threshold,
        release=state.scored_by,
        logit=state.logit,
        model=state.model,
    )
