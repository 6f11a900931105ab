"""A history → what is wrong with it. Pure: no broker here, no clock."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from tests.chaos.history import NUMBER
from tests.chaos.images import png
from tests.chaos.traffic import reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.history import Commit, History, Position, Record
    from tests.chaos.traffic import Event

_AFTER = {"opened": ("updated", "resolved"), "updated": ("updated", "resolved"), "resolved": ("opened",)}


class Span(NamedTuple):
    """When a fault began and was over, in ms by the broker's clock."""

    begin_ms: int
    end_ms: int


@dataclass
class Verdict:
    """What a run did.

    Attributes:
        events: records of product-updates.
        lost: those without an outcome.
        wrong: what contradicts the reference or itself, in words.
        ahead: commits that were ahead of what they say is done, in words.
        duplicates: outcomes and alerts by redelivery: the same again.
        changed: of the repeated outcomes, those that have another name than the first (`unchanged` after `scored`).
        lag: records that were not committed in the end.
        recovery_s: the longest time, from a moment when all faults were over until each partition with lag was
            committed further.
    """

    events: int
    lost: int
    wrong: list[str] = field(default_factory=list)
    ahead: list[str] = field(default_factory=list)
    duplicates: int = 0
    repeated_alerts: int = 0
    changed: int = 0
    lag: int = 0
    recovery_s: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether everything that is promised was kept."""
        return not (self.lost or self.wrong or self.ahead or self.lag)


def check(history: History, faults: Sequence[Span] = ()) -> Verdict:
    """Return the verdict on a history.

    Args:
        history: of a run that has settled.
        faults: what befell it.
    """
    outcomes: dict[Position, list[Record]] = defaultdict(list)
    for record in sorted(history.scores + history.dead_letters, key=lambda record: record.at_ms):
        assert record.source is not None
        outcomes[record.source].append(record)
    names = {at: [record.body.get("outcome", "rejected") for record in records] for at, records in outcomes.items()}
    ids = Counter(alert.body["id"] for alert in history.alerts)
    return Verdict(
        events=len(history.updates),
        lost=len(history.updates.keys() - outcomes.keys()),
        wrong=[
            *_impossible(history, names),
            *_unfounded(history, names),
            *_mistold(history),
            *_altered(history),
            *_wrong_alerts(history),
            *_wrong_states(history),
            *_ambiguous(history),
            *_taken_back(history),
        ],
        ahead=[*_ahead_of_outcomes(history, outcomes), *_ahead_of_alerts(history)],
        duplicates=sum(len(told) - 1 for told in names.values()),
        repeated_alerts=sum(count - 1 for count in ids.values()),
        changed=sum(name != told[0] for told in names.values() for name in told[1:]),
        lag=sum(history.lag.values()),
        recovery_s=max((_recovery_s(history, end) for end in _calm(faults)), default=0.0),
    )


def _impossible(history: History, names: dict[Position, list[str]]) -> list[str]:
    """Return outcomes that the event cannot have: rejected though it is sound, scored though it is not, of no event."""
    found = []
    for at, told in names.items():
        published = history.updates.get(at)
        if published is None:
            found.append(f"{at}: outcome {told} of no event")
            continue
        event = published.event
        possible = {"rejected"} if event.kind == "malformed" else {"superseded"}
        if event.kind == "tombstone":
            possible |= {"deleted"}
        elif event.kind == "update":
            possible |= {"scored", "unchanged"} if event.accepted else {"rejected"}
        found += [f"{at}: {name}, an outcome that this {event.kind} cannot have" for name in set(told) - possible]
    return found


def _unfounded(history: History, names: dict[Position, list[str]]) -> list[str]:
    """Return updates that were superseded although nothing of their product is newer, or as new."""
    newest: dict[str, list[int]] = defaultdict(list)
    unversioned: set[str] = set()
    for published in history.updates.values():
        event = published.event
        if event.order is not None:
            newest[event.product] = sorted([*newest[event.product], event.order])[-2:]
        elif event.kind == "tombstone":
            unversioned.add(event.product)
    found = []
    for at, told in names.items():
        event = history.updates[at].event if at in history.updates else None
        if event is None or event.order is None or "superseded" not in told or event.product in unversioned:
            continue
        if len(newest[event.product]) == 1 or newest[event.product][0] < event.order:
            found.append(f"{at}: superseded, but nothing is newer")
    return found


def _mistold(history: History) -> list[str]:
    """Return the scores that say something else than their event does: another product, version or verdict."""
    found = []
    for score in history.scores:
        published = history.updates.get(score.source) if score.source else None
        if published is None:
            continue
        event, body = published.event, score.body
        expected: dict[str, object] = {"product_id": event.product, "order": event.order}
        told: dict[str, object] = {"product_id": body["product_id"], "order": body["order"]}
        if body["outcome"] in {"scored", "unchanged"}:
            expected["mismatch"], told["mismatch"] = event.mismatch, body["probability"] >= body["threshold"]
        if told != expected:
            found.append(f"{score.position}: says {told} of {expected}")
    return found


def _altered(history: History) -> list[str]:
    """Return the dead letters that do not hold their event as it came: bytes, key and header, and what befell it."""
    found = []
    for letter in history.dead_letters:
        published = history.updates.get(letter.source) if letter.source else None
        if published is None:
            continue
        event, body = published.event, letter.body
        headers = [[NUMBER, _base64(str(published.number).encode())]]
        same = (body["key"], body["value"], body["headers"]) == (_base64(event.key), _base64(event.value), headers)
        if not (same and body["attempts"] > 0 and body["reason"] and body["release"]):
            found.append(f"{letter.source}: the dead letter is not its event as it came: {body}")
    return found


def _wrong_alerts(history: History) -> list[str]:
    """Return the products whose alert is not as a sequential run leaves it, or whose transitions do not alternate."""
    in_order = [history.updates[at].event for at in sorted(history.updates)]
    told: dict[str, list[Record]] = defaultdict(list)
    known: set[str] = set()
    for alert in history.alerts:
        if alert.body["id"] not in known:
            known.add(alert.body["id"])
            told[alert.body["subject"]].append(alert)
    wrong = []
    for name, product in reference(in_order).items():
        names = [_transition(alert) for alert in told.get(name, [])]
        is_open = bool(names) and names[-1] != "resolved"
        if is_open != (product.shows is not None):
            wrong.append(f"{name}: the alert is {'' if is_open else 'not '}open after {names}")
        elif product.shows is not None and _about(told[name][-1]) != _shown(product.shows):
            wrong.append(f"{name}: the alert is about {_about(told[name][-1])}, not {_shown(product.shows)}")
        if not _alternate(names):
            wrong.append(f"{name}: {names}")
    return wrong


def _wrong_states(history: History) -> list[str]:
    """Return the products of which the alert agent remembers something else than a sequential run knows."""
    in_order = [history.updates[at].event for at in sorted(history.updates)]
    unversioned = {event.product for event in in_order if event.kind == "tombstone" and event.order is None}
    wrong = []
    for name, product in reference(in_order).items():
        state = history.states.get(name, {})
        expected, found = product.shows is not None, state.get("alert") is not None
        if expected != found:
            wrong.append(f"{name}: an alert is {'' if found else 'not '}remembered as open")
        if name not in unversioned and product.order != state.get("order"):
            wrong.append(f"{name}: {state.get('order')} is remembered as the newest, not {product.order}")
    return wrong


def _about(alert: Record) -> tuple[str, str]:
    """Return the digest of the picture and the title that an alert is about."""
    return alert.body["data"]["image_sha256"], alert.body["data"]["title"]


def _shown(event: Event) -> tuple[str, str]:
    """Return the same of what an update shows."""
    assert event.picture is not None
    assert event.title is not None
    return hashlib.sha256(png(event.picture)).hexdigest(), event.title


def _ambiguous(history: History) -> list[str]:
    """Return the transitions that were published under more than one id."""
    ids: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    for alert in history.alerts:
        ids[alert.body["subject"], alert.body["data"]["order"], _transition(alert)].add(alert.body["id"])
    return [f"{transition}: ids {sorted(found)}" for transition, found in ids.items() if len(found) > 1]


def _taken_back(history: History) -> list[str]:
    """Return the commits that were behind the one before: of a worker to which the partition no longer belonged."""
    found = []
    for topic, commits in history.commits.items():
        newest: dict[int, int] = defaultdict(int)
        for commit in commits:
            if commit.offset < newest[commit.partition]:
                found.append(f"{topic}-{commit.partition}: {commit.offset} after {newest[commit.partition]}")
            newest[commit.partition] = commit.offset
    return found


def _ahead_of_outcomes(history: History, outcomes: dict[Position, list[Record]]) -> list[str]:
    """Return the commits before which an event has no outcome, or not yet had one at the time of the commit."""
    first = {at: records[0].at_ms for at, records in outcomes.items()}
    return _ahead(history.commits["updates"], {at: first.get(at) for at in history.updates}, "the outcome")


def _ahead_of_alerts(history: History) -> list[str]:
    """Return the commits before which a score's alert was not yet published."""
    scores: dict[tuple[str, int], Position] = {}
    for score in history.scores:
        if score.body["outcome"] != "superseded" and score.body["order"] is not None:
            scores.setdefault((score.body["product_id"], score.body["order"]), score.position)
    deletions: dict[str, list[Record]] = defaultdict(list)
    for score in history.scores:
        if score.body["outcome"] == "deleted":
            deletions[score.body["product_id"]].append(score)
    published: dict[Position, int | None] = {}
    for alert in history.alerts:
        if alert.body["data"]["reason"] == "deleted":
            at = _deletion(alert, deletions[alert.body["subject"]])
        else:
            at = scores.get((alert.body["subject"], alert.body["data"]["order"]))
        if at is not None:
            known = published.get(at)
            published[at] = alert.at_ms if known is None else min(known, alert.at_ms)
    return _ahead(history.commits["scores"], published, "the alert")


def _deletion(alert: Record, deletions: list[Record]) -> Position | None:
    """Return where the deletion stands that resolved an alert: the last one before it; one without version has none."""
    order = alert.body["data"]["order"]
    of_it = [one for one in deletions if one.at_ms <= alert.at_ms and one.body["order"] in {order, None}]
    return max(of_it, key=lambda one: one.at_ms).position if of_it else None


def _ahead(commits: list[Commit], done: dict[Position, int | None], what: str) -> list[str]:
    """Return the commits that were ahead; `done` says when what stands at a position was done, None for never."""
    found = []
    by_partition: dict[int, list[Commit]] = defaultdict(list)
    for commit in commits:
        by_partition[commit.partition].append(commit)
    for (partition, offset), at_ms in done.items():
        covering = next((commit for commit in by_partition[partition] if commit.offset > offset), None)
        if covering is not None and (at_ms is None or at_ms > covering.at_ms):
            late = "never came" if at_ms is None else f"came {at_ms - covering.at_ms} ms later"
            found.append(f"{partition}: {covering.offset} committed, {what} of {offset} {late}")
    return found


def _calm(faults: Sequence[Span]) -> list[int]:
    """Return the moments when a fault ended and no other was under way."""
    return [one.end_ms for one in faults if not any(other.begin_ms <= one.end_ms < other.end_ms for other in faults)]


def _recovery_s(history: History, end_ms: int) -> float:
    """Return the seconds from the end of a fault until every partition that had lag was committed further."""
    longest_ms = 0
    for partition in {partition for partition, _ in history.updates}:
        commits = [commit for commit in history.commits["updates"] if commit.partition == partition]
        before = max((commit.offset for commit in commits if commit.at_ms <= end_ms), default=0)
        waiting = any(
            at[0] == partition and at[1] >= before and published.at_ms <= end_ms
            for at, published in history.updates.items()
        )
        further = next((commit.at_ms for commit in commits if commit.at_ms > end_ms and commit.offset > before), None)
        if waiting and further is not None:
            longest_ms = max(longest_ms, further - end_ms)
    return longest_ms / 1000


def _transition(alert: Record) -> str:
    return str(alert.body["type"]).rpartition(".")[2]


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _alternate(transitions: list[str]) -> bool:
    if not transitions:
        return True
    return transitions[0] == "opened" and all(second in _AFTER[first] for first, second in pairwise(transitions))
