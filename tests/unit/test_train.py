"""`engines.build.train` on 32 products of two colours: a tiny model, a few steps."""

from __future__ import annotations

import numpy as np
import torch

from engines.build.dataset import Catalog, Product
from engines.build.models.small import SmallConfig, SmallFusion
from engines.build.recipe import Recipe
from engines.build.texts import encode
from engines.build.train import Step, train
from engines.build.vocabulary import train_tokenizer
from engines.contract import TextSpec
from engines.text import Tokenizer

COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}
SPEC = TextSpec(max_tokens=8, fields=("title",))


def catalog() -> Catalog:
    """Return 32 products, red or blue all over, that say so."""
    names = ["red", "blue"] * 16
    products = tuple(
        Product(
            fields={"title": f"a {name} thing"}, facets=(name,), identity=i % 2, group=str(i // 2), category="thing"
        )
        for i, name in enumerate(names)
    )
    pixels = np.stack([np.full((32, 32, 3), COLOURS[name], dtype=np.uint8).transpose(2, 0, 1) for name in names])
    return Catalog(products, ("color",), pixels, np.arange(32))


def run(seed: int = 0) -> tuple[list[Step], SmallFusion]:
    """Train for 48 steps."""
    torch.set_num_threads(1)
    data = catalog()
    tokenizer = Tokenizer(train_tokenizer([p.fields["title"] for p in data.products] * 2, size=40), SPEC)
    torch.manual_seed(seed)
    config = SmallConfig(tokenizer.vocabulary_size, 32, 8, channels=(4, 8, 8, 16), width=16, layers=2, heads=2)
    recipe = Recipe(
        epochs=12,
        seed=seed,
        image_size=32,
        image_sizes=(),
        looking=0.0,
        anchors_per_step=8,
        warmup_steps=4,
        learning_rate=5e-3,
    )
    steps: list[Step] = []
    model = train(SmallFusion(config), data, encode(data, tokenizer), recipe, steps.append)
    return steps, model


def test_train_a_few_steps_lower_the_loss() -> None:
    """Red and blue are learned in less than fifty steps."""
    steps, model = run()
    assert [step.number for step in steps] == list(range(1, 49))
    assert np.mean([step.pair_loss for step in steps[-8:]]) < 0.5 * np.mean([step.pair_loss for step in steps[:8]])
    assert not model.training


def test_train_same_seed_gives_the_same_losses() -> None:
    """A run can be repeated."""
    assert [step.pair_loss for step in run()[0]] == [step.pair_loss for step in run()[0]]


def test_recipe_curriculum_moves_from_easy_to_hard() -> None:
    """The mix of partners is easy at first and hard after the curriculum; sizes grow."""
    recipe = Recipe(epochs=1, seed=0, looking=0.0, curriculum=0.5, image_sizes=((0.5, 96),), image_size=160)
    assert recipe.mix_at(0.0)["sibling"] == 0.0
    assert recipe.mix_at(0.5) == {kind: recipe.hard_mix.get(kind, 0.0) for kind in recipe.mix_at(0.5)}
    assert abs(sum(recipe.mix_at(0.3).values()) - 1) < 1e-9
    assert (recipe.size_at(0.2), recipe.size_at(0.7)) == (96, 160)
