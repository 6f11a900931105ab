"""`streamer.labels`: the latest verdict of a person counts, and people may disagree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.labels import Joined, VoteKey, agreement, consensus, decide
from streamer.reviews import ConfirmedLabel
from tests.review import ITEM, LABEL

MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def joined(verdict: str, minute: int, *, reviewer: str = "ana", label_id: str = "1") -> Joined:
    """Return a verdict on the item, given at that minute."""
    changes = {"verdict": verdict, "labeled_at": MOMENT + timedelta(minutes=minute)}
    return Joined(msgspec.structs.replace(LABEL, reviewer=reviewer, label_id=label_id, **changes), ITEM)


def test_verdicts_of_two_people_are_two_rows() -> None:
    """Disagreement is kept."""
    rows, outcomes = decide({}, [joined("mismatch", 1), joined("match", 1, reviewer="ben")])
    assert [row.label.verdict for row in rows.values()] == ["mismatch", "match"]
    assert outcomes == ["recorded", "recorded"]


def test_same_label_again_is_repeated_and_writes_nothing() -> None:
    """Whether it comes in the same batch or after it was written."""
    first = joined("mismatch", 1)
    rows, outcomes = decide({}, [first, first])
    assert (len(rows), outcomes) == (1, ["recorded", "repeated"])
    assert decide({first.key: first.time}, [first]) == ({}, ["repeated"])


def test_later_verdict_of_a_person_wins_whatever_comes_first() -> None:
    """An older one that comes late is outdated."""
    early, late = joined("mismatch", 1), joined("match", 2)
    for order in ([early, late], [late, early]):
        rows, _ = decide({}, order)
        assert rows[late.key].label.verdict == "match"
    assert decide({late.key: late.time}, [early]) == ({}, ["outdated"])


@given(
    st.lists(st.tuples(st.sampled_from(["mismatch", "match"]), st.integers(0, 3), st.sampled_from("ab")), max_size=8),
    st.randoms(),
    st.integers(0, 8),
)
def test_rows_do_not_depend_on_the_order_or_on_how_labels_are_batched(
    said: list[tuple[str, int, str]], shuffle: st.DataObject, cut: int
) -> None:
    """Every order, and every division into two batches, leads to the same rows."""
    verdicts = [joined(v, m, reviewer=r, label_id=f"{n:02}") for n, (v, m, r) in enumerate(said)]
    expected, _ = decide({}, verdicts)
    mixed = list(verdicts)
    shuffle.shuffle(mixed)  # type: ignore[attr-defined] # a random.Random
    rows, _ = decide({}, mixed[:cut])
    more, _ = decide({key: row.time for key, row in rows.items()}, mixed[cut:])
    assert rows | more == expected


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        (["mismatch", "mismatch"], "mismatch"),
        (["match", "unsure"], "match"),
        (["match", "mismatch", "match"], "disputed"),
        (["unsure"], "unsure"),
    ],
)
def test_consensus_is_what_nobody_contradicts(verdicts: list[str], together: str) -> None:
    """Who is unsure contradicts nobody."""
    assert consensus(verdicts) == together  # type: ignore[arg-type]


def test_agreement_counts_pairs_of_people() -> None:
    """Three people of whom one disagrees make three pairs, of which one agrees."""
    votes = [("a", "match"), ("a", "match"), ("a", "mismatch"), ("b", "match"), ("c", "unsure"), ("c", "match")]
    found = agreement(votes)  # type: ignore[arg-type]
    assert (found.items, found.votes, found.shared, found.pairs, found.agreeing) == (3, 6, 1, 3, 1)
    assert found.observed == pytest.approx(1 / 3)
    assert dict(found.by_consensus) == {"disputed": 1, "match": 2}
    assert agreement([]).observed is None


def test_key_is_of_an_item_and_a_person() -> None:
    """The release is part of the item: another engine's score of the same product is another item."""
    assert joined("match", 1).key == VoteKey(ITEM.item_id, "ana")
    assert isinstance(LABEL, ConfirmedLabel)
