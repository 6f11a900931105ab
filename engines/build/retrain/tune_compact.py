"""A compact release goes on learning: its readers, on the features of the catalogue and of what people have confirmed.

What classifies facets, what that stands on, and the taggers stay as they are: the values that their numbers stand for
are not known here. The readers are trained as they were at first (`engines.build.finetune`), more slowly. Weights of
the signals stay, too, and which of their sums is heard how much (`weighing.keep_balance`). Texts that readers now learn
from are no longer new to the model (`Novelty.learn`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from engines.build import evaluate, tracking
from engines.build.features import extract
from engines.build.finetune import LOGGED, Doubted
from engines.build.models.compact import CompactFusion, Reader
from engines.build.parallel import SEED_STEP, Training, train_all
from engines.build.recipe import AdaptRecipe
from engines.build.schedule import steps_per_epoch
from engines.build.signals import Part, all_signals
from engines.build.weighing import keep_balance

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.progress import Progress

    from engines.build.assemble import Source
    from engines.build.dataset import Catalog
    from engines.build.features import Features
    from engines.build.finetune import Step
    from engines.build.recipe import RetrainRecipe
    from engines.build.retrain.taught import Taught

_LEARNING_RATE: Final = 1e-4
_TYPICAL: Final = 512  # products: their mean is known well enough


def tune(
    source: Source,
    taught: Taught,
    recipe: RetrainRecipe,
    work: Path,
    *,
    on_step: Callable[[int, int], None],
    progress: Progress,
) -> Source:
    """Return the model after its readers have gone on learning, from their last checkpoints in `work`.

    `on_step` is given how many steps of all readers are done, and how many there are.

    Raises:
        CatalogInvalid: there is nothing to exchange: all items show the same.
        TrainingEnded, OSError: as `parallel.train_all`.
    """
    model = source.model
    assert isinstance(model, CompactFusion)
    catalog, chance = _together(taught, recipe)
    features = _extract(model, source, catalog, work / "learned", progress)
    doubted = None
    if len(taught.doubted.chance):
        seen = _extract(model, source, taught.doubted.catalog, work / "doubted", progress)
        doubted = Doubted(seen, taught.mismatch, taught.doubted.chance, recipe.doubted, recipe.doubted_weight)
    if model.novelty is not None:  # a release from before that signal has none
        texts = features.texts
        model.novelty.learn(torch.from_numpy(texts.input_ids), torch.from_numpy(texts.attention_mask))
        model.config = replace(model.config, known_texts=len(model.novelty.known))
    tuned = _recipe(source, len(catalog.products), recipe)
    before = _typical(model, catalog, features)
    labels = np.tile([size + 1 for size in model.config.facets], (len(catalog.products), 1))  # none stated
    labels = labels.astype(np.int64)
    trainings = [
        Training(
            reader,
            catalog,
            features,
            labels,
            replace(tuned, seed=tuned.seed + number * SEED_STEP),
            work / f"checkpoint-{number}.pt",
            chance=chance,
            doubted=doubted,
        )
        for number, reader in enumerate(model.each_reader())
    ]
    for reader in model.each_reader():
        _freeze(reader)
    total = sum(one.steps for one in trainings)

    def bar(_step: Step, done: int) -> None:
        on_step(done, total)

    told = [tracking.by_epoch(bar, recipe.steps, LOGGED) for _ in trainings]
    train_all(trainings, lambda number, step, done: told[number](step, done))
    keep_balance(model, before, _typical(model, catalog, features))
    return replace(source, model=model.eval(), provenance=source.provenance | {"model": model.config.as_dict()})


def _typical(model: CompactFusion, catalog: Catalog, features: Features) -> NDArray[np.floating]:
    """Return the mean of each signal, (S,), over the own pictures of some products."""
    rows = np.arange(min(len(catalog.products), _TYPICAL))
    pairs = evaluate.Pairs(rows, catalog.first_picture[rows], np.zeros_like(rows), np.full(len(rows), evaluate.MATCH))
    found = all_signals(model.eval().signals, Part(catalog, features.texts, features), pairs)
    return np.asarray(found.columns().mean(axis=0))


def _together(taught: Taught, recipe: RetrainRecipe) -> tuple[Catalog, NDArray[np.float64]]:
    """Return all that is taken to be right, and how likely each is the next anchor."""
    replayed, matches = taught.replayed, taught.matches
    if not len(matches.chance):
        return replayed.catalog, replayed.chance
    share = recipe.confirmed / (recipe.replayed + recipe.confirmed)
    chance = np.concatenate([(1 - share) * replayed.chance, share * matches.chance])
    return replayed.catalog.joined(matches.catalog), chance / chance.sum()


def _extract(model: CompactFusion, source: Source, catalog: Catalog, folder: Path, progress: Progress) -> Features:
    folder.mkdir(parents=True, exist_ok=True)
    return extract(model, catalog, source.encode(catalog), folder, progress, AdaptRecipe.views)


def _recipe(source: Source, products: int, recipe: RetrainRecipe) -> AdaptRecipe:
    """Return how readers are trained, for so many steps."""
    tuned = AdaptRecipe(
        seed=recipe.seed,
        max_tokens=source.text.max_tokens,
        anchors_per_step=recipe.replayed + recipe.confirmed,
        learning_rate=_LEARNING_RATE,
        facet_weight=0.0,
        attributes=source.attributes is not None,
    )
    return replace(tuned, epochs=recipe.steps / steps_per_epoch(products, tuned))


def _freeze(reader: Reader) -> None:
    for part in (reader.summary, reader.shown, reader.stated):
        part.requires_grad_(False)
