"""One score and what is known of its product → the next state and, when something changed, an alert. Pure.

The alert agent calls `decide` for one score of a product at a time and keeps the state in a Faust table. A score that
is older than the state, or that the state has already seen, changes nothing: redelivery is harmless. The state holds
the logit, so that `redecide` tells what becomes of an alert when calibration or thresholds change (docs/adr/0023).
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec reads the annotations
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from streamer.alert_state import AlertState, standing
from streamer.events import AlertType, MismatchAlert, MismatchData, ProductScore, Transition, alert_id

if TYPE_CHECKING:
    from streamer.policy import Policy

_BEFORE_ALL = -(2**63)  # of a product that was deleted before anything else was known of it


def decide(
    state: AlertState | None, score: ProductScore, *, source: str, policy: Policy | None = None
) -> tuple[AlertState | None, MismatchAlert | None]:
    """Return the product's next state and the alert to publish before that state is written.

    Args:
        state: what the table holds, None for a product never seen.
        score: the outcome of one update. A `superseded` one changes nothing, but for one that a deletion without a
            version has ended: no other record tells how new the product was.
        source: CloudEvents `source` of the alerts.
        policy: of the release that this worker runs. It decides what its model has scored, whichever release that was:
            a score that was on its way while releases were swapped is decided like all others.
    """
    if policy is None:
        return _follow(state, score, source)
    following, alert = _follow(state, policy.rule(score), source)
    if following is None or following is state or following.logit is None:
        return following, alert
    return msgspec.structs.replace(following, scored_by=score.release), alert


def redecide(
    state: AlertState, product_id: str, policy: Policy, *, source: str, now: datetime
) -> tuple[AlertState, MismatchAlert | None]:
    """Return what becomes of the product when this release decides, from the logit that is remembered.

    Nothing where another model made it. An alert that stays open is told of only if its probability or threshold is
    another one now.
    """
    if state.deleted or state.logit is None or state.model != policy.model or state.release == policy.release:
        return state, None
    if state.alert is None and policy.probability(state.logit) < policy.threshold(state.category or ""):
        return state, None  # most products: neither before nor now
    following, alert = decide(state, standing(state, product_id, now), source=source, policy=policy)
    assert following is not None
    return following, alert


def _follow(
    state: AlertState | None, score: ProductScore, source: str
) -> tuple[AlertState | None, MismatchAlert | None]:
    if score.outcome == "deleted":
        return _delete(state, score, source)
    if score.outcome == "superseded":
        return _ended(state, score), None
    if score.order is None or score.probability is None or score.threshold is None or _seen(state, score):
        return state, None
    is_open = state is not None and state.alert is not None
    if score.probability >= score.threshold:
        return _transition("updated" if is_open else "opened", state, score, source)
    if is_open:
        return _transition("resolved", state, score, source)
    return _next_state(state, score, alert=None, first_seen=None), None


def _ended(state: AlertState | None, score: ProductScore) -> AlertState | None:
    """Return the state with the order of an update that was never judged, so that older ones are still known as old."""
    if (
        score.order is None
        or score.superseded_by is not None
        or (state is not None and _old(state, score.order, score))
    ):
        return state
    place = score.place
    if state is None:
        return AlertState(order=score.order, partition=place.partition, offset=place.offset)
    return msgspec.structs.replace(state, order=score.order, partition=place.partition, offset=place.offset)


def stems_from(state: AlertState, score: ProductScore) -> bool:
    """Whether this very score led to the state.

    When it is delivered again, a worker was ended between writing the state and committing the score. A store on disk
    then has a state that its changelog may lack: it must be written again, or the next owner of the partition, which
    only knows the changelog, would never hear of it.
    """
    return (state.partition, state.offset) == (score.source.partition, score.source.offset)


def _old(state: AlertState, order: int, score: ProductScore) -> bool:
    return order <= state.order or _below_floor(score, state)


def _seen(state: AlertState | None, score: ProductScore) -> bool:
    if state is None:
        return False
    assert score.order is not None
    if _below_floor(score, state):
        return True
    if score.order != state.order or state.deleted:
        return score.order <= state.order
    if score.origin and _stands_before(score, state):  # a replay of what another update of the same version came after
        return True
    known = (state.image_sha256, state.text_sha256, state.release, state.threshold)
    return known == (score.image_sha256, score.text_sha256, score.release, score.threshold)


def _transition(
    transition: Transition, state: AlertState | None, score: ProductScore, source: str
) -> tuple[AlertState, MismatchAlert | None]:
    assert score.order is not None
    if transition == "updated" and state is not None and _same_evidence(state, score):
        return _next_state(state, score, alert=state.alert, first_seen=state.first_seen), None
    identity = alert_id(score, transition, score.order, _redecided(state, score))
    opened_as = identity if state is None or state.alert is None else state.alert
    first_seen = score.scored_at if state is None or state.first_seen is None else state.first_seen
    reason: Literal["mismatch", "matches"] = "matches" if transition == "resolved" else "mismatch"
    facts = _Facts(transition, identity, opened_as, score.order, first_seen, reason, source)
    alert = _alert(facts, score)
    if transition == "resolved":
        return _next_state(state, score, alert=None, first_seen=None), alert
    return _next_state(state, score, alert=opened_as, first_seen=first_seen), alert


def _same_evidence(state: AlertState, score: ProductScore) -> bool:
    """Whether an open alert says what it has said: picture, text, and the release or at least its figures."""
    if (state.image_sha256, state.text_sha256) != (score.image_sha256, score.text_sha256):
        return False
    same_figures = (state.probability, state.threshold) == (score.probability, score.threshold)
    return state.release == score.release or (_same_model(state, score) and same_figures)


def _same_model(state: AlertState, score: ProductScore) -> bool:
    return state.model is not None and state.model == score.model


def _redecided(state: AlertState | None, score: ProductScore) -> int:
    """Return how often the score has been decided anew, this time included: 0 for a new one."""
    if state is None or state.order != score.order or state.deleted or not _same_model(state, score):
        return 0
    return state.redecided + (state.release != score.release)


def _delete(
    state: AlertState | None, score: ProductScore, source: str
) -> tuple[AlertState | None, MismatchAlert | None]:
    """Close the product; its order stays, so that an older update that comes late does not bring it back.

    A tombstone without a version is ordered by its offset: one that comes again after the product came back is old.
    """
    known = _BEFORE_ALL if state is None else state.order
    order = known if score.order is None else score.order
    if state is not None and _says_nothing_new(score, order, state):
        return state, None
    place = score.place
    floor = (place.partition, place.offset) if score.order is None else _floor(state)
    deleted = AlertState(order=order, partition=place.partition, offset=place.offset, deleted=True, floor=floor)
    if state is None or state.alert is None:
        return deleted, None
    identity = alert_id(score, "resolved", order)
    first_seen = state.first_seen or score.scored_at
    facts = _Facts("resolved", identity, state.alert, order, first_seen, "deleted", source)
    return deleted, _alert(facts, score)


def _says_nothing_new(tombstone: ProductScore, order: int, state: AlertState) -> bool:
    if tombstone.order is None:
        return _stands_before(tombstone, state)
    if _below_floor(tombstone, state):
        return True
    return order < state.order or (state.deleted and order == state.order)


def _floor(state: AlertState | None) -> tuple[int, int] | None:
    return None if state is None else state.floor


def _below_floor(score: ProductScore, state: AlertState) -> bool:
    place, floor = score.place, state.floor
    return floor is not None and place.partition == floor[0] and place.offset < floor[1]


def _stands_before(score: ProductScore, state: AlertState) -> bool:
    return score.place.partition == state.partition and score.place.offset < state.offset


def _next_state(
    state: AlertState | None, score: ProductScore, *, alert: str | None, first_seen: datetime | None
) -> AlertState:
    assert score.order is not None
    return AlertState(
        order=score.order,
        partition=score.place.partition,
        offset=score.place.offset,
        floor=_floor(state),
        alert=alert,
        first_seen=first_seen,
        image_sha256=score.image_sha256,
        text_sha256=score.text_sha256,
        release=score.release,
        threshold=score.threshold,
        probability=score.probability,
        logit=None if isinstance(score.logit, msgspec.UnsetType) else score.logit,
        model=None if isinstance(score.model, msgspec.UnsetType) else score.model,
        scored_by=score.release,
        redecided=_redecided(state, score),
        title=score.title,
        category=score.category,
        image_url=score.image_url,
    )


class _Facts(NamedTuple):
    transition: Transition
    identity: str
    opened_as: str
    order: int
    first_seen: datetime
    reason: Literal["mismatch", "matches", "deleted"]
    source: str


_TYPES: dict[Transition, AlertType] = {
    "opened": "catalogue.mismatch.opened",
    "updated": "catalogue.mismatch.updated",
    "resolved": "catalogue.mismatch.resolved",
}


def _alert(facts: _Facts, score: ProductScore) -> MismatchAlert:
    return MismatchAlert(
        id=facts.identity,
        source=facts.source,
        type=_TYPES[facts.transition],
        subject=score.product_id,
        time=score.scored_at,
        data=MismatchData(
            alert_id=facts.opened_as,
            product_id=score.product_id,
            order=facts.order,
            title=score.title,
            category=score.category,
            image_url=score.image_url,
            image_sha256=score.image_sha256,
            text_sha256=score.text_sha256,
            probability=score.probability,
            threshold=score.threshold,
            release=score.release,
            first_seen=facts.first_seen,
            reason=facts.reason,
            contradicts=score.contradicts,
        ),
    )
