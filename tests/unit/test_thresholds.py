"""`engines.build.thresholds` on drawn scores of categories that differ, or do not."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from engines import calibration
from engines.build import assemble
from engines.build.dataset import Catalog, Product
from engines.build.evaluate import Pairs
from engines.build.thresholds import LEAST_PAIRS, Scored, Target, Thresholds, choose, compare, joined, led

TARGET = Target(precision=0.5, prevalence=0.05)


def drawn(shifts: dict[str, float], counts: dict[str, int], *, seed: int = 0, quantiles: bool = False) -> Scored:
    """Return as many matches and mismatches of each category, all its scores higher by its shift.

    They are drawn from normals, or, without any chance, are their quantiles.
    """
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat([0, 1], counts[name]) for name in shifts])
    categories = np.concatenate([np.full(2 * counts[name], name) for name in shifts])
    shift = np.array([shifts[name] for name in categories.tolist()])
    noise = generator.normal(size=len(labels))
    if quantiles:
        ranks = np.concatenate([np.tile((np.arange(counts[name]) + 0.5) / counts[name], 2) for name in shifts])
        noise = np.array([NormalDist().inv_cdf(rank) for rank in ranks])
    logits = 4.0 * (labels - 0.5) + shift + 1.2 * noise
    return Scored(1 / (1 + np.exp(-logits)), labels, categories, np.arange(len(labels)), np.ones(len(labels)))


def precision_of(pairs: Scored, thresholds: Thresholds, name: str) -> float:
    """Return the precision of a category's alerts."""
    own = pairs.rows(pairs.categories == name)
    margins = own.scores - thresholds.of(own.categories)
    return calibration.at_threshold(margins, own.labels, prevalence=TARGET.prevalence, threshold=0.0)[1]


SHIFTED = {"calm": -1.0, "loud": 1.0}


def test_choose_categories_that_differ_get_thresholds_that_keep_the_target() -> None:
    """On pairs drawn anew both categories are near the target; with one threshold neither is."""
    thresholds, compared = choose(drawn(SHIFTED, {"calm": 1500, "loud": 1500}, quantiles=True), TARGET)
    assert thresholds.by_category["loud"].value > thresholds.overall.value > thresholds.by_category["calm"].value
    assert compared is not None
    assert compared.helps
    unseen = drawn(SHIFTED, {"calm": 4000, "loud": 4000}, quantiles=True)
    alone = thresholds.alone()
    for name in SHIFTED:
        own, shared = (abs(precision_of(unseen, at, name) - TARGET.precision) for at in (thresholds, alone))
        assert own < 0.05
        assert own < shared


def test_choose_categories_alike_gain_nothing_by_their_own() -> None:
    """What differs by chance only does not help."""
    names = ("one", "two", "three")
    _, compared = choose(drawn(dict.fromkeys(names, 0.0), dict.fromkeys(names, 500)), TARGET)
    assert compared is None or not compared.helps


def test_choose_rare_category_gets_the_overall_threshold() -> None:
    """Fewer pairs than can be judged say nothing."""
    counts = {"calm": 1500, "loud": 1500, "rare": LEAST_PAIRS - 1}
    thresholds, _ = choose(drawn(SHIFTED | {"rare": 3.0}, counts), TARGET)
    assert "rare" not in thresholds.by_category
    assert thresholds.of(np.array(["rare"]))[0] == thresholds.overall.value


def test_choose_small_category_is_shrunk_further_than_a_large_one() -> None:
    """Of two categories that differ alike, the one with less evidence keeps nearer to the overall threshold."""
    counts = {"calm": 3000, "large": 1500, "small": 60}
    shifts = {"calm": -0.3, "large": 0.8, "small": 0.8}
    pairs = drawn(shifts, counts, quantiles=True)
    thresholds, _ = choose(pairs, TARGET)
    own = {name: interval.value for name, interval in thresholds.by_category.items()}
    assert thresholds.overall.value < own["small"] < own["large"]


def test_choose_intervals_hold_their_thresholds() -> None:
    """Each threshold stands within its own bootstrap interval."""
    thresholds, _ = choose(drawn(SHIFTED, {"calm": 600, "loud": 600}), TARGET)
    for value, low, high in (thresholds.overall, *thresholds.by_category.values()):
        assert low <= value <= high
        assert low < high


def test_choose_target_out_of_reach_gives_one_threshold() -> None:
    """Where scores say nothing, the threshold is that of the best F1, for all."""
    generator = np.random.default_rng(2)
    labels = np.arange(800) % 2
    names = np.array(["a", "b"])[np.arange(800) // 2 % 2]
    thresholds, compared = choose(
        Scored(generator.random(800).round(1), labels, names, np.arange(800), np.ones(800)), TARGET
    )
    assert thresholds.by_category == {}
    assert compared is None


def test_compare_says_what_categories_gain() -> None:
    """The right thresholds close the gap; the same ones close nothing."""
    pairs = drawn(SHIFTED, {"calm": 500, "loud": 500})
    alone = np.full(len(pairs.labels), 0.95)
    same = compare(pairs, alone, alone, TARGET)
    assert same is not None
    assert (same.gap_closed, same.recall_gained) == ((0, 0, 0), (0, 0, 0))
    assert not same.helps


def confirmed_beside(shift: float, confirmed: int) -> tuple[Scored, Scored]:
    """Return many exchanged pairs, and beside them few confirmed ones, all of whose scores are higher by the shift."""
    exchanged, few = (drawn({"": own}, {"": count}, quantiles=True) for own, count in ((0.0, 1500), (shift, confirmed)))
    both = joined([exchanged, few])
    return both, led(both, np.arange(len(both.labels)) >= len(exchanged.labels), TARGET)


def test_led_thresholds_keep_their_promise_on_what_people_confirmed() -> None:
    """Matches that are scored look more wrong than exchanged ones do; one in two alerts is right all the same."""
    both, leading = confirmed_beside(1.0, 250)
    scored = drawn({"": 1.0}, {"": 4000}, quantiles=True)
    ignored, kept = (precision_of(scored, choose(pairs, TARGET)[0], "") for pairs in (both, leading))
    assert ignored < 0.3
    assert abs(kept - TARGET.precision) < 0.06


def test_led_pairs_that_are_alike_count_all_the_same() -> None:
    """Where confirmed pairs are like the others, a few of them move the threshold by little."""
    both, leading = confirmed_beside(0.0, 40)
    alone, moved = (choose(pairs, TARGET)[0].overall for pairs in (both, leading))
    assert alone.low < moved.value < alone.high


def test_led_by_pairs_that_are_easier_changes_nothing() -> None:
    """What is told apart with room to spare among labels is not spent on false alarms elsewhere."""
    both, leading = confirmed_beside(-1.0, 250)
    assert leading is both


def test_led_categories_keep_the_promise_on_what_people_confirmed() -> None:
    """Their own thresholds lean on what is scored, too, not on the exchanged pairs that most of a category are."""
    shifts = {"calm": -0.5, "loud": 0.5}
    exchanged = drawn(shifts, dict.fromkeys(shifts, 600), quantiles=True)
    few = drawn({name: shift + 1 for name, shift in shifts.items()}, dict.fromkeys(shifts, 120), quantiles=True)
    both = joined([exchanged, few])
    thresholds, _ = choose(led(both, np.arange(len(both.labels)) >= len(exchanged.labels), TARGET), TARGET)
    scored = drawn({name: shift + 1 for name, shift in shifts.items()}, dict.fromkeys(shifts, 2000), quantiles=True)
    margins = scored.scores - thresholds.of(scored.categories)
    _, precision = calibration.at_threshold(margins, scored.labels, prevalence=TARGET.prevalence, threshold=0.0)
    assert abs(precision - TARGET.precision) < 0.08


def test_led_by_a_handful_most_mismatches_still_alert() -> None:
    """One confirmed mismatch that the engine misses, however much it stands for, does not silence all alerts."""
    exchanged = drawn({"": 0.0}, {"": 600}, quantiles=True)
    few = drawn({"": 0.0}, {"": 41}, quantiles=True)
    rows = np.arange(82) <= 41  # all matches, and the mismatch that is hardest to find
    missed = few.rows(rows)._replace(weights=np.where(few.labels[rows] == 1, 50.0, 1.0))
    both = joined([exchanged, missed])
    leading = led(both, np.arange(len(both.labels)) >= 1200, TARGET)
    found, _ = calibration.at_threshold(
        exchanged.scores,
        exchanged.labels,
        prevalence=TARGET.prevalence,
        threshold=choose(leading, TARGET)[0].overall.value,
    )
    assert found > 0.8


def test_led_does_not_ask_in_which_units_weights_are() -> None:
    """Labels count as many as they say as much as, whether each stands for one product or for a thousand."""
    both, leading = confirmed_beside(1.0, 250)
    confirmed = np.arange(len(both.labels)) >= 3000
    heavier = both._replace(weights=both.weights * np.where(confirmed, 1000.0, 1.0))
    few = led(heavier, confirmed, TARGET).weights[confirmed].sum() / led(heavier, confirmed, TARGET).weights.sum()
    assert few == pytest.approx(leading.weights[confirmed].sum() / leading.weights.sum(), abs=0.05)


def test_led_by_one_class_changes_nothing() -> None:
    """Of confirmed matches alone nobody knows what mismatches score."""
    both, _ = confirmed_beside(1.0, 40)
    assert led(both, (np.arange(len(both.labels)) >= 3000) & (both.labels == 0), TARGET) is both
    assert led(both, np.zeros(len(both.labels), np.bool_), TARGET) is both


def test_labels_that_turn_calibration_round_do_not_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Confirmed mismatches that score lowest of all would make high scores mean a match: probabilities stay upright."""
    exchanged, labels = np.repeat([0, 1], 300), np.repeat([0, 1], 60)
    logits = [drawn({"": 0.0}, {"": 300}, quantiles=True).scores, np.where(labels == 1, -6.0, 0.0)]
    logits[0] = np.log(logits[0] / (1 - logits[0]))
    parts = []
    for label in (exchanged, labels):
        count = len(label)
        products = tuple(Product({}, (), i, str(i), "") for i in range(count))
        catalog = Catalog(products, (), np.zeros((count, 3, 1, 1), np.uint8), np.arange(count))
        pairs = Pairs(np.arange(count), np.arange(count), label, np.where(label == 1, "x", "match"))
        parts.append(assemble.HeldOut(catalog, None, pairs))  # type: ignore[arg-type]
    given = iter(logits)
    monkeypatch.setattr(assemble, "_score", lambda *_: next(given))
    measured = assemble._measure(None, parts, Target(0.5, 0.3), None)  # type: ignore[arg-type]
    known = joined(
        [
            Scored(one, part.pairs.label, np.full(len(one), ""), np.arange(len(one)), np.ones(len(one)))
            for one, part in zip(logits, parts, strict=True)
        ]
    )
    leading = led(known, np.arange(len(known.labels)) >= len(exchanged), Target(0.5, 0.3))
    assert leading is not known
    fitted = calibration.fit_platt(leading.scores, leading.labels, prevalence=0.3, weights=leading.weights)
    assert fitted.scale <= 0
    assert measured.calibration.scale > 0


def test_choose_on_one_item_is_not_cross_fitted() -> None:
    """Nothing is left to choose with once the only item is held out; the thresholds stand, uncompared."""
    pairs = drawn(SHIFTED, {"calm": 60, "loud": 60}, quantiles=True)
    _, compared = choose(pairs._replace(groups=np.zeros_like(pairs.groups)), TARGET)
    assert compared is None


def test_calibration_of_an_engine_that_tells_nothing_keeps_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where matches score higher than mismatches by chance, no list is turned round: all are about as likely."""
    count, label = 200, np.repeat([0, 1], 100)
    products = tuple(Product({}, (), i, str(i), "") for i in range(count))
    catalog = Catalog(products, (), np.zeros((count, 3, 1, 1), np.uint8), np.arange(count))
    pairs = Pairs(np.arange(count), np.arange(count), label, np.where(label == 1, "x", "match"))
    logits = np.random.default_rng(0).normal(size=count) - 0.5 * label
    assert calibration.fit_platt(logits, label, prevalence=0.05).scale < 0
    monkeypatch.setattr(assemble, "_score", lambda *_: logits)
    measured = assemble._measure(None, [assemble.HeldOut(catalog, None, pairs)], TARGET, None)  # type: ignore[arg-type]
    probabilities = calibration.apply(measured.calibration, np.array([-10.0, 10.0]))
    assert 0.04 < probabilities[0] < probabilities[1] < 0.06
