"""Weights of signals are fitted on some items, for both ways to be wrong; calibration and thresholds on others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engines import calibration
from engines.build import evaluate, weighing
from engines.build.dataset import Catalog, Product
from engines.build.models.compact import either
from engines.build.signals import Evidence


def catalog(count: int) -> Catalog:
    """Return products in pairs of variants."""
    products = tuple(Product({}, (), i, str(i // 2), "mugs") for i in range(count))
    return Catalog(products, (), np.zeros((count, 3, 1, 1), np.uint8), np.arange(count))


def test_halves_share_no_item() -> None:
    """No variant of what weights were chosen on is among what thresholds are chosen on."""
    data = catalog(600)
    one, other = evaluate.halves(data, seed=1)
    assert (one ^ other).all()
    assert one.sum() == other.sum() == 300
    assert not {p.group for p, own in zip(data.products, one, strict=True) if own} & {
        p.group for p, own in zip(data.products, other, strict=True) if own
    }
    assert (one == evaluate.halves(data, seed=1)[0]).all()


def test_halves_of_few_products_are_all_of_them() -> None:
    """Thirty products would tell less of a threshold than all sixty that weights were chosen on."""
    one, other = evaluate.halves(catalog(60), seed=1)
    assert one.all()
    assert other.all()


def test_pairs_of_products_are_those_of_their_texts() -> None:
    """Pictures of the other half may be wrong pictures of this one."""
    pairs = evaluate.Pairs(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([0, 0, 1]), np.array(["a", "b", "c"]))
    found = evaluate.of_products(pairs, np.array([False, True]))
    assert [column.tolist() for column in found] == [[1, 1], [1, 0], [0, 1], ["b", "c"]]


def test_halves_of_a_catalogue_that_is_mostly_one_item_are_all_of_it() -> None:
    """An item group that holds a whole brand is in one half; the other would have nothing to choose with."""
    products = tuple(Product({}, (), i, "brand" if i < 480 else str(i), "mugs") for i in range(500))
    one, other = evaluate.halves(Catalog(products, (), np.zeros((500, 3, 1, 1), np.uint8), np.arange(500)), seed=1)
    assert one.all()
    assert other.all()


DETAIL, WHOLE = "hard", "easy"


def two_ways(products: int, seed: int) -> tuple[Evidence, evaluate.Pairs]:
    """Return pairs of which one kind is seen by fusion alone, and the other by the similarity alone; color is noise."""
    generator = np.random.default_rng(seed)
    difference = np.repeat(["match", DETAIL, WHOLE], products)
    columns = generator.normal(size=(4, len(difference))).astype(np.float32)
    columns[0] += 4 * (difference == DETAIL)
    columns[1] += 4 * (difference == WHOLE)
    nothing = np.zeros((len(difference), 0), np.float32)
    surprise = np.ascontiguousarray(columns[2:].T)
    signals = Evidence(columns[0], surprise, similarity=-columns[1] / 10, denial=nothing, novelty=nothing)
    product = np.tile(np.arange(products), 3)
    return signals, evaluate.Pairs(product, product, (difference != "match").astype(np.int64), difference)


def test_a_picture_wrong_in_either_way_is_found() -> None:
    """One sum has the noise of both signals for each kind; the soft maximum finds both nearly as one signal would."""
    signals, pairs = two_ways(400, 1)
    asked, others = two_ways(4000, 2)
    found = weighing.mean_recall(weighing.combined(asked, weighing.fit(signals, pairs)), others)
    one_sum = weighing.mean_recall(asked.fusion - 10 * asked.similarity, others)
    assert found > one_sum + 0.05
    assert found > 0.9


@pytest.mark.parametrize("products", [30, 60, 400])
@pytest.mark.parametrize("prevalence", [0.001, 0.05])
def test_both_ways_stay_in_use(products: int, prevalence: float) -> None:
    """However little is known, and however rare a wrong picture is: the second way leads where all is wrong."""
    signals, pairs = two_ways(products, 1)
    found = weighing.fit(signals, pairs, prevalence)
    asked, others = two_ways(1000, 2)
    ways = asked.columns() @ found.weights.T + found.biases
    assert (ways[others.difference == WHOLE, 1] > ways[others.difference == WHOLE, 0]).mean() > 0.5
    assert (ways[others.difference == DETAIL, 0] > ways[others.difference == DETAIL, 1]).mean() > 0.5


def test_a_signal_that_hardly_varies_is_not_blown_up() -> None:
    """Logits in float32, as a graph has them, are those of float64: no weight is in the hundreds."""
    signals, pairs = two_ways(400, 1)
    flat = signals._replace(fusion=4 + signals.fusion / 500)
    found = weighing.fit(flat, pairs)
    weights, biases = (torch.from_numpy(one).float() for one in found)
    graph = either(torch.from_numpy(flat.columns()) @ weights.T + biases)
    np.testing.assert_allclose(graph.numpy(), weighing.combined(flat, found), atol=1e-5)


def test_what_all_pictures_are_said_more_of_changes_no_order() -> None:
    """Readers that went on learning say two more of everything: both ways are heard as before."""
    torch.manual_seed(0)
    model: Any = SimpleNamespace(signal_weights=torch.rand(2, 4), signal_biases=torch.tensor([-2.0, -5.0]))
    columns = torch.randn(50, 4)
    before = either(columns @ model.signal_weights.T + model.signal_biases)
    shifted = columns + torch.tensor([2.0, 0.1, 0.0, 0.0])
    weighing.keep_balance(model, columns.mean(dim=0).numpy(), shifted.mean(dim=0).numpy())
    more = either(shifted @ model.signal_weights.T + model.signal_biases) - before
    torch.testing.assert_close(more, more[:1].expand(50), atol=1e-4, rtol=0)


def test_weights_are_not_below_zero_and_noise_weighs_little() -> None:
    """In both ways; a signal against its own meaning would be learned from chance alone."""
    signals, pairs = two_ways(400, 1)
    weights = weighing.fit(signals, pairs).weights
    assert (weights >= 0).all()
    assert weights[:, 2:].max() < 0.1 * weights[0, 0]


def test_the_fewer_products_the_less_is_learned_from_each() -> None:
    """The same figures of one in ten products: weights stay nearer to those that they are drawn to."""
    signals, pairs = two_ways(400, 1)
    few = pairs._replace(product=pairs.product // 40)
    scale = signals.columns().std(axis=0)
    away = [np.abs(weighing.fit(signals, drawn).weights[0, 0] * scale[0] - 1.3) for drawn in (few, pairs)]
    assert away[0] < 0.8 * away[1]


def with_new_texts(products: int, seed: int) -> tuple[Evidence, evaluate.Pairs]:
    """Return pairs of which one text in ten is new, and looks wrong with whatever picture."""
    signals, pairs = two_ways(products, seed)
    new = np.random.default_rng(seed).random(products) < 0.1
    novelty = np.where(new, 0.3, 0.1).astype(np.float32)[pairs.product, None]
    return signals._replace(fusion=signals.fusion + 20 * (novelty[:, 0] - 0.1), novelty=novelty), pairs


def test_a_text_like_none_before_needs_more_to_be_called_wrong() -> None:
    """Where new texts look wrong, their novelty weighs against it; where they do not, it weighs next to nothing."""
    signals, pairs = with_new_texts(400, 1)
    asked, others = with_new_texts(4000, 2)
    found = weighing.fit(signals, pairs)
    without = weighing.combined(asked, found._replace(weights=found.weights * [1, 1, 1, 1, 0]))
    gained = weighing.mean_recall(weighing.combined(asked, found), others) - weighing.mean_recall(without, others)
    assert gained > 0.1
    harmless = weighing.fit(two_ways(400, 1)[0]._replace(novelty=signals.novelty), pairs)
    assert harmless.weights[0, 4] < 0.1 * found.weights[0, 4]


def test_novelty_is_bounded_by_what_held_out_texts_showed(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the model was weighed before; weights are fitted on unbounded figures."""
    signals, pairs = with_new_texts(60, 1)
    seen: list[list[float]] = []

    def asked(*_: object) -> Evidence:
        seen.append(model.novelty.bounds.tolist())
        return Evidence(*(np.concatenate([one] * weighing.DRAWS) for one in signals))

    monkeypatch.setattr(weighing, "all_signals", asked)
    model: Any = SimpleNamespace(
        novelty=SimpleNamespace(bounds=torch.tensor([0.2, 0.2])),
        signals=None,
        signal_weights=torch.zeros(2, 5),
        signal_biases=torch.zeros(2),
    )
    part: Any = SimpleNamespace(pairs=lambda _seed: pairs)
    weighing.weigh(model, part, seed=0)
    assert seen == [[0.0, 1.0]]
    torch.testing.assert_close(model.novelty.bounds, torch.tensor([0.1, 0.3]))


def test_a_signal_that_is_always_the_same_has_no_weight() -> None:
    """No text here states this facet, others will: nobody knows what its surprise is worth."""
    signals, pairs = two_ways(400, 1)
    unstated = np.zeros_like(signals.surprise[:, :1])
    silent = signals._replace(fusion=np.ones_like(signals.fusion), surprise=unstated)
    found = weighing.fit(silent, pairs)
    assert (found.weights[:, [0, 2]] == 0).all()
    logits = weighing.combined(silent, found)
    rows = pairs.difference != DETAIL
    assert calibration.auc(logits[rows], pairs.label[rows]) > 0.95


def test_a_signal_that_speaks_up_rarely_does_not_outweigh_all_else() -> None:
    """One text in a thousand states it, beside a wrong picture: a nat of it is a nat of evidence at most."""
    signals, pairs = two_ways(400, 1)
    rare = np.zeros_like(signals.surprise[:, :1])
    rare[1000] = 0.5
    assert weighing.fit(signals._replace(surprise=rare), pairs).weights[:, 2].max() <= 1 + 1e-9


def test_either_is_the_soft_maximum_and_finite() -> None:
    """log(e^a + e^b), also where e^a is no number."""
    ways = torch.tensor([[1.0, 2.0], [3e4, -3e4], [-3e4, -3e4], [700.0, 700.0]])
    torch.testing.assert_close(either(ways), torch.logaddexp(ways[:, 0], ways[:, 1]))
