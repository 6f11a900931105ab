"""Verdicts and what they are about → rows of the data set, and how far people agree. Pure.

A row is one person's verdict on one item. Of two verdicts of a person on an item the later one counts; the same one
again changes nothing, and so does one that is older than what is known. People may disagree: each keeps their row.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from streamer.reviews import ConfirmedLabel, ScoredItem, Verdict

LabelOutcome = Literal["recorded", "repeated", "outdated", "erased", "rejected"]
"""What became of a record of confirmed-labels; each ends in exactly one."""

LABEL_OUTCOMES: tuple[LabelOutcome, ...] = ("recorded", "repeated", "outdated", "erased", "rejected")

Consensus = Literal["mismatch", "match", "disputed", "unsure"]


class VoteKey(NamedTuple):
    """Whose verdict, and on what: one row of the data set."""

    item_id: str
    reviewer: str


class VoteTime(NamedTuple):
    """When a verdict was given; of two at the same time the greater label id is the later one."""

    labeled_at: datetime
    label_id: str


class Joined(NamedTuple):
    """A verdict and what was scored."""

    label: ConfirmedLabel
    item: ScoredItem

    @property
    def key(self) -> VoteKey:
        return VoteKey(self.item.item_id, self.label.reviewer)

    @property
    def time(self) -> VoteTime:
        return VoteTime(self.label.labeled_at, self.label.label_id)


def decide(
    known: Mapping[VoteKey, VoteTime], verdicts: Sequence[Joined]
) -> tuple[dict[VoteKey, Joined], list[LabelOutcome]]:
    """Return the rows to write, and of each verdict, in their order, what becomes of it.

    Args:
        known: of the rows that the data set has of these items, when their verdicts were given.
        verdicts: in the order of their arrival.
    """
    rows: dict[VoteKey, Joined] = {}
    newest = dict(known)
    outcomes: list[LabelOutcome] = []
    for verdict in verdicts:
        before = newest.get(verdict.key)
        if before is None or before < verdict.time:
            newest[verdict.key] = verdict.time
            rows[verdict.key] = verdict
            outcomes.append("recorded")
        else:
            outcomes.append("repeated" if before == verdict.time else "outdated")
    return rows, outcomes


def consensus(verdicts: Iterable[Verdict]) -> Consensus:
    """Return what people say of an item together: `disputed` where some say mismatch and some match."""
    told = set(verdicts) - {"unsure"}
    if len(told) > 1:
        return "disputed"
    return "mismatch" if "mismatch" in told else "match" if told else "unsure"


@dataclass(frozen=True)
class Agreement:
    """How far people agree.

    items, votes: how many there are. by_consensus: items of each kind. shared: items that two or more people judged,
    unsure ones aside. pairs: pairs of verdicts on the same item by two people; agreeing: those that are the same.
    """

    items: int
    votes: int
    by_consensus: Counter[Consensus]
    shared: int
    pairs: int
    agreeing: int

    @property
    def observed(self) -> float | None:
        """The share of pairs that agree, None where nobody judged what another did."""
        return self.agreeing / self.pairs if self.pairs else None


def agreement(votes: Iterable[tuple[str, Verdict]]) -> Agreement:
    """Return how far people agree.

    Args:
        votes: item id and verdict of every row.
    """
    by_item: defaultdict[str, list[Verdict]] = defaultdict(list)
    for item, verdict in votes:
        by_item[item].append(verdict)
    sure = [[one for one in verdicts if one != "unsure"] for verdicts in by_item.values()]
    pairs = [first == second for verdicts in sure for first, second in combinations(verdicts, 2)]
    return Agreement(
        items=len(by_item),
        votes=sum(map(len, by_item.values())),
        by_consensus=Counter[Consensus](consensus(verdicts) for verdicts in by_item.values()),
        shared=sum(len(verdicts) > 1 for verdicts in sure),
        pairs=len(pairs),
        agreeing=sum(pairs),
    )
