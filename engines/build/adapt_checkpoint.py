"""A checkpoint of a pretrained family and any unlabeled catalogue folder → a release: gather → tune → assemble."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines.build import families, grades, sources, tracking
from engines.build.assemble import HeldOut, assemble, rehearse
from engines.build.columns import find_columns
from engines.build.gather import gather_parts
from engines.build.models.backbones import ImageBackbone
from engines.build.models.pretrained import PretrainedFusion
from engines.build.recipe import PREVALENCE
from engines.build.texts import data_digest, fields_to_read
from engines.build.thresholds import Target
from engines.build.tune import LOGGED, Step, Tuner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.progress import Progress

    from engines.build.assemble import Source
    from engines.build.dataset import Catalog
    from engines.build.recipe import TuneRecipe
    from engines.build.texts import Texts
    from engines.contract import AttributeColumns

TUNED_FOLDER: Final = "tuned"
"""In the work directory: the tuned model in the hub's format, to begin with the next time."""

_BATCH: Final = 32
_LOOKS_SIDE: Final = 224


def adapt_checkpoint(  # noqa: PLR0917 - as `adapt.adapt_folder`, and what to begin with
    family: str,
    checkpoint: str,
    path: Path,
    out: Path,
    work: Path,
    recipe: TuneRecipe,
    *,
    precision: float,
    progress: Progress,
    prevalence: float = PREVALENCE,
) -> Path | None:
    """Fine-tune a checkpoint on a folder of product photos and return the release's directory.

    Partners and grades are found by what ImageNet's weights see, as for the compact family: figures can be compared.
    What an interrupted run has left in `work` is used again. Of several processes one makes the release; the others
    return None.

    Raises:
        EngineUnavailable: `checkpoint`, a directory or a hub id, is not one of this family.
        CatalogInvalid: the folder cannot be read, has too few products, or none that differ in a held-out part.
        ParityExceeded: the exported graph does not reproduce the model.
    """
    load = partial(_load, family, checkpoint, recipe)
    source = load()
    parts = gather_parts(path, image=source.image, seed=recipe.seed, progress=progress, shares=recipe.shares)
    training = parts[0]
    if recipe.attributes:
        source = load(attributes=find_columns([product.columns for product in training.products]))
    fields = fields_to_read([product.fields for product in training.products])
    source = replace(source, text=msgspec.structs.replace(source.text, fields=fields))
    source = replace(source, provenance=source.provenance | _facts(path.name, training, source, recipe))
    looks = [look(part, progress) for part in parts]
    for part, seen in zip(parts[1:], looks[1:], strict=True):
        grades.require_mismatches(part, seen)
    texts = _read(source, training)
    digest = _digest(source)
    tuner = Tuner(source.model, training, texts, looks[0], recipe)
    if tuner.is_main:
        rehearse(source)
    checkpoints = work / f"checkpoint-{digest}"
    tracking.params(source.provenance)
    per_epoch = -(-len(training.products) // recipe.anchors_per_step)
    tuner.run(tracking.by_epoch(_progress_bar(tuner, progress), per_epoch, LOGGED), checkpoints)
    if not tuner.is_main:
        return None
    families.save(source, work / TUNED_FOLDER)
    chosen_on, measured_on = [
        HeldOut(part, source.encode(part), grades.graded_pairs(part, seen, seed=recipe.seed + number))
        for number, (part, seen) in enumerate(zip(parts[1:], looks[1:], strict=True))
    ]
    target = Target(precision, prevalence)
    return assemble(source, [chosen_on], measured_on, target=target, out=out, progress=progress)


@torch.no_grad()
def look(catalog: Catalog, progress: Progress) -> NDArray[np.float32]:
    """Return what each product's first picture looks like to ImageNet's weights, float32 (N, D)."""
    backbone = ImageBackbone()
    first = catalog.first_picture[:-1]
    seen: list[NDArray[np.float32]] = []
    for rows in progress.track(np.split(first, range(_BATCH, len(first), _BATCH)), description="looking at pictures"):
        pixels = torch.from_numpy(catalog.pixel_values[rows]).float()
        sized = F.interpolate(pixels, size=(_LOOKS_SIDE, _LOOKS_SIDE), mode="bilinear", antialias=True)
        seen.append(backbone(sized)[1].mean(dim=(2, 3)).numpy())
    return np.concatenate(seen)


def _load(family: str, checkpoint: str, recipe: TuneRecipe, attributes: AttributeColumns | None = None) -> Source:
    """Return the checkpoint; what it lacks, such as a head, is random, the same for the same seed."""
    torch.manual_seed(recipe.seed)
    return families.load(family, checkpoint, max_tokens=recipe.max_tokens, attributes=attributes)


def _read(source: Source, training: Catalog) -> Texts:
    """Return what the products say; the model standardises their numbers from now on."""
    texts = source.encode(training)
    model = source.model
    if texts.attributes is not None and isinstance(model, PretrainedFusion) and model.resampler is not None:
        model.resampler.standardise_by(torch.from_numpy(texts.attributes))
    return texts


def _facts(name: str, training: Catalog, source: Source, recipe: TuneRecipe) -> dict[str, Any]:
    return {
        "catalog": name,
        "products": len(training.products),
        "data_sha256": data_digest(training, source.text, source.attributes),
        "code_sha256": sources.digest(),
        "recipe": recipe.as_dict(),
    }


def _digest(source: Source) -> str:
    """Return what tells runs apart: of another catalogue, other weights or another recipe nothing is gone on from."""
    digest = hashlib.sha256(msgspec.json.encode(source.provenance, order="deterministic"))
    for tensor in source.model.state_dict().values():
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:12]


def _progress_bar(tuner: Tuner, progress: Progress) -> Callable[[Step], None]:
    task = progress.add_task("training", total=tuner.total)
    recent: deque[float] = deque(maxlen=100)

    def on_step(step: Step) -> None:
        recent.append(step.accuracy)
        told = float(np.mean(recent))
        progress.update(task, completed=step.number, description=f"training: {told:.1%} of pairs told right")

    return on_step
