"""Any unlabeled catalogue folder → a release of the compact family: gather → split → features → train → assemble."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import torch

from engines import calibration
from engines.build import evaluate, grades, tracking
from engines.build.assemble import HeldOut, Source, assemble, rehearse
from engines.build.baselines import Embedded
from engines.build.columns import find_columns
from engines.build.features import Features, extract, extract_reworded, read_texts
from engines.build.finetune import LOGGED, Step, Trainer
from engines.build.gather import Parts, gather_parts
from engines.build.models import compact
from engines.build.models.attributes import attribute_spec
from engines.build.models.backbones import text_tokenizer
from engines.build.recipe import PREVALENCE, TEXT_FIELDS
from engines.build.texts import data_digest
from engines.contract import ImageSpec, TextSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.progress import Progress
    from torch import Tensor

    from engines.build.dataset import Catalog
    from engines.build.recipe import AdaptRecipe
    from engines.build.texts import Texts
    from engines.contract import AttributeColumns

PART_FOLDERS: Final = ("training", "validation", "test")
"""Where in a work directory the features of each part are kept."""

_BATCH: Final = 64
_SIMILARITY_WEIGHTS: Final = tuple(np.arange(0.0, 24.1, 2.0))


@dataclass(frozen=True)
class Part:
    """One part of the split, ready to be trained on or scored."""

    catalog: Catalog
    texts: Texts
    features: Features

    def pairs(self, seed: int) -> evaluate.Pairs:
        """Return its graded pairs."""
        return grades.graded_pairs(self.catalog, self.features.looks, seed=seed)


@dataclass(frozen=True)
class Prepared:
    """An untrained model and the three parts of a catalogue, as features of its frozen halves."""

    source: Source
    model: compact.CompactFusion
    training: Part
    validation: Part
    test: Part


def adapt_folder(
    path: Path, out: Path, work: Path, recipe: AdaptRecipe, *, precision: float, progress: Progress
) -> Path:
    """Train on a folder of product photos and return the release's directory.

    Products that share a photo, a title or an item group stay together. What an interrupted run has left in `work` is
    used again.

    Raises:
        CatalogInvalid: the folder cannot be read, or has too few products.
        ParityExceeded: the exported graph does not reproduce the model.
    """
    parts = gather_parts(path, image=image_spec(recipe), seed=recipe.seed, progress=progress)
    return adapt_parts(parts, path.name, out, work, recipe, precision=precision, progress=progress)


def adapt_parts(
    parts: Parts, name: str, out: Path, work: Path, recipe: AdaptRecipe, *, precision: float, progress: Progress
) -> Path:
    """Train on the first part of a catalogue, choose weights and threshold on the second, measure on the third.

    Raises:
        ParityExceeded: as `adapt_folder`.
    """
    prepared = prepare(parts, name, work, recipe, progress)
    train(prepared, work, recipe, progress)
    validation = prepared.validation
    weigh(prepared.model, validation, validation.pairs(recipe.seed))
    held_out = [
        HeldOut(part.catalog, part.texts, part.pairs(recipe.seed + number))
        for number, part in enumerate((validation, prepared.test))
    ]
    return assemble(prepared.source, *held_out, precision=precision, out=out, progress=progress)


def image_spec(recipe: AdaptRecipe) -> ImageSpec:
    """Return the pictures that the recipe's model reads."""
    side = _config(recipe).image_size
    return ImageSpec(height=side, width=side)


def text_spec(recipe: AdaptRecipe) -> TextSpec:
    """Return the texts that the recipe's model reads."""
    return TextSpec(max_tokens=recipe.max_tokens, fields=TEXT_FIELDS)


def prepare(parts: Parts, name: str, work: Path, recipe: AdaptRecipe, progress: Progress) -> Prepared:
    """Return what a run of the recipe starts from; the same for the same seed.

    Args:
        parts: to train on, to choose weights and threshold with, to measure on.
        name: of the catalogue, for the release's provenance.
        work: where features are kept.
        recipe: of the run.
        progress: bars are added to it.

    Raises:
        ParityExceeded: the graph, as it would be exported, does not reproduce the model.
    """
    text = text_spec(recipe)
    torch.manual_seed(recipe.seed)
    columns = find_columns([product.columns for product in parts[0].products]) if recipe.attributes else None
    model = compact.CompactFusion(_config(recipe, columns))
    source = _source(model, image_spec(recipe), text, name, parts[0], recipe, columns)
    rehearse(source)
    folders = zip(PART_FOLDERS, parts, strict=True)
    training, validation, test = (_part(model, source, part, work / folder, progress) for folder, part in folders)
    if model.resampler is not None and training.texts.attributes is not None:
        model.resampler.standardise_by(torch.from_numpy(training.texts.attributes))
    if recipe.wrong_texts:
        training = _with_wrong_texts(model, source, training, work / PART_FOLDERS[0], recipe, progress)
    return Prepared(source, model, training, validation, test)


def train(prepared: Prepared, work: Path, recipe: AdaptRecipe, progress: Progress) -> None:
    """Train the prepared model by the recipe, from its last checkpoint in `work` where there is one.

    Raises:
        ValueError: all products show the same.
    """
    trainer = Trainer(prepared.model, prepared.training.catalog, prepared.training.features, recipe)
    digest = _digest(prepared.source.provenance | {"recipe": recipe.as_dict()})
    tracking.params(prepared.source.provenance | {"recipe": recipe.as_dict()})
    per_epoch = -(-len(prepared.training.catalog.products) // recipe.anchors_per_step)
    on_step = tracking.by_epoch(_progress_bar(trainer.total, progress), per_epoch, LOGGED)
    trainer.run(on_step, work / f"checkpoint-{digest}.pt")


def weigh(model: compact.CompactFusion, part: Part, pairs: evaluate.Pairs) -> None:
    """Give the similarity the weight in the logit with which the grades are found best, on average.

    Best: by `mean_recall`.
    """
    fusion, similarity = both_signals(model, part, pairs)

    model.similarity_weight.fill_(
        max(_SIMILARITY_WEIGHTS, key=lambda weight: mean_recall(fusion - weight * similarity, pairs))
    )


def mean_recall(scores: NDArray[np.floating], pairs: evaluate.Pairs) -> float:
    """Return the recall at precision 0.5 at the stated prevalence, on average over the grades."""
    matches = pairs.label == 0
    chosen = (matches | (pairs.difference == grade) for grade in sorted(set(pairs.difference[~matches].tolist())))
    recall = partial(calibration.recall_at_precision, prevalence=PREVALENCE, precision=0.5)
    return float(np.mean([recall(scores[rows], pairs.label[rows]) for rows in chosen]))


@torch.no_grad()
def embed(model: compact.CompactFusion, part: Part) -> Embedded:
    """Return each product's first picture and text in the space of the model's contrastive half."""
    products = np.arange(len(part.catalog.products))
    images: list[Tensor] = []
    texts: list[Tensor] = []
    for rows in np.split(products, range(_BATCH, len(products), _BATCH)):
        shown = part.catalog.first_picture[rows]
        images.append(model.image_embedding(model.image_tokens(*part.features.pictures(shown, np.zeros_like(rows)))))
        texts.append(model.text_embedding(*read_texts(model, part.features, rows)))
    return Embedded(torch.cat(images).numpy(), torch.cat(texts).numpy())


@torch.no_grad()
def both_signals(
    model: compact.CompactFusion, part: Part, pairs: evaluate.Pairs
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return for each pair the fusion layers' logit and the similarity, float32 (M,), from cached features."""
    fusion: list[Tensor] = []
    likeness: list[Tensor] = []
    for rows in np.split(np.arange(len(pairs.label)), range(_BATCH, len(pairs.label), _BATCH)):
        product, picture = pairs.product[rows], pairs.picture[rows]
        image = model.image_tokens(*part.features.pictures(picture, np.zeros(len(rows), dtype=np.int64)))
        text, mask = read_texts(model, part.features, product)
        fusion.append(model.compare(image, text, mask))
        likeness.append((model.image_embedding(image) * model.text_embedding(text, mask)).sum(dim=-1))
    return torch.cat(fusion).numpy(), torch.cat(likeness).numpy()


def _source(  # noqa: PLR0917 - private, called once
    model: compact.CompactFusion,
    image: ImageSpec,
    text: TextSpec,
    catalog: str,
    training: Catalog,
    recipe: AdaptRecipe,
    columns: AttributeColumns | None,
) -> Source:
    provenance: dict[str, Any] = {
        "catalog": catalog,
        "products": len(training.products),
        "data_sha256": data_digest(training, text),
        "recipe": recipe.as_dict(),
        "model": model.config.as_dict(),
    }
    return Source(compact.FAMILY, model, text_tokenizer(), image, text, provenance, columns)


def _config(recipe: AdaptRecipe, columns: AttributeColumns | None = None) -> compact.CompactConfig:
    attributes = None if columns is None else attribute_spec(columns)
    return compact.CompactConfig(max_tokens=recipe.max_tokens, attributes=attributes, **recipe.model)


def _digest(provenance: dict[str, Any]) -> str:
    """Return what tells runs apart: the checkpoint of another catalogue or recipe is never gone on from."""
    return hashlib.sha256(msgspec.json.encode(provenance, order="deterministic")).hexdigest()[:12]


def _part(model: compact.CompactFusion, source: Source, catalog: Catalog, folder: Path, progress: Progress) -> Part:
    folder.mkdir(parents=True, exist_ok=True)
    texts = source.encode(catalog)
    return Part(catalog, texts, extract(model, catalog, texts, folder, progress))


def _with_wrong_texts(  # noqa: PLR0917 - private, called once
    model: compact.CompactFusion, source: Source, part: Part, folder: Path, recipe: AdaptRecipe, progress: Progress
) -> Part:
    reworded = extract_reworded(model, part.catalog, source, recipe.wrong_texts, recipe.seed, folder, progress)
    return replace(part, features=replace(part.features, reworded=reworded))


def _progress_bar(total: int, progress: Progress) -> Callable[[Step], None]:
    task = progress.add_task("training", total=total)
    recent: deque[float] = deque(maxlen=100)

    def on_step(step: Step) -> None:
        recent.append(step.accuracy)
        told = float(np.mean(recent))
        progress.update(task, completed=step.number, description=f"training: {told:.1%} of pairs told right")

    return on_step
