"""`engines.build.baselines` on made-up vectors: each judge finds the swaps that it can see."""

from __future__ import annotations

import numpy as np
import pytest

from engines import calibration
from engines.build import baselines
from engines.build.baselines import Embedded
from engines.build.dataset import Catalog, Product
from engines.build.evaluate import MATCH, Pairs
from engines.build.features import Features
from engines.build.texts import Texts
from engines.build.traits import unit

pytestmark = pytest.mark.usefixtures("one_torch_thread")

N, KINDS, TOKENS = 120, 4, 3


def kinds() -> np.ndarray:
    """Return the kind of each product."""
    return np.arange(N) % KINDS


def swaps() -> Pairs:
    """Return every product with its own picture and with one of another kind."""
    products = np.arange(N)
    return Pairs(
        product=np.concatenate([products, products]),
        picture=np.concatenate([products, (products + 1) % N]),
        label=np.repeat([0, 1], N),
        difference=np.repeat([MATCH, "easy"], N),
    )


def cluttered(centres: np.ndarray, seed: int, noise: float = 0.3) -> np.ndarray:
    """Return each product's kind's centre, and noise."""
    generator = np.random.default_rng(seed)
    return (centres[kinds()] + noise * generator.normal(size=(N, centres.shape[1]))).astype(np.float32)


def features() -> Features:
    """Return pictures and texts that tell the kind, in spaces that have nothing in common."""
    looks = cluttered(np.random.default_rng(1).normal(size=(KINDS, 12)), seed=2)
    cells = looks[:, None, :, None, None].astype(np.float16)
    words = cluttered(np.random.default_rng(3).normal(size=(KINDS, 384)), seed=4)
    mask = np.ones((N, TOKENS), dtype=np.int32)
    mask[:, -1] = 0
    states = np.repeat(words[:, None], TOKENS, axis=1).astype(np.float16)
    states[:, -1] = 100.0  # padding, which must not be read
    return Features(
        middle=cells,
        final=cells,
        palette=np.zeros((N, 1, 1, 1, 1), np.float16),
        looks=looks,
        states=states,
        texts=Texts(np.ones_like(mask), mask),
    )


def catalog() -> Catalog:
    """Return the products."""
    products = tuple(Product({}, (), identity=i, group=str(i), category="") for i in range(N))
    return Catalog(products, (), np.zeros((N, 3, 1, 1), np.uint8), np.arange(N))


def test_pooled_mlp_tells_kinds_apart() -> None:
    """It learns which picture goes with which text, from pictures exchanged at random."""
    model = baselines.train_pooled(catalog(), features(), {"random": 1.0}, seed=0)
    pairs = swaps()
    scores = baselines.score_pooled(model, catalog(), features(), pairs.picture, pairs)
    assert calibration.auc(scores, pairs.label) > 0.95


def test_pooled_does_not_read_padding() -> None:
    """The mean is over the words that the mask shows."""
    vectors = baselines.pooled(catalog(), features())
    assert np.abs(vectors.text).max() < 10


def test_lemon_finds_by_neighbours_what_the_own_distance_does_not_show() -> None:
    """Where the two halves of a space do not meet, only neighbours tell that a picture is of another kind."""
    image, text = (np.zeros((N, 32), np.float32) for _ in range(2))
    image[:, :16] = unit(cluttered(np.random.default_rng(5).normal(size=(KINDS, 16)), seed=6))
    text[:, 16:] = unit(cluttered(np.random.default_rng(7).normal(size=(KINDS, 16)), seed=8))
    pairs = swaps()
    own, by_picture, by_text = baselines.lemon(Embedded(image, text), Embedded(image, text), pairs.picture, pairs)
    assert calibration.auc(own, pairs.label) < 0.9
    assert calibration.auc(by_picture, pairs.label) > 0.95
    assert calibration.auc(by_text, pairs.label) > 0.95


def test_lemon_finds_by_distance_what_is_far_apart() -> None:
    """In a space that both share, a pair's own distance tells."""
    space = np.random.default_rng(9).normal(size=(KINDS, 16))
    both = Embedded(unit(cluttered(space, seed=10)), unit(cluttered(space, seed=11)))
    own, _, _ = baselines.lemon(both, both, swaps().picture, swaps())
    assert calibration.auc(own, swaps().label) > 0.95
