"""`engines.build.retrain.votes`: what verdicts of people who err tell, and how many products are wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from engines.build.retrain import votes
from engines.catalogs.judged import Judged
from tests.retraining import MOMENT


@dataclass(frozen=True)
class Drawn:
    """A population of which some items were sampled and judged, and the truth about each."""

    judged: list[Judged]
    wrong: np.ndarray[Any, np.dtype[np.bool_]]
    population_share: float


def judged(mismatches: int, matches: int, **changes: object) -> Judged:
    """Return an item with so many verdicts."""
    fields: dict[str, object] = {
        "item_id": "0",
        "product_id": "p",
        "item_group_id": None,
        "category": "Home",
        "fields": {"title": "mug"},
        "columns": {},
        "image_sha256": "0" * 64,
        "release": "small-000000000000",
        "probability": 0.1,
        "scored_at": MOMENT,
        "sampled": "audit",
        "sampling_probability": 1.0,
        "mismatches": mismatches,
        "matches": matches,
    }
    return Judged(**(fields | changes))  # type: ignore[arg-type]


def draw(*, error: float = 0.05, people: int = 2, size: int = 6000, seed: int = 0, arbiter: bool = False) -> Drawn:
    """Return products of which 6 % are wrong; those that score high alert, of the others few are audited.

    With an arbiter, the last of the people judges only what the others disagree on.
    """
    generator = np.random.default_rng(seed)
    wrong = generator.random(size) < 0.06
    alerts = generator.random(size) < np.where(wrong, 0.6, 0.05)
    chance = np.where(alerts, 1.0, np.where(generator.random(size) < 0.3, 0.4, 0.1))
    sampled = generator.random(size) < chance
    said = (generator.random((size, people)) < error) ^ wrong[:, None]
    asked = np.ones((size, people), dtype=np.bool_)
    if arbiter:
        asked[:, -1] = said[:, 0] != said[:, 1]
    items = [
        judged(
            int((said[i] & asked[i]).sum()),
            int((~said[i] & asked[i]).sum()),
            sampled="alert" if alerts[i] else "audit",
            sampling_probability=float(chance[i]),
        )
        for i in np.nonzero(sampled)[0]
    ]
    return Drawn(items, wrong[sampled], float(wrong.mean()))


@pytest.mark.parametrize(("people", "arbiter"), [(2, False), (3, False), (3, True)])
def test_error_rate_is_found_where_two_judge_the_same(people: int, arbiter: bool) -> None:
    """Also where a third is asked only about what two disagree on; assumed where too few are judged twice."""
    drawn = draw(error=0.08, people=people, arbiter=arbiter, size=20_000)
    found = votes.count(drawn.judged)
    assert found.measured
    assert found.error == pytest.approx(0.08, abs=0.01)
    alone = votes.count(draw(people=1).judged)
    assert (alone.error, alone.measured) == (votes.DEFAULT_ERROR, False)


def test_count_tells_wrong_items_better_than_single_verdicts() -> None:
    """Of items that people disagree on, those of the audit are likelier right than those that alerted."""
    drawn = draw()
    found = votes.count(drawn.judged)
    disputed = np.array([item.mismatches == item.matches for item in drawn.judged])
    alerted = np.array([item.sampled == "alert" for item in drawn.judged])
    assert found.mismatch[disputed & alerted].mean() > found.mismatch[disputed & ~alerted].mean() + 0.1
    assert ((found.mismatch > 0.5) == drawn.wrong).mean() > 0.98
    assert set(np.unique(found.mismatch[~disputed & ~alerted])) >= {0.0}


@pytest.mark.parametrize("seed", range(3))
def test_prevalence_is_that_of_all_that_was_scored(seed: int) -> None:
    """Though half of what people see alerted, and they err: the interval holds the truth, which their share is not."""
    drawn = draw(seed=seed)
    found = votes.count(drawn.judged)
    overall = votes.prevalence(found, np.full(len(drawn.judged), "Home")).overall
    assert overall.low < drawn.population_share < overall.high
    assert overall.high - overall.low < 0.05
    assert drawn.wrong.mean() > overall.high


def test_prevalence_of_a_category_leans_on_the_overall_one() -> None:
    """One product of a category says little; many say what they are."""
    items = (
        [judged(0, 2, category="Home")] * 300 + [judged(2, 0, category="Rare")] + [judged(2, 0, category="Bad")] * 100
    )
    found = votes.count(items)
    by_category = votes.prevalence(found, np.array([item.category for item in items])).by_category
    assert by_category["Home"].value < 0.05
    assert 0.1 < by_category["Rare"].value < 0.4
    assert by_category["Bad"].value > 0.8


def test_prevalence_of_nothing_wrong_is_small_but_not_none() -> None:
    """Where nobody found a mismatch, there may still be some: the interval says how many."""
    found = votes.count([judged(0, 1)] * 50)
    overall = votes.prevalence(found, np.full(50, "Home")).overall
    assert 0 < overall.low < overall.value < 0.03 < overall.high


def test_what_people_skip_is_weighed_up() -> None:
    """Who looks at every fourth alert sees a fourth of them; who answers half of the audit, half of what it draws."""
    items = [judged(1, 0, sampled="alert"), judged(0, 1, sampling_probability=0.1)]
    found = votes.count(items, reviewed=votes.Reviewed(alerts=0.25, audit=0.5))
    assert found.weight.tolist() == pytest.approx([4.0, 20.0])


def test_prevalence_is_without_bias_where_most_of_the_audit_goes_unanswered() -> None:
    """If it is said how much: else what alerts, where most mismatches are, counts five times too much."""
    drawn = draw(size=20_000)
    answers = np.random.default_rng(1).random(len(drawn.judged)) < 0.2
    answered = [item for item, one in zip(drawn.judged, answers, strict=True) if item.sampled == "alert" or one]
    categories = np.full(len(answered), "Home")
    told = votes.prevalence(votes.count(answered, reviewed=votes.Reviewed(audit=0.2)), categories).overall
    untold = votes.prevalence(votes.count(answered), categories).overall
    assert told.low < drawn.population_share < told.high
    assert untold.low > drawn.population_share
