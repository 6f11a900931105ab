"""The methods that `quality.py` compares: each is trained on the same products and asked about the same pairs.

A method leaves its scores of validation and test pairs in `Bench.scores`, beside what they are made of. Its free
weights, if it has any, are chosen on validation pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import torch
from quality_figures import ALONE, DUALS, FUSION, HALF, UNATTENDED, by_grade, mean_quality
from quality_scores import PARTS, Scores, joined, unscored

from engines import calibration
from engines.build import adapt, baselines, evaluate, weighing
from engines.build.adapt_checkpoint import adapt_checkpoint
from engines.build.evaluate import Pairs, score
from engines.build.gather import gather_parts
from engines.build.models.compact import CompactFusion
from engines.build.recipe import TuneRecipe
from engines.build.signals import all_signals, embed
from engines.build.texts import encode
from engines.runtime.loader import load, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from quality_run import Run
    from quality_scores import ScoredPairs
    from rich.progress import Progress
    from torch import Tensor, nn

    from engines.build.adapt import Prepared
    from engines.build.models.compact import Reader, Sight, Signals
    from engines.build.recipe import AdaptRecipe
    from engines.build.signals import Evidence, Part

    Both = tuple[NDArray[np.floating], NDArray[np.floating]]
    """Of validation and test pairs."""

POOLED: Final = "pooled vectors + MLP"
LEMON: Final = "LEMoN"
_LEMON_WEIGHTS: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
_CURVE: Final = 1000  # validation pairs, or some more, behind each point of a learning curve: all cost minutes
_FEW: Final = 500  # training pictures that are decoded again at another family's size, since the split decodes some


@dataclass(frozen=True)
class Bench:
    """What all methods share: features of the split, pairs to choose weights with, pairs to measure on."""

    catalog: Path
    shares: tuple[float, float, float]
    prepared: Prepared
    recipe: AdaptRecipe
    dual_epochs: float | None
    progress: Progress
    run: Run
    pairs: tuple[Pairs, Pairs]
    scores: Scores
    weights: dict[str, dict[str, list[float]]] = field(default_factory=dict[str, dict[str, list[float]]])

    @classmethod
    def begin(  # noqa: PLR0917 - as the fields
        cls,
        catalog: Path,
        shares: tuple[float, float, float],
        prepared: Prepared,
        recipe: AdaptRecipe,
        dual_epochs: float | None,
        progress: Progress,
        run: Run,
    ) -> Self:
        """Draw the pairs that all methods are asked about: weights and thresholds are chosen as `adapt` does."""
        seed, part = recipe.seed, prepared.validation
        weighed, chosen = evaluate.halves(part.catalog, seed=seed)
        validation = [evaluate.of_products(part.pairs(seed + n), weighed) for n in range(weighing.DRAWS)]
        validation.append(evaluate.of_products(part.pairs(seed + weighing.DRAWS), chosen))
        test = prepared.test.pairs(seed + 1)
        return cls(
            catalog=catalog,
            shares=shares,
            prepared=prepared,
            recipe=recipe,
            dual_epochs=dual_epochs,
            progress=progress,
            run=run,
            pairs=(joined(validation), test),
            scores=Scores(
                unscored(part.catalog, validation, choosing=weighing.DRAWS), unscored(prepared.test.catalog, [test])
            ),
        )

    def parts(self) -> tuple[tuple[Part, Pairs], tuple[Part, Pairs]]:
        """Return validation and test, each with its pairs."""
        return (self.prepared.validation, self.pairs[0]), (self.prepared.test, self.pairs[1])

    def scored(self) -> tuple[ScoredPairs, ScoredPairs]:
        """Return where the scores of validation and test pairs are kept."""
        return self.scores.validation, self.scores.test

    def keep(self, method: str, scores: Both) -> None:
        """Keep what a method says of both."""
        for pairs, of in zip(self.scored(), scores, strict=True):
            pairs.methods[method] = of

    def keep_signals(self, name: str, columns: Both) -> None:
        """Keep what a score is made of, or could be."""
        for pairs, of in zip(self.scored(), columns, strict=True):
            pairs.signals[name] = of

    def trained(self, recipe: AdaptRecipe, on_epoch: Callable[[int, int, Reader], None] | None = None) -> CompactFusion:
        """Return a compact model trained by the recipe from the start, or from where an earlier run was cut."""
        model = adapt.fresh(self.prepared.model.config, recipe.seed, self.prepared.start)
        adapt.standardise(model, self.prepared.training)

        def saved(number: int, epoch: int, reader: Reader) -> None:
            self.run.tick()
            if on_epoch is not None:
                on_epoch(number, epoch, reader)  # counted, as part of training: other readers may go on meanwhile

        adapt.train(replace(self.prepared, model=model), self.run.work, recipe, self.progress, saved)
        return model

    def asked(self, signals: Callable[..., Signals]) -> tuple[Evidence, Evidence]:
        """Return what a model, or a reader of it, says of validation and test pairs."""
        validation, test = (all_signals(signals, part, pairs) for part, pairs in self.parts())
        return validation, test


def pooled_mlp(bench: Bench) -> None:
    """Ask an MLP on pooled vectors of both frozen backbones."""
    training = bench.prepared.training
    model = baselines.train_pooled(training.catalog, training.features, bench.recipe.mix, seed=bench.recipe.seed)
    validation, test = (
        baselines.score_pooled(model, part.catalog, part.features, shown(part, pairs), pairs)
        for part, pairs in bench.parts()
    )
    bench.keep(POOLED, (validation, test))


def dual(bench: Bench, name: str, mix: dict[str, float]) -> CompactFusion:
    """Ask a dual encoder whose batches hold partners drawn from `mix`, and return it."""
    recipe = replace(bench.recipe, pair_weight=0.0, contrastive_weight=1.0, tag_epochs=0.0)
    model = bench.trained(replace(recipe, epochs=bench.dual_epochs, mix=mix))
    validation, test = (-evidence.similarity for evidence in bench.asked(model.signals))
    bench.keep(name, (validation, test))
    return model


def lemon(bench: Bench, model: CompactFusion) -> None:
    """Ask LEMoN in the space of a dual encoder; its weights are chosen on validation pairs."""
    known = embed(model, bench.prepared.training)
    own, by_picture, by_text = zip(
        *(baselines.lemon(known, embed(model, part), shown(part, pairs), pairs) for part, pairs in bench.parts()),
        strict=True,
    )

    def scores(part: int, weights: tuple[float, ...]) -> NDArray[np.floating]:
        return np.asarray(own[part] + weights[0] * by_picture[part] + weights[1] * by_text[part])

    rows = ~bench.scores.validation.choosing

    def quality(weights: tuple[float, ...]) -> float:
        return weighing.mean_recall(scores(0, weights)[rows], rows_of(bench.pairs[0], rows))

    best = max(product(_LEMON_WEIGHTS, repeat=2), key=quality)
    bench.keep(LEMON, (scores(0, best), scores(1, best)))


def fusion(bench: Bench) -> CompactFusion:
    """Ask the compact family, with and without the signals beside its fusion layers, and return it."""
    model = bench.trained(bench.recipe, partial(_note, bench))
    both = _weighed(bench, FUSION, model)
    bench.keep(ALONE, (both[0].fusion, both[1].fusion))
    return model


def unattended(bench: Bench, encoders: Iterable[CompactFusion], taggers: nn.ModuleList) -> None:
    """Ask what needs no attention, weighed as fusion is: similarity and facets of a dual encoder, and the taggers.

    Of the dual encoders it is the one that finds more of the validation pairs.
    """
    validation = bench.scores.validation
    qualities = [mean_quality(validation, validation.methods[name]) for name in DUALS]
    encoder = list(encoders)[int(np.argmax(qualities))]
    _weighed(bench, UNATTENDED, Unattended(encoder, taggers))


class Unattended(CompactFusion):
    """A dual encoder as it was trained, and taggers as they were: the fusion layers say nothing."""

    def __init__(self, encoder: CompactFusion, taggers: nn.ModuleList) -> None:
        super().__init__(encoder.config, pretrained=False)
        self.readers, self.taggers, self.novelty = encoder.readers, taggers, encoder.novelty
        self.eval()

    def signals(
        self, sight: Sight, input_ids: Tensor, states: Tensor, mask: Tensor, attributes: Tensor | None
    ) -> Signals:
        """Return the signals without that of the fusion layers."""
        signals = super().signals(sight, input_ids, states, mask, attributes)
        return signals._replace(fusion=torch.zeros_like(signals.fusion))


def checkpoint(bench: Bench, family: str, source: str) -> None:
    """Ask a release that `adapt --family` makes of a checkpoint on the same split, about the same pairs.

    Args:
        bench: of the run; its epochs are also the checkpoint's, which has its own default.
        family: of the checkpoint.
        source: where it is, a directory or a hub id.

    Raises:
        EngineUnavailable, ParityExceeded, InferenceFailed: as `adapt_checkpoint`.
    """
    seed, shares, progress = bench.recipe.seed, bench.shares, bench.progress
    epochs = bench.recipe.epochs or TuneRecipe.epochs
    recipe = TuneRecipe(seed=seed, shares=shares, epochs=epochs, max_tokens=bench.recipe.max_tokens)
    work = bench.run.work / f"{family}-{Path(source).name}"
    release = adapt_checkpoint(family, source, bench.catalog, work, work, recipe, precision=HALF, progress=progress)
    assert release is not None, "this is one process"
    engine, tokenizer = load(release), load_tokenizer(release)
    image = engine.manifest.image
    _, *parts = gather_parts(bench.catalog, image=image, seed=seed, progress=progress, shares=shares, most=_FEW)
    for part, pairs, scored in zip(parts, bench.pairs, bench.scored(), strict=True):
        assert [one.id for one in part.products] == scored.ids.tolist(), "another split"
        asked = scored.choosing | (not scored.choosing.any())  # all of the test pairs
        said = np.full(len(asked), np.nan)
        texts = encode(part, tokenizer, engine.manifest.attributes)
        said[asked] = score(engine, part, texts, rows_of(pairs, asked), progress)
        scored.methods[method_of(family, source)] = said
    engine.close()


def method_of(family: str, source: str) -> str:
    """Return what a checkpoint is called in the tables."""
    return f"{family} of {Path(source).name}"


def rows_of(pairs: Pairs, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Pairs:
    """Return some of the pairs."""
    return Pairs(pairs.product[chosen], pairs.picture[chosen], pairs.label[chosen], pairs.difference[chosen])


def shown(part: Part, pairs: Pairs) -> NDArray[np.int64]:
    """Return the product whose picture each pair shows."""
    return part.catalog.picture_owner[pairs.picture]


def _weighed(bench: Bench, name: str, model: CompactFusion) -> tuple[Evidence, Evidence]:
    """Weigh a model's signals on validation pairs, keep its scores, and what they are made of."""
    validation, seed = bench.prepared.validation, bench.recipe.seed
    weighing.weigh(model, validation, seed=seed, products=evaluate.halves(validation.catalog, seed=seed)[0])
    bench.run.tick()  # what follows is measuring
    weights = weighing.weights_of(model)
    both = bench.asked(model.signals)
    bench.keep(name, (weighing.combined(both[0], weights), weighing.combined(both[1], weights)))
    facets = [f"surprise of {facet}" for facet in bench.prepared.facets.names]
    denials = ["denied in all", "denied most"] if both[0].denial.size else []
    columns = ["fusion", "similarity", *facets, *denials, *(["novelty"] if both[0].novelty.size else [])]
    bench.weights[name] = dict(zip(columns, weights.weights.T.tolist(), strict=True)) | {
        "bias": weights.biases.tolist()
    }
    for column, *of in zip(columns, *map(_columns, both), strict=True):
        bench.keep_signals(f"{name}: {column}", (of[0], of[1]))
    if name == FUSION:
        each = [bench.asked(reader) for reader in model.each_reader()]
        for number, (validation_said, test_said) in enumerate(each):
            bench.keep_signals(f"{name}: reader {number}", (validation_said.fusion, test_said.fusion))
        spread = [np.std([one[part].fusion for one in each], axis=0) for part, _ in enumerate(PARTS)]
        bench.keep_signals(f"{name}: readers disagree", (spread[0], spread[1]))
    bench.run.skip()
    return both


def _columns(evidence: Evidence) -> list[NDArray[np.floating]]:
    return [evidence.fusion, evidence.similarity, *evidence.surprise.T, *evidence.denial.T, *evidence.novelty.T]


def _note(bench: Bench, number: int, epoch: int, reader: Reader) -> None:
    """Add a point to the learning curves: what one reader's fusion layers find of the validation pairs."""
    scored, pairs = bench.scores.validation, bench.pairs[0]
    chosen = np.flatnonzero(scored.choosing)
    asked = rows_of(pairs, chosen[:: max(1, len(chosen) // _CURVE)])
    scores, label = all_signals(reader, bench.prepared.validation, asked).fusion, asked.label
    auc = {grade: round(calibration.auc(scores[rows], label[rows]), 4) for grade, rows in by_grade(asked).items()}
    bench.run.note({"reader": number, "epoch": epoch, "auc": auc})
