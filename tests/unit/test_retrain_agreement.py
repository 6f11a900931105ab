"""`engines.build.retrain.agreement`: how an engine ranks what people said, and where it surely says the opposite."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engines import calibration
from engines.build.dataset import Catalog, Product
from engines.build.evaluate import Pairs
from engines.build.retrain.agreement import ALL, Agreement, agreements, contradicted
from engines.build.retrain.frozen import LABELS, FrozenSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

CATEGORIES = ("Home", "Party", "Office")


def labels(count: int = 240, *, seed: int = 0) -> FrozenSet:
    """Return labels of three categories, a fifth of them mismatches, two products to an item."""
    products = tuple(
        Product(fields={}, facets=(), identity=i, group=str(i // 2), category=CATEGORIES[i % 3]) for i in range(count)
    )
    catalog = Catalog(products, (), np.zeros((count, 3, 1, 1), dtype=np.uint8), np.arange(count))
    wrong = (np.random.default_rng(seed).random(count) < 0.2).astype(np.int64)
    pairs = Pairs(np.arange(count), np.arange(count), wrong, np.repeat("", count))
    return FrozenSet(LABELS, catalog, pairs, np.ones(count), 0.2)


def scores(asked: FrozenSet, separation: float, *, seed: int = 1) -> NDArray[np.floating]:
    """Return logits in which mismatches are that far above matches, and ties."""
    noise = np.random.default_rng(seed).normal(size=len(asked.pairs.label))
    return np.round(noise + separation * asked.pairs.label, 1)


def named(found: list[Agreement], name: str) -> Agreement:
    """Return the agreement of that slice."""
    return next(one for one in found if one.name == name)


def test_agreement_is_the_auc_and_its_spread_is_the_bootstrap_s() -> None:
    """Ties counted half, items drawn whole."""
    asked = labels()
    logits = scores(asked, 1.0)
    one = named(agreements(asked, logits), ALL)
    assert one.auc == pytest.approx(calibration.auc(logits, asked.pairs.label), abs=1e-12)
    (drawn,) = calibration.bootstrap(
        lambda s, t: [calibration.auc(s, t)],
        logits,
        asked.pairs.label,
        groups=asked.groups,
        samples=600,
        confidence=0.6827,
    )
    assert one.spread == pytest.approx((drawn.high - drawn.low) / 2, rel=0.15)
    assert (one.mismatches, one.matches) == (int(asked.pairs.label.sum()), int((asked.pairs.label == 0).sum()))


def test_agreement_weighs_labels_by_what_they_stand_for() -> None:
    """A label that counts three times is as three labels."""
    asked = labels()
    logits = scores(asked, 1.0)
    weights = np.random.default_rng(4).integers(1, 4, size=len(logits))
    weighted = named(agreements(replace(asked, weights=weights.astype(np.float64)), logits), ALL)
    often = np.repeat(np.arange(len(logits)), weights)
    assert weighted.auc == pytest.approx(calibration.auc(logits[often], asked.pairs.label[often]), abs=1e-12)


def test_contradicted_is_the_slice_whose_verdicts_were_exchanged() -> None:
    """Only that one; and all, where all were."""
    asked = labels()
    logits = scores(asked, 3.0)
    party = asked.slices(least=10)["category: Party"]
    for rows, expected in ((party, {"category: Party"}), (np.ones_like(party), {ALL, *_names(asked)})):
        pairs = asked.pairs._replace(label=np.where(rows, 1 - asked.pairs.label, asked.pairs.label))
        found = agreements(replace(asked, pairs=pairs), logits)
        assert {
            one.name for one, opposite in zip(found, contradicted(found, 0.05), strict=True) if opposite
        } == expected


def test_contradicted_is_seldom_an_engine_that_knows_nothing() -> None:
    """Chance is no contradiction, however many slices there are."""
    wrong = 0
    for seed in range(60):
        asked = labels(seed=seed)
        wrong += any(contradicted(agreements(asked, scores(asked, 0.0, seed=100 + seed)), 0.05))
    assert wrong <= 6


def _names(asked: FrozenSet) -> set[str]:
    return set(asked.slices(least=10))
