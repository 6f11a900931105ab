"""`engines.build.retrain.gate` on made-up scores: what it lets through, what it refuses, and by which reason."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from engines.build.dataset import Catalog, Product
from engines.build.evaluate import Pairs
from engines.build.retrain import gate, paired
from engines.build.retrain.decision import Decision, GateRules, Manifests, Observed
from engines.build.retrain.frozen import BENCHMARK, LABELS, SMALL, FrozenSet, image_size, language
from engines.build.retrain.paired import Answers
from engines.build.retrain.votes import Prevalence
from engines.calibration import Interval
from engines.contract import Calibration
from tests.fakes import manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engines.contract import Manifest

RULES = GateRules(samples=200)
CHAMPION = manifest(calibration=Calibration(scale=1.0, shift=-3.0), threshold=0.3)
BOTH = Manifests(CHAMPION, CHAMPION)
SOUND = Observed(Prevalence(Interval(0.05, 0.04, 0.06), {"Home": Interval(0.06, 0.04, 0.08)}), audited=200)
BRANDS = ("Acme", "Bolt", "Crux", "Dyna")


def frozen(name: str, count: int = 800, *, seed: int = 0) -> FrozenSet:
    """Return `count` products of four brands, each once with its own picture and once with a wrong one."""
    products = tuple(
        Product(
            fields={"title": f"thing {i}", "brand": BRANDS[i % 4] if i >= 20 else f"tiny {i}"},
            facets=(),
            identity=i,
            group=str(i // 2),
            category="Home > Mugs" if i % 2 else "Party > Lanterns",
            shorter_side_px=(120, 700)[i % 2],
        )
        for i in range(count)
    )
    catalog = Catalog(products, (), np.zeros((count, 3, 1, 1), dtype=np.uint8), np.arange(count))
    order = np.random.default_rng(seed).permutation(count)
    pairs = Pairs(
        product=np.tile(np.arange(count), 2),
        picture=np.concatenate([np.arange(count), order]),
        label=np.repeat([0, 1], count),
        difference=np.repeat(["match", "other"], count),
    )
    return FrozenSet(name, catalog, pairs, np.ones(2 * count), 0.05)


def logits(asked: FrozenSet, *, separation: float = 3.0, seed: int = 1) -> NDArray[np.float64]:
    """Return scores of an engine; another separation is another quality, by the same errors."""
    noise = np.random.default_rng(seed).normal(size=len(asked.pairs.label))
    return noise + separation * asked.pairs.label


def decide(
    benchmark: tuple[float, float] = (3.0, 3.0), labels: tuple[float, float] = (3.0, 3.0), rules: GateRules = RULES
) -> Decision:
    """Return what the gate says of engines with these separations, champion first."""
    sets = {name: frozen(name, seed=number) for number, name in enumerate((BENCHMARK, LABELS))}
    answers = {
        name: Answers(*(logits(sets[name], separation=one) for one in separations))
        for name, separations in ((BENCHMARK, benchmark), (LABELS, labels))
    }
    return gate.judge(sets, answers, BOTH, SOUND, rules)


def codes(decision: Decision) -> set[str]:
    """Return why it was refused."""
    return {reason.code for reason in decision.reasons}


def test_gate_promotes_an_equal_and_a_better_challenger() -> None:
    """No loss is enough; a gain is told."""
    assert decide().promote
    better = decide(labels=(2.2, 3.0))
    assert better.promote
    assert better.gains[LABELS].difference.low > 0.1


def test_gate_refuses_a_loss_on_either_set() -> None:
    """What is gained on one set does not make up for what is lost on the other."""
    assert "benchmark_loss" in codes(decide(benchmark=(3.0, 2.6), labels=(2.2, 3.0)))
    assert "labels_loss" in codes(decide(labels=(3.0, 2.5)))


def test_gate_refuses_what_so_few_labels_cannot_show() -> None:
    """Forty mismatches cannot show that no more than 0.01 is lost; with four there is nothing to compare."""
    few = frozen(LABELS, 40)
    champion, challenger = logits(few, separation=3.0), logits(few, separation=3.0, seed=2)
    strict = replace(RULES, labels_margin=0.01)
    sets = {BENCHMARK: frozen(BENCHMARK), LABELS: few}
    answers = {BENCHMARK: Answers(*[logits(sets[BENCHMARK])] * 2), LABELS: Answers(champion, challenger)}
    assert codes(gate.judge(sets, answers, BOTH, SOUND, strict)) & {"labels_inconclusive", "labels_loss"}
    sets[LABELS] = frozen(LABELS, 4)
    answers[LABELS] = Answers(*[logits(sets[LABELS])] * 2)
    decision = gate.judge(sets, answers, BOTH, SOUND, RULES)
    assert codes(decision) == {"labels_too_few"}
    assert LABELS not in decision.gains


def test_gate_refuses_thresholds_that_surely_miss_the_precision() -> None:
    """A challenger that ranks as well, but alerts nearly everything; the catalogue's right products tell, too."""
    sets = {name: frozen(name) for name in (BENCHMARK, LABELS)}
    answers = {name: Answers(*[logits(one)] * 2) for name, one in sets.items()}
    loose = manifest(calibration=Calibration(scale=1.0, shift=3.0), threshold=0.3)
    assert codes(gate.judge(sets, answers, Manifests(CHAMPION, loose), SOUND, RULES)) == {
        "precision_missed",
        "alarms_risen",
    }


def test_gate_refuses_thresholds_that_alert_on_right_products_whatever_labels_say() -> None:
    """In all, and in one category; labels by which more than half is wrong have nothing against it."""
    sets = {name: frozen(name) for name in (BENCHMARK, LABELS)}
    sets[LABELS] = replace(sets[LABELS], prevalence=0.6)
    answers = {name: Answers(*[logits(one)] * 2) for name, one in sets.items()}
    loose = msgspec.structs.replace(CHAMPION, threshold=0.0)
    decision = gate.judge(sets, answers, Manifests(CHAMPION, loose), SOUND, RULES)
    assert codes(decision) == {"alarms_risen"}
    assert "benchmark, all, alarms" in decision.harmed
    home = msgspec.structs.replace(CHAMPION, thresholds={"Home": 0.0})
    decision = gate.judge(sets, answers, Manifests(CHAMPION, home), SOUND, RULES)
    assert {"benchmark, all, alarms", "benchmark, category: Home, alarms"} <= set(decision.harmed)
    assert "benchmark, category: Party, alarms" not in decision.harmed


def test_gate_refuses_labels_that_cannot_say_how_many_products_are_wrong() -> None:
    """Alerts alone; and a share of a category at which alerting on all of it would keep the precision."""
    sets = {name: frozen(name) for name in (BENCHMARK, LABELS)}
    answers = {name: Answers(*[logits(one)] * 2) for name, one in sets.items()}
    assert codes(gate.judge(sets, answers, BOTH, SOUND._replace(audited=29), RULES)) == {"audit_missing"}
    half = Prevalence(SOUND.prevalence.overall, {"Home": Interval(0.4, 0.2, 0.6), "Party": Interval(0.2, 0.1, 0.4)})
    (reason,) = gate.judge(sets, answers, BOTH, SOUND._replace(prevalence=half), RULES).reasons
    assert (reason.code, reason.message.split(":")[0]) == ("prevalence_implausible", "Home")


def test_slices_take_a_label_for_what_it_more_likely_is() -> None:
    """A brand of false alarms, each said to be right by one person, is no longer alerted: that is no loss of recall.

    Each such label stands there as a mismatch, too, with a tenth of its weight.
    """
    labels = frozen(LABELS)
    crux = labels.slices()["brand: Crux"]
    (kept,), (guessed,) = np.nonzero(~crux | (labels.pairs.label == 0)), np.nonzero(crux & (labels.pairs.label == 0))
    rows = np.concatenate([kept, guessed])
    guess = np.arange(len(rows)) >= len(kept)
    pairs = Pairs(*(column[rows] for column in labels.pairs))
    pairs.label[guess] = 1
    weights = np.where(guess, 0.1, np.where(crux[rows], 0.9, 1.0))
    after = logits(labels)[rows]
    answers = Answers(np.where(crux[rows], 6.0, after), after)
    guesses = FrozenSet(LABELS, labels.catalog, pairs, weights, 0.3)
    lost = {test.name: test.lost for test in paired.slice_tests(guesses, answers, precision=0.5, samples=50)[::2]}
    assert lost["brand: Crux"] > 0.5
    told = replace(guesses, likely=~guess)
    assert "brand: Crux" not in told.slices()
    assert max(test.lost for test in paired.slice_tests(told, answers, precision=0.5, samples=50)[::2]) < 0.1


def test_slices_of_one_item_are_none() -> None:
    """However many pairs it has: they vary together."""
    asked = frozen(BENCHMARK, 400)
    products = tuple(
        replace(product, fields={"brand": "Acme" if i < 200 else "Bolt"}, group="one" if i < 200 else product.group)
        for i, product in enumerate(asked.catalog.products)
    )
    assert [name for name in asked.slices() if name.startswith("brand")]
    one = replace(asked, catalog=replace(asked.catalog, products=products))
    assert not [name for name in one.slices() if name.startswith("brand")]


@pytest.mark.parametrize(
    ("shipped", "code"),
    [
        (msgspec.structs.replace(CHAMPION, threshold=1.0), "no_alerts"),
        (manifest(calibration=Calibration(scale=0.0001, shift=-3.0), threshold=0.3), "no_alerts"),
        (msgspec.structs.replace(CHAMPION, threshold=0.6), "recall_missed"),
        (msgspec.structs.replace(CHAMPION, thresholds={"Party": 0.9}), "recall_missed"),
    ],
    ids=["threshold nobody reaches", "flat calibration", "threshold too high", "category too high"],
)
def test_gate_refuses_what_is_shipped_to_alert_too_little(shipped: Manifest, code: str) -> None:
    """A challenger that ranks as well, all of whose alerts are right, and that is silent where the champion was not."""
    sets = {name: frozen(name) for name in (BENCHMARK, LABELS)}
    answers = {name: Answers(*[logits(one)] * 2) for name, one in sets.items()}
    assert codes(gate.judge(sets, answers, Manifests(CHAMPION, shipped), SOUND, RULES)) == {code}


def test_gate_does_not_owe_a_lavish_champion_its_recall() -> None:
    """A champion that alerts nearly everything, at no precision, may be replaced by one that keeps the precision."""
    sets = {name: frozen(name) for name in (BENCHMARK, LABELS)}
    answers = {name: Answers(*[logits(one)] * 2) for name, one in sets.items()}
    lavish = msgspec.structs.replace(CHAMPION, threshold=0.001)
    keeping = msgspec.structs.replace(CHAMPION, threshold=0.21)
    decision = gate.judge(sets, answers, Manifests(lavish, keeping), SOUND, RULES)
    assert decision.promote, decision.reasons
    assert decision.shipped is not None
    assert decision.shipped.champion.value < 0.95


def test_gate_refuses_one_poisoned_slice() -> None:
    """A brand of whose wrong pictures a third is no longer found; all others are as good as before."""
    sets = {name: frozen(name) for name in (BENCHMARK, LABELS)}
    answers = {name: Answers(*[logits(one)] * 2) for name, one in sets.items()}
    poisoned = answers[BENCHMARK].champion.copy()
    rows = sets[BENCHMARK].slices()["brand: Crux"] & (sets[BENCHMARK].pairs.label == 1)
    poisoned[rows & (np.random.default_rng(0).random(len(rows)) < 0.35)] = 0.0
    answers[BENCHMARK] = Answers(answers[BENCHMARK].champion, poisoned)
    decision = gate.judge(sets, answers, BOTH, SOUND, replace(RULES, benchmark_margin=1.0))
    assert codes(decision) == {"slice_loss"}
    assert [name for name in decision.harmed if "brand" in name] == ["benchmark, brand: Crux, recall"]


@pytest.mark.parametrize(
    ("columns", "fields", "name"),
    [({"language": "uk"}, {}, "language: uk"), ({}, {"title": "Синій кухоль"}, "language: cyrillic")],
    ids=["by its column", "by its script"],
)
def test_gate_refuses_a_challenger_that_no_longer_understands_a_language(
    columns: dict[str, Any], fields: dict[str, str], name: str
) -> None:
    """Every fifth product is of another language, and a third of its wrong pictures is no longer found."""
    plain = frozen(BENCHMARK, 400)
    products = tuple(
        replace(product, columns=columns, fields=product.fields | fields) if i % 5 == 0 else product
        for i, product in enumerate(plain.catalog.products)
    )
    sets = {
        BENCHMARK: replace(plain, catalog=replace(plain.catalog, products=products)),
        LABELS: frozen(LABELS, 400),
    }
    answers = {name: Answers(*[logits(one)] * 2) for name, one in sets.items()}
    assert gate.judge(sets, answers, BOTH, SOUND, RULES).promote
    poisoned = answers[BENCHMARK].champion.copy()
    rows = sets[BENCHMARK].slices()[name] & (sets[BENCHMARK].pairs.label == 1)
    poisoned[rows & (np.random.default_rng(0).random(len(rows)) < 0.35)] = 0.0
    answers[BENCHMARK] = Answers(answers[BENCHMARK].champion, poisoned)
    decision = gate.judge(sets, answers, BOTH, SOUND, replace(RULES, benchmark_margin=1.0))
    assert codes(decision) == {"slice_loss"}
    assert decision.harmed == (f"benchmark, {name}, recall",)


def test_gate_refuses_false_alarms_that_gather_in_one_slice() -> None:
    """There are as many as before, and all of them are of one brand."""
    sets = {name: frozen(name) for name in (BENCHMARK, LABELS)}
    answers = {name: Answers(*[logits(one)] * 2) for name, one in sets.items()}
    crux, matches = sets[BENCHMARK].slices()["brand: Crux"], sets[BENCHMARK].pairs.label == 0
    moved = answers[BENCHMARK].champion + np.where(crux, 0.9, -0.9) * matches
    answers[BENCHMARK] = Answers(answers[BENCHMARK].champion, moved)
    decision = gate.judge(sets, answers, BOTH, SOUND, replace(RULES, benchmark_margin=1.0))
    assert "benchmark, brand: Crux, false alarms" in decision.harmed
    assert not [name for name in decision.harmed if "Crux" not in name and name.endswith("false alarms")]


def test_gate_seldom_refuses_a_harmless_challenger_for_any_of_its_slices() -> None:
    """With the same quality and other errors: however many slices there are, chance alone refuses one run of twenty."""
    asked = frozen(BENCHMARK)
    refused = 0
    for seed in range(40):
        answers = Answers(logits(asked, seed=100 + seed), logits(asked, seed=200 + seed))
        tests = paired.slice_tests(asked, answers, precision=0.5, samples=100, seed=seed)
        refused += any(paired.harms(tests, RULES.slice_margins(0.05), 0.05))
    assert refused <= 2


@pytest.mark.parametrize(("share", "harmed"), [(0.14, True), (0.08, False)])
def test_gate_refuses_a_slice_that_surely_lost_and_more_than_its_margin(share: float, harmed: bool) -> None:
    """An eighth of a brand's wrong pictures is beyond the tenth that is allowed; a twelfth is a loss, and within it."""
    sets = {name: frozen(name) for name in (BENCHMARK, LABELS)}
    answers = {name: Answers(*[logits(one)] * 2) for name, one in sets.items()}
    spoiled = answers[BENCHMARK].champion.copy()
    rows = sets[BENCHMARK].slices()["brand: Crux"] & (sets[BENCHMARK].pairs.label == 1)
    spoiled[rows & (np.random.default_rng(3).random(len(rows)) < share)] = 0.0
    answers[BENCHMARK] = Answers(answers[BENCHMARK].champion, spoiled)
    decision = gate.judge(sets, answers, BOTH, SOUND, replace(RULES, benchmark_margin=1.0))
    (lost,) = (test for test in decision.slices if (test.name, test.what) == ("benchmark, brand: Crux", "recall"))
    assert lost.p_value < 1e-3
    assert (lost.lost > RULES.slice_margin) == harmed
    assert decision.harmed == (("benchmark, brand: Crux, recall",) if harmed else ())
    assert codes(decision) == ({"slice_loss"} if harmed else set())
    assert decide(rules=replace(RULES, slice_margin=0.0, false_alarm_margin=0.0)).promote  # nothing lost is no harm


def test_gate_refuses_labels_that_say_the_opposite_of_who_learned_from_them() -> None:
    """Flipped in one category, and not learned: benchmark and slices lose nothing, and what is wrong is named."""
    sets = {name: frozen(name) for name in (BENCHMARK, LABELS)}
    answers = {name: Answers(*[logits(one)] * 2) for name, one in sets.items()}
    home = sets[LABELS].slices()["category: Home"]
    pairs = sets[LABELS].pairs
    flipped = pairs._replace(label=np.where(home, 1 - pairs.label, pairs.label))
    decision = gate.judge(sets | {LABELS: replace(sets[LABELS], pairs=flipped)}, answers, BOTH, SOUND, RULES)
    assert "labels_contradict" in codes(decision)
    assert "category: Home" in decision.contradicted
    assert not {"all", "category: Party"} & set(decision.contradicted)
    assert not decide().contradicted


def test_holm_rejects_in_order_until_one_is_left() -> None:
    """The smallest p-value is compared with alpha / 3, the next with alpha / 2."""
    assert paired.holm([0.02, 0.001, 0.3], 0.05) == [True, True, False]
    assert paired.holm([0.03, 0.03, 0.03], 0.05) == [False, False, False]
    assert paired.holm([], 0.05) == []


def test_slices_leave_out_what_is_too_small_or_has_only_one_value() -> None:
    """Twenty brands of one product each are too few even together; a language that all have is no slice."""
    slices = frozen(BENCHMARK).slices()
    assert {name for name in slices if name.startswith("brand")} == {f"brand: {brand}" for brand in BRANDS}
    assert f"brand: {SMALL}" not in slices  # twenty products are too few
    assert set(slices) >= {"category: Home", "category: Party", "image size: under 150 px", "image size: under 1200 px"}
    assert not [name for name in slices if name.startswith("language")]


def test_slices_put_small_ones_together() -> None:
    """Forty brands of one product each are one slice beside a large one."""
    asked = frozen(BENCHMARK, 100)
    products = tuple(
        replace(product, fields={"brand": "Acme" if i < 60 else f"tiny {i}"})
        for i, product in enumerate(asked.catalog.products)
    )
    slices = replace(asked, catalog=replace(asked.catalog, products=products)).slices()
    assert {name for name in slices if name.startswith("brand")} == {"brand: Acme", f"brand: {SMALL}"}


def test_language_is_the_column_s_else_the_script_s() -> None:
    """What the catalogue says counts; else what most letters are."""
    plain = Product(fields={"title": "Синяя кружка big"}, facets=(), identity=0, group="", category="")
    assert language(plain) == "cyrillic"
    assert language(replace(plain, columns={"language": "UK"})) == "uk"
    assert language(replace(plain, fields={"title": "42"})) == "(none)"
    assert [image_size(replace(plain, shorter_side_px=side)) for side in (0, 149, 150, 5000)] == [
        "(none)",
        "under 150 px",
        "under 300 px",
        "from 1200 px",
    ]


def test_recall_gain_weighs_pairs_by_what_they_stand_for() -> None:
    """A match that stands for many, and scores high, costs precision."""
    asked = frozen(LABELS, 100)
    scores = logits(asked, separation=6.0)
    light = paired.recall_gain(asked, Answers(scores, scores), precision=0.5, alpha=0.05, samples=50)
    worst = int(np.argmax(np.where(asked.pairs.label == 0, scores, -np.inf)))
    scores = scores.copy()
    scores[worst] = 20.0
    weights = asked.weights.copy()
    weights[worst] = 30.0
    heavy = replace(asked, weights=weights)
    burdened = paired.recall_gain(heavy, Answers(scores, scores), precision=0.5, alpha=0.05, samples=50)
    assert light.champion.value > 0.9
    assert burdened.champion.value == 0.0
    assert burdened.difference.value == 0.0
