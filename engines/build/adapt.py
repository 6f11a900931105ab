"""Any unlabeled catalogue folder → a release of the compact family: gather → split → features → train → assemble."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import torch

from engines import calibration
from engines.build import evaluate, grades
from engines.build.assemble import HeldOut, Source, assemble, rehearse
from engines.build.features import Features, extract
from engines.build.finetune import Step, Trainer
from engines.build.gather import gather_parts
from engines.build.models import compact
from engines.build.models.backbones import text_tokenizer
from engines.build.recipe import PREVALENCE, TEXT_FIELDS
from engines.build.texts import data_digest, encode
from engines.contract import ImageSpec, TextSpec
from engines.text import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.progress import Progress
    from torch import Tensor

    from engines.build.dataset import Catalog
    from engines.build.recipe import AdaptRecipe
    from engines.build.texts import Texts

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
    config = compact.CompactConfig(max_tokens=recipe.max_tokens, **recipe.model)
    image = ImageSpec(height=config.image_size, width=config.image_size)
    text = TextSpec(max_tokens=recipe.max_tokens, fields=TEXT_FIELDS)
    parts = gather_parts(path, image=image, seed=recipe.seed, progress=progress)
    torch.manual_seed(recipe.seed)
    model = compact.CompactFusion(config)
    source = _source(model, image, text, path.name, parts[0], recipe)
    rehearse(source)
    training, validation, test = (
        _part(model, text, part, work / name, progress)
        for name, part in zip(("training", "validation", "test"), parts, strict=True)
    )
    trainer = Trainer(model, training.catalog, training.features, recipe)
    trainer.run(_progress_bar(trainer.total, progress), work / f"checkpoint-{_digest(source.provenance)}.pt")
    weigh(model, validation, validation.pairs(recipe.seed))
    held_out = [
        HeldOut(part.catalog, part.texts, part.pairs(recipe.seed + number))
        for number, part in enumerate((validation, test))
    ]
    return assemble(source, *held_out, precision=precision, out=out, progress=progress)


def weigh(model: compact.CompactFusion, part: Part, pairs: evaluate.Pairs) -> None:
    """Give the similarity the weight in the logit with which the grades are found best, on average.

    Best: recall at precision 0.5 at the stated prevalence.
    """
    fusion, similarity = both_signals(model, part, pairs)

    def quality(weight: float) -> float:
        logits = fusion - weight * similarity
        matches = pairs.label == 0
        recalls = [
            calibration.recall_at_precision(
                logits[matches | (pairs.difference == grade)],
                pairs.label[matches | (pairs.difference == grade)],
                prevalence=PREVALENCE,
                precision=0.5,
            )
            for grade in sorted(set(pairs.difference[~matches].tolist()))
        ]
        return float(np.mean(recalls))

    model.similarity_weight.fill_(max(_SIMILARITY_WEIGHTS, key=quality))


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
        states, ids, mask = part.features.text(product)
        text = model.text_tokens(states, ids)
        fusion.append(model.compare(image, text, mask))
        likeness.append((model.image_embedding(image) * model.text_embedding(text, mask)).sum(dim=-1))
    return torch.cat(fusion).numpy(), torch.cat(likeness).numpy()


def _source(  # noqa: PLR0917 - private, called once
    model: compact.CompactFusion, image: ImageSpec, text: TextSpec, catalog: str, training: Catalog, recipe: AdaptRecipe
) -> Source:
    provenance: dict[str, Any] = {
        "catalog": catalog,
        "products": len(training.products),
        "data_sha256": data_digest(training, text),
        "recipe": recipe.as_dict(),
        "model": model.config.as_dict(),
    }
    return Source(compact.FAMILY, model, text_tokenizer(), image, text, provenance)


def _digest(provenance: dict[str, Any]) -> str:
    """Return what tells runs apart: the checkpoint of another catalogue or recipe is never gone on from."""
    return hashlib.sha256(msgspec.json.encode(provenance, order="deterministic")).hexdigest()[:12]


def _part(model: compact.CompactFusion, text: TextSpec, catalog: Catalog, folder: Path, progress: Progress) -> Part:
    folder.mkdir(parents=True, exist_ok=True)
    texts = encode(catalog, Tokenizer(text_tokenizer(), text))
    return Part(catalog, texts, extract(model, catalog, texts, folder, progress))


def _progress_bar(total: int, progress: Progress) -> Callable[[Step], None]:
    task = progress.add_task("training", total=total)
    recent: list[Step] = []

    def on_step(step: Step) -> None:
        recent.append(step)
        told = float(np.mean([one.accuracy for one in recent[-100:]]))
        progress.update(task, completed=step.number, description=f"training: {told:.1%} of pairs told right")

    return on_step
