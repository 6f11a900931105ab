"""`engines.build.tune` on tiny random models: every family learns, is cut, goes on, and shares its pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from engines.build.dataset import Catalog, Product
from engines.build.recipe import TuneRecipe
from engines.build.tune import Step, Tuner
from engines.contract import AttributeColumns
from tests import tiny_families

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

pytestmark = pytest.mark.usefixtures("one_torch_thread")

N = 24
RECIPE = TuneRecipe(seed=3, epochs=20, anchors_per_step=8, learning_rate=3e-3, pairs_at_once=32)
COLUMNS = AttributeColumns(categories={"color": ("red", "blue")})

every_family = pytest.mark.parametrize("family", tiny_families.NAMES)


def catalog() -> Catalog:
    """Return red and blue mugs, and pictures that are red or blue."""
    names = [("red", "blue")[i % 2] for i in range(N)]
    products = tuple(
        Product({"title": "mug", "color": name}, (name,), i, str(i), "mugs", columns={"color": name})
        for i, name in enumerate(names)
    )
    pictures = np.random.default_rng(0).integers(0, 60, (N, 3, tiny_families.SIZE, tiny_families.SIZE), dtype=np.uint8)
    pictures[0::2, 0] += 180
    pictures[1::2, 2] += 180
    return Catalog(products, ("color",), pictures, np.arange(N))


def tuner(family: str, recipe: TuneRecipe = RECIPE, *, attributes: bool = False) -> Tuner:
    """Return a run at its start; every mug's hard partner is of the other color."""
    spec = tiny_families.source(family)
    source = spec if not attributes else tiny_families.source_with(family, COLUMNS)
    looks = np.random.default_rng(1).normal(size=(N, 4))
    return Tuner(source.model, catalog(), source.encode(catalog()), looks, recipe)


def run(made: Tuner, folder: Path) -> tuple[nn.Module, list[Step]]:
    """Train to the end."""
    folder.mkdir(exist_ok=True)
    steps: list[Step] = []
    return made.run(steps.append, folder), steps


@every_family
def test_run_lowers_the_loss(family: str, tmp_path: Path) -> None:
    """Colors are told in the end."""
    recipe = replace(RECIPE, mix={"recolored": 1.0})
    model, steps = run(tuner(family, recipe), tmp_path)
    assert [step.number for step in steps] == list(range(1, 61))
    assert np.mean([step.loss for step in steps[-5:]]) < 0.8 * np.mean([step.loss for step in steps[:5]])
    assert not model.training


def test_run_learns_from_attributes(tmp_path: Path) -> None:
    """A fourth input goes the same way."""
    recipe = replace(RECIPE, mix={"recolored": 1.0})
    _, steps = run(tuner("blip", recipe, attributes=True), tmp_path)
    assert np.mean([step.loss for step in steps[-5:]]) < 0.8 * np.mean([step.loss for step in steps[:5]])


class CutError(Exception):
    """The run is killed here."""


@every_family
def test_run_cut_and_started_again_gives_the_same_model(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed in its eighth step goes on from the sixth and ends where the other one does."""
    monkeypatch.setattr("engines.build.tune._SAVED_EVERY", 3)
    recipe = replace(RECIPE, epochs=4)
    whole, _ = run(tuner(family, recipe), tmp_path / "whole")

    def cut(step: Step) -> None:
        if step.number == 8:
            raise CutError

    (tmp_path / "cut").mkdir()
    with pytest.raises(CutError):
        tuner(family, recipe).run(cut, tmp_path / "cut")
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["6"]
    again, steps = run(tuner(family, recipe), tmp_path / "cut")
    assert [step.number for step in steps] == list(range(7, 13))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_run_that_has_ended_does_nothing_more(tmp_path: Path) -> None:
    """What comes after training may be cut, too."""
    recipe = replace(RECIPE, epochs=1)
    run(tuner("clip", recipe), tmp_path)
    _, steps = run(tuner("clip", recipe), tmp_path)
    assert steps == []


def test_run_pairs_at_once_change_memory_only(tmp_path: Path) -> None:
    """Gradients of parts add up to those of the whole step."""
    recipe = replace(RECIPE, epochs=2)
    _, whole = run(tuner("clip", recipe), tmp_path / "whole")
    _, parts = run(tuner("clip", replace(recipe, pairs_at_once=5)), tmp_path / "parts")
    assert [step.loss for step in parts] == pytest.approx([step.loss for step in whole], rel=1e-3)


def test_share_of_each_process_is_its_own_and_balanced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes draw the same pairs and take each one once, as many matches as mismatches."""
    made = tuner("clip")
    pictures, owners = made._draw()
    shares = []
    for index in range(2):
        monkeypatch.setattr(type(made.accelerator), "process_index", index)
        monkeypatch.setattr(type(made.accelerator), "num_processes", 2)
        shares.append(made._share(pictures, owners))
    assert [labels.mean() for _, _, labels in shares] == [0.5, 0.5]
    products = np.concatenate([products for _, products, _ in shares])
    assert sorted(products.tolist()) == sorted([*owners.tolist(), *owners.tolist()])
    same = [(products[0::2] == products[1::2]).any() for _, products, _ in shares]
    assert same == [False, False]
