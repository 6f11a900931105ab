"""A catalogue → a release of the small family, trained from scratch: gather → split → tokenizer → train → assemble."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from engines.build import evaluate
from engines.build.assemble import HeldOut, Source, assemble, rehearse
from engines.build.gather import gather_parts, gather_rendered
from engines.build.models import small
from engines.build.recipe import PREVALENCE
from engines.build.texts import data_digest, fields_to_read, written
from engines.build.thresholds import Target
from engines.build.train import Step, count_steps, train
from engines.build.vocabulary import train_tokenizer
from engines.contract import ImageSpec, TextSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.progress import Progress

    from engines.build.dataset import Catalog
    from engines.build.recipe import Recipe

RENDERED_PRODUCTS: Final = 8000
RENDERED_PRECISION: Final = 0.8

_HELD_OUT_PRODUCTS: Final = 1500
FOLDER_MIX: Final = {"random": 0.2, "category": 0.3, "sibling": 0.5}
"""Mismatches of a folder's figures: as wrong pictures come, some absurd, most plausible."""


def build_rendered(out: Path, recipe: Recipe, *, products: int, precision: float, progress: Progress) -> Path:
    """Train on drawn products and return the release's directory.

    Products to train, to choose the threshold and to measure on are drawn from the recipe's seed + 1, 2 and 3.

    Raises:
        ParityExceeded: the exported graph does not reproduce the model.
    """
    image = ImageSpec(height=recipe.image_size, width=recipe.image_size)
    held_out_products = min(_HELD_OUT_PRODUCTS, products)
    training, validation, test = (
        gather_rendered(count, seed=recipe.seed + index, image=image, progress=progress)
        for index, count in enumerate((products, held_out_products, held_out_products), start=1)
    )
    source = _train(training, recipe, image, {"catalog": "rendered", "products": products}, progress)
    chosen_on, measured_on = [
        _held_out(source, catalog, evaluate.hard_pairs(catalog, seed=recipe.seed + index))
        for index, catalog in enumerate((validation, test))
    ]
    return assemble(source, [chosen_on], measured_on, target=Target(precision, PREVALENCE), out=out, progress=progress)


def build_folder(
    path: Path, out: Path, recipe: Recipe, *, precision: float, progress: Progress, prevalence: float = PREVALENCE
) -> Path:
    """Train on a folder of product photos and return the release's directory.

    Raises:
        CatalogInvalid: the folder cannot be read, or has too few products.
        ParityExceeded: the exported graph does not reproduce the model.
    """
    image = ImageSpec(height=recipe.image_size, width=recipe.image_size)
    training, validation, test = gather_parts(
        path, image=image, seed=recipe.seed, progress=progress, shares=recipe.shares
    )
    facts = {"catalog": path.name, "products": len(training.products)}
    source = _train(training, recipe, image, facts, progress)
    chosen_on, measured_on = [
        _held_out(source, part, evaluate.mixed_pairs(part, FOLDER_MIX, seed=recipe.seed + index))
        for index, part in enumerate((validation, test))
    ]
    target = Target(precision, prevalence)
    return assemble(source, [chosen_on], measured_on, target=target, out=out, progress=progress)


def _train(catalog: Catalog, recipe: Recipe, image: ImageSpec, facts: dict[str, Any], progress: Progress) -> Source:
    """Return the trained model with all that a release of it says."""
    text = TextSpec(
        max_tokens=recipe.max_tokens, fields=fields_to_read([product.fields for product in catalog.products])
    )
    vocabulary = train_tokenizer(written(catalog, text), size=recipe.vocabulary_size)
    torch.manual_seed(recipe.seed)
    config = small.SmallConfig(
        vocabulary_size=vocabulary.get_vocab_size(),
        image_size=recipe.image_size,
        max_tokens=recipe.max_tokens,
        **recipe.model,
    )
    model = small.SmallFusion(config)
    provenance = facts | {
        "data_sha256": data_digest(catalog, text),
        "recipe": recipe.as_dict(),
        "model": config.as_dict(),
    }
    source = Source(small.FAMILY, model, vocabulary, image, text, provenance)
    rehearse(source)
    train(model, catalog, source.encode(catalog), recipe, _progress_bar(count_steps(catalog, recipe), progress))
    return source


def _held_out(source: Source, catalog: Catalog, pairs: evaluate.Pairs) -> HeldOut:
    return HeldOut(catalog, source.encode(catalog), pairs)


def _progress_bar(total: int, progress: Progress) -> Callable[[Step], None]:
    task = progress.add_task("training", total=total)
    recent: list[float] = []

    def on_step(step: Step) -> None:
        recent.append(step.accuracy)
        told = float(np.mean(recent[-50:]))
        state = f"loss {step.teaching_loss:.2f}" if math.isnan(told) else f"{told:.1%} of pairs told right"
        progress.update(task, completed=step.number, description=f"training: {state}")

    return on_step
