"""Any unlabeled catalogue folder → a release of the compact family: gather → split → features → train → assemble."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from engines.build import evaluate, features, grades, room, sources, tagging, tracking
from engines.build.assemble import HeldOut, Source, assemble, rehearse
from engines.build.columns import find_columns
from engines.build.facets import Facets
from engines.build.features import PART_FOLDERS, extract, extract_reworded, size_bytes
from engines.build.finetune import LOGGED, Step, chunks
from engines.build.gather import ListedParts, Parts, gather_split, list_parts, pictures_need, trained_pictures
from engines.build.models import compact
from engines.build.models.attributes import attribute_spec
from engines.build.models.backbones import text_tokenizer
from engines.build.models.novelty import MOST_KNOWN
from engines.build.models.palette import Palette
from engines.build.parallel import SEED_STEP, OnEpoch, Training, train_all
from engines.build.recipe import PREVALENCE
from engines.build.schedule import steps, steps_per_epoch
from engines.build.signals import Part
from engines.build.tagging import all_pooled, frequent_tokens, train_tagger
from engines.build.texts import data_digest, encode, fields_to_read, written
from engines.build.thresholds import Target
from engines.build.warm_start import MOST_SHARED, WarmStart, shipped
from engines.build.weighing import DRAWS, weigh
from engines.contract import ImageSpec, TextSpec
from engines.text import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.progress import Progress

    from engines.build.dataset import Catalog
    from engines.build.recipe import AdaptRecipe
    from engines.contract import AttributeColumns


@dataclass(frozen=True)
class Prepared:
    """An untrained model and the three parts of a catalogue, as features of its frozen halves.

    `start` is what its readers begin with; None: with nothing.
    """

    source: Source
    model: compact.CompactFusion
    start: WarmStart | None
    facets: Facets
    tokens: NDArray[np.int64]
    training: Part
    validation: Part
    test: Part

    def tuned(self, recipe: AdaptRecipe) -> AdaptRecipe:
        """Return the recipe as it is for what the readers begin with."""
        return recipe if self.start is None else recipe.warm()


def adapt_folder(
    path: Path,
    out: Path,
    work: Path,
    recipe: AdaptRecipe,
    *,
    precision: float,
    progress: Progress,
    prevalence: float = PREVALENCE,
) -> Path:
    """Train on a folder of product photos and return the release's directory.

    Products that share a photo, a title or an item group stay together. What an interrupted run has left in `work` is
    used again; once the release stands, its features are removed.

    Raises:
        CatalogInvalid: the folder cannot be read, or has too few products.
        DiskTooSmall: pictures or features have no room.
        ParityExceeded: the exported graph does not reproduce the model.
        TrainingEnded: a process that trained was ended.
    """
    listed = list_parts(path, seed=recipe.seed, progress=progress, shares=recipe.shares, most=recipe.max_products)
    require_room(listed, work, recipe)
    parts = gather_split(listed, image_spec(recipe), progress)
    release = adapt_parts(
        parts, path.name, out, work, recipe, precision=precision, prevalence=prevalence, progress=progress
    )
    features.remove(work)
    return release


def require_room(parts: ListedParts, work: Path, recipe: AdaptRecipe) -> None:
    """Return if there is room for the pictures of these parts and, in `work`, for their features.

    Raises:
        DiskTooSmall: there is not.
    """
    image = image_spec(recipe)
    texts = [len(parts[0]) * (1 + recipe.wrong_texts), len(parts[1]), len(parts[2])]
    pictures = [trained_pictures(parts[0]), *texts[1:]]
    each = zip(pictures, texts, (recipe.views, 1, 1), strict=True)
    needed = sum(
        size_bytes(shown, said, views=views, side_px=image.height, tokens=recipe.max_tokens)
        for shown, said, views in each
    )
    there = sum(room.taken(work / name) for name in PART_FOLDERS)
    room.require([pictures_need(parts, image), room.Need("features", work, max(0, needed - there), "--work")])


def adapt_parts(
    parts: Parts,
    name: str,
    out: Path,
    work: Path,
    recipe: AdaptRecipe,
    *,
    precision: float,
    progress: Progress,
    prevalence: float = PREVALENCE,
) -> Path:
    """Train on the first part of a catalogue, choose weights and threshold on the second, measure on the third.

    Weights are chosen on one half of the second part's items, calibration and thresholds on the other.

    Raises:
        ParityExceeded, TrainingEnded: as `adapt_folder`.
    """
    prepared = prepare(parts, name, work, recipe, progress)
    train(prepared, work, recipe, progress)
    validation, test = prepared.validation, prepared.test
    weighing, choosing = evaluate.halves(validation.catalog, seed=recipe.seed)
    weigh(prepared.model, validation, seed=recipe.seed, prevalence=prevalence, products=weighing)
    pairs = evaluate.of_products(validation.pairs(recipe.seed + DRAWS), choosing)
    return assemble(
        prepared.source,
        [HeldOut(validation.catalog, validation.texts, pairs)],
        HeldOut(test.catalog, test.texts, test.pairs(recipe.seed + 1)),
        target=Target(precision, prevalence),
        out=out,
        progress=progress,
    )


def image_spec(recipe: AdaptRecipe) -> ImageSpec:
    """Return the pictures that the recipe's model reads."""
    side = _config(recipe).image_size
    return ImageSpec(height=side, width=side)


def text_spec(recipe: AdaptRecipe, training: Catalog) -> TextSpec:
    """Return the texts that the recipe's model reads."""
    return TextSpec(
        max_tokens=recipe.max_tokens, fields=fields_to_read([product.fields for product in training.products])
    )


def prepare(parts: Parts, name: str, work: Path, recipe: AdaptRecipe, progress: Progress) -> Prepared:
    """Return what a run of the recipe starts from; the same for the same seed.

    Args:
        parts: to train on, to choose weights and threshold with, to measure on.
        name: of the catalogue, for the release's provenance.
        work: where features are kept.
        recipe: of the run.
        progress: bars are added to it.

    Raises:
        CatalogInvalid: no wrong picture can be drawn for one of the parts that are held out.
        TextRefused: a product has no text.
        ParityExceeded: the graph, as it would be exported, does not reproduce the model.
    """
    text = text_spec(recipe, parts[0])
    for part in parts:
        written(part, text)  # what has no text is said now, not after an hour
    columns = find_columns([product.columns for product in parts[0].products]) if recipe.attributes else None
    facets = Facets.of(parts[0])
    tokens = frequent_tokens(encode(parts[0], Tokenizer(text_tokenizer(), text)))
    known = min(len(parts[0].products), MOST_KNOWN)
    config = _config(recipe, facets, columns, tags=len(tokens), known_texts=known)
    start = None if recipe.from_scratch else _start(config, parts, progress)
    recipe = recipe if start is None else recipe.warm()
    model = fresh(config, recipe.seed, start)
    source = _source(model, image_spec(recipe), text, name, parts[0], recipe, columns, start)
    _rehearse_one_reader(source, model)
    folders = zip(PART_FOLDERS, parts, strict=True)
    training, validation, test = (
        _part(model, source, part, work / folder, progress, recipe.views if part is parts[0] else 1)
        for folder, part in folders
    )
    for held_out in (validation, test):
        grades.require_mismatches(held_out.catalog, held_out.features.looks)
    standardise(model, training)
    if recipe.wrong_texts:
        training = _with_wrong_texts(model, source, training, work / PART_FOLDERS[0], recipe, progress)
    return Prepared(source, model, start, facets, tokens, training, validation, test)


def _rehearse_one_reader(source: Source, model: compact.CompactFusion) -> None:
    """Rehearse with the first of the readers and taggers, which are alike: an export takes seconds for each."""
    whole = model.readers, model.taggers
    model.readers, model.taggers = model.readers[:1], model.taggers[:1]
    try:
        rehearse(source)
    finally:
        model.readers, model.taggers = whole


def _start(config: compact.CompactConfig, parts: Parts, progress: Progress) -> WarmStart | None:
    """Return what readers of these sizes may begin with, if it has not learned from this catalogue."""
    start = shipped()
    if not start.fits(compact.Reader(config, Palette().size)):
        return None
    shared = start.shared(part.pixel_values for part in parts)
    if shared > MOST_SHARED:
        progress.console.print(
            f"{shared:.0%} of these pictures have taught the readers that ship: begins from nothing, or figures would "
            "be of products that are known"
        )
        return None
    return start


def fresh(config: compact.CompactConfig, seed: int, start: WarmStart | None) -> compact.CompactFusion:
    """Return a model that has learned nothing of its catalogue."""
    torch.manual_seed(seed)
    model = compact.CompactFusion(config)
    if start is not None:
        start.begin(model)
    return model


def standardise(model: compact.CompactFusion, training: Part) -> None:
    """Tell an untrained model how large its inputs are, and which texts it is going to know."""
    pictures = training.catalog.first_picture[:-1]
    model.standardise_by(training.features.as_they_are(part) for part in chunks(pictures))
    texts = training.features.texts
    assert model.novelty is not None
    model.novelty.know(torch.from_numpy(texts.input_ids), torch.from_numpy(texts.attention_mask))
    for reader in model.each_reader():
        if reader.resampler is not None and training.texts.attributes is not None:
            reader.resampler.standardise_by(torch.from_numpy(training.texts.attributes))


def train(
    prepared: Prepared,
    work: Path,
    recipe: AdaptRecipe,
    progress: Progress,
    on_epoch: OnEpoch | None = None,
) -> None:
    """Train the prepared model's taggers and readers by the recipe, from their last checkpoints in `work`.

    `on_epoch` is that of `parallel.train_all`.

    Raises:
        CatalogInvalid, TrainingEnded, OSError: as `parallel.train_all`.
    """
    model, training, recipe = prepared.model, prepared.training, prepared.tuned(recipe)
    provenance = prepared.source.provenance | {"recipe": recipe.as_dict()}
    tracking.params(provenance)
    if recipe.tag_epochs != 0:
        _train_taggers(prepared, work, recipe, progress)
    products, digest = len(training.catalog.products), _digest(provenance)
    labels = prepared.facets.labels(training.catalog)
    trainings = [
        Training(
            reader,
            training.catalog,
            training.features,
            labels,
            replace(recipe, seed=recipe.seed + number * SEED_STEP),
            work / f"checkpoint-{digest}-{number}.pt",
        )
        for number, reader in enumerate(model.each_reader())
    ]
    bar = _progress_bar(steps(products, recipe) * len(trainings), progress)
    told = [tracking.by_epoch(bar, steps_per_epoch(products, recipe), LOGGED) for _ in trainings]
    train_all(trainings, lambda number, step, done: told[number](step, done), on_epoch)
    model.eval()


def _source(  # noqa: PLR0917 - private, called once
    model: compact.CompactFusion,
    image: ImageSpec,
    text: TextSpec,
    catalog: str,
    training: Catalog,
    recipe: AdaptRecipe,
    columns: AttributeColumns | None,
    start: WarmStart | None,
) -> Source:
    provenance: dict[str, Any] = {
        "catalog": catalog,
        "products": len(training.products),
        "data_sha256": data_digest(training, text, columns),
        "code_sha256": sources.digest(),
        "warm_start_sha256": None if start is None else start.digest,
        "recipe": recipe.as_dict(),
        "model": model.config.as_dict(),
    }
    return Source(compact.FAMILY, model, text_tokenizer(), image, text, provenance, columns)


def _train_taggers(prepared: Prepared, work: Path, recipe: AdaptRecipe, progress: Progress) -> None:
    """Train each tagger from the start, or read it where an earlier run has finished it."""
    training, taggers = prepared.training, prepared.model.each_tagger()
    file = work / f"taggers-{_digest(prepared.source.provenance | {'recipe': recipe.as_dict()})}.pt"
    if file.exists():
        prepared.model.taggers.load_state_dict(torch.load(file, weights_only=True))
        return
    pooled, owners = all_pooled(training.features), training.catalog.picture_owner
    total = tagging.steps(len(pooled), recipe.tagged)
    task = progress.add_task("learning words", total=total * len(taggers))
    for number, tagger in enumerate(taggers):
        seed = recipe.seed + number * SEED_STEP
        texts = training.features.texts
        train_tagger(
            tagger, prepared.tokens, pooled, owners, texts, recipe.tagged, seed, partial(progress.advance, task)
        )
    partial_file = file.with_suffix(".partial")
    torch.save(prepared.model.taggers.state_dict(), partial_file)
    partial_file.replace(file)


def _config(
    recipe: AdaptRecipe,
    facets: Facets | None = None,
    columns: AttributeColumns | None = None,
    *,
    tags: int = 0,
    known_texts: int = 0,
) -> compact.CompactConfig:
    return compact.CompactConfig(
        max_tokens=recipe.max_tokens,
        tags=tags,
        known_texts=known_texts,
        facets=() if facets is None else facets.sizes,
        attributes=None if columns is None else attribute_spec(columns),
        **recipe.model,
    )


def _digest(provenance: dict[str, Any]) -> str:
    """Return what tells runs apart: no checkpoint of another catalogue, recipe or code is gone on from."""
    return hashlib.sha256(msgspec.json.encode(provenance, order="deterministic")).hexdigest()[:12]


def _part(  # noqa: PLR0917 - private, called once
    model: compact.CompactFusion, source: Source, catalog: Catalog, folder: Path, progress: Progress, views: int
) -> Part:
    folder.mkdir(parents=True, exist_ok=True)
    texts = source.encode(catalog)
    return Part(catalog, texts, extract(model, catalog, texts, folder, progress, views))


def _with_wrong_texts(  # noqa: PLR0917 - private, called once
    model: compact.CompactFusion, source: Source, part: Part, folder: Path, recipe: AdaptRecipe, progress: Progress
) -> Part:
    reworded = extract_reworded(model, part.catalog, source, recipe.wrong_texts, recipe.seed, folder, progress)
    return replace(part, features=replace(part.features, reworded=reworded))


def _progress_bar(total: int, progress: Progress) -> Callable[[Step, int], None]:
    task = progress.add_task("training", total=total)
    recent: deque[float] = deque(maxlen=100)

    def on_step(step: Step, done: int) -> None:
        recent.append(step.accuracy)
        told = float(np.mean(recent))
        progress.update(task, completed=done, description=f"training: {told:.1%} of pairs told right")

    return on_step
