"""A trained model → a release: calibrated, its threshold chosen, exported, compared, measured, published."""

from __future__ import annotations

import importlib.metadata
import math
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from engines import calibration, releases
from engines.build import evaluate, export, golden_pairs, held_out, reach, thresholds, tracking, weights
from engines.build.report import Assessment, explain, write_report
from engines.build.texts import encode
from engines.contract import MANIFEST_SCHEMA, Calibration, ImageSpec, Manifest, TextSpec
from engines.runtime.onnx import OnnxEngine
from engines.text import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import tokenizers
    from numpy.typing import NDArray
    from rich.progress import Progress
    from torch import nn

    from engines.build.dataset import Catalog
    from engines.build.evaluate import Figures, Pairs
    from engines.build.reach import Shortfall
    from engines.build.texts import Texts
    from engines.build.thresholds import Comparison, Scored, Target, Thresholds
    from engines.contract import AttributeColumns, Engine, TensorSpec

MAX_BATCH: Final = 32
_FLAT: Final = 1e-3
"""Scale of a calibration where logits tell nothing: probabilities hardly differ, and keep the logits' order."""


@dataclass(frozen=True)
class HeldOut:
    """Products that training has not seen, as pairs to score; `weights` (M,), if not all count the same."""

    catalog: Catalog
    texts: Texts
    pairs: Pairs
    weights: NDArray[np.float64] | None = None

    @property
    def counted(self) -> NDArray[np.float64]:
        """How much each pair counts within its class, float64 (M,)."""
        return np.ones(len(self.pairs.label)) if self.weights is None else self.weights


@dataclass(frozen=True)
class Source:
    """What a release is made of."""

    family: str
    model: nn.Module
    tokenizer: tokenizers.Tokenizer
    image: ImageSpec
    text: TextSpec
    provenance: dict[str, Any]
    attributes: AttributeColumns | None = None

    def encode(self, catalog: Catalog) -> Texts:
        """Return what the model reads of every product beside its pictures.

        Raises:
            TextRefused: a product has no text.
        """
        return encode(catalog, Tokenizer(self.tokenizer, self.text), self.attributes)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What its graph takes."""
        count = 0 if self.attributes is None else self.attributes.count
        return export.input_specs(self.image, self.text, attributes=count)


@dataclass(frozen=True)
class Measured:
    """What a release is told of itself: how its logits become decisions, and what they reach.

    `candidates` are the thresholds with those of categories, whether they are shipped or not. `shortfall` says that no
    threshold reaches the target.
    """

    calibration: Calibration
    chosen: Thresholds
    candidates: Thresholds
    cross_fitted: Comparison | None
    shortfall: Shortfall | None


def assemble(
    source: Source,
    validation: Sequence[HeldOut],
    test: HeldOut,
    *,
    target: Target,
    out: Path,
    progress: Progress,
    parent: str | None = None,
    said: Mapping[str, object] | None = None,
) -> Path:
    """Publish the release under `out`, with a report of its quality beside it, and return the release's directory.

    Calibration and thresholds come from the validation pairs, scored by the exported graph itself; the metrics in the
    manifest come from the test pairs. The threshold is the one of greatest recall at the target's precision, or, where
    no threshold reaches it, the one of the best F1; see `thresholds` for those of categories. That none does is said,
    and why (`reach`).

    Args:
        source: the trained model.
        validation: pairs of one or more catalogues, none of which shares an item with another; those behind the first
            are of what is scored, confirmed by people, and lead (`thresholds.led`).
        test: pairs to measure on.
        target: of the thresholds; probabilities are those of a catalogue of its prevalence.
        out: where the release goes.
        progress: bars are added to it.
        parent: the release that was gone on from.
        said: what else its metrics should say.

    Raises:
        ParityExceeded: the exported graph does not reproduce the model.
        EngineUnavailable, InferenceFailed: it does not load or run, or has no logit for a black picture.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = _write_files(source, Path(scratch))
        files[releases.HELD_OUT_FILE] = Path(scratch) / releases.HELD_OUT_FILE
        marks = held_out.of([part.catalog for part in validation], test.catalog)
        files[releases.HELD_OUT_FILE].write_bytes(held_out.encode(marks))
        engine = OnnxEngine(files[releases.MODEL_FILE], _draft(source))
        parity = export.check_parity(source.model, engine, words=source.tokenizer.get_vocab_size())
        engine.warm()  # as every scorer will: what cannot is never published
        measured = _measure(engine, validation, target, progress)
        if measured.shortfall is not None:
            progress.console.print(measured.shortfall.words(), style="yellow", highlight=False, soft_wrap=True)
        tested = _score(engine, test, progress)
        files[releases.GOLDEN_FILE] = golden_pairs.write(
            engine, Tokenizer(source.tokenizer, source.text), Path(scratch) / releases.GOLDEN_FILE
        )
        engine.close()
        assessment = _assess(source, test, tested, measured, target)
        manifest = msgspec.structs.replace(
            assessment.manifest,
            parent=parent,
            metrics=assessment.manifest.metrics | {"onnx_minus_torch": parity} | dict(said or {}),
        )
        release = releases.write_release(out, manifest, files)
    published = releases.read_manifest(release)
    tracking.metrics(_headline(assessment.figures), step=0)
    tracking.artifacts(release / releases.MANIFEST_FILE)
    _report(replace(assessment, manifest=published), source, release, progress)
    return release


def _report(assessment: Assessment, source: Source, release: Path, progress: Progress) -> None:
    """Write the report beside the release, which stands whatever becomes of it."""
    engine = OnnxEngine(release / releases.MODEL_FILE, assessment.manifest)
    explanations = explain(assessment, engine, Tokenizer(source.tokenizer, source.text), progress)
    engine.close()
    report = write_report(assessment, explanations, release.with_name(f"{release.name}-report"))
    tracking.artifacts(report.parent)


def _measure(engine: Engine, validation: Sequence[HeldOut], target: Target, progress: Progress) -> Measured:
    """Return calibration and thresholds for the engine's logits; the pairs behind the first part are confirmed ones."""
    scored = [_score(engine, part, progress).astype(np.float64) for part in validation]
    logits = np.concatenate(scored)
    pooled = thresholds.joined(
        [
            thresholds.scored(part.catalog, part.pairs, own, part.counted)
            for part, own in zip(validation, scored, strict=True)
        ]
    )
    known = thresholds.led(pooled, np.arange(len(logits)) >= len(scored[0]), target)
    fitted = _calibrated(known, target)
    if fitted.scale <= 0:  # a few heavy labels say the opposite of all else
        known, fitted = pooled, _calibrated(pooled, target)
    if fitted.scale <= 0:  # it tells nothing apart: each picture is about as likely to be wrong as any
        fitted = Calibration(scale=_FLAT, shift=math.log(target.prevalence / (1 - target.prevalence)))
    known = known._replace(scores=calibration.apply(fitted, logits))
    candidates, cross_fitted = thresholds.choose(known, target)
    helps = cross_fitted is not None and cross_fitted.helps
    chosen = candidates if helps else candidates.alone()
    return Measured(fitted, chosen, candidates, cross_fitted, reach.shortfall(known, target))


def _calibrated(known: Scored, target: Target) -> Calibration:
    return calibration.fit_platt(known.scores, known.labels, prevalence=target.prevalence, weights=known.weights)


def _assess(
    source: Source, test: HeldOut, logits: NDArray[np.float32], measured: Measured, target: Target
) -> Assessment:
    """Return what the engine reaches on pairs that nothing was chosen with; its manifest says so."""
    probabilities = calibration.apply(measured.calibration, logits)
    unseen = thresholds.scored(test.catalog, test.pairs, probabilities, test.counted)
    figures = evaluate.figures(
        logits,
        test.catalog,
        test.pairs,
        measured.calibration,
        thresholds=measured.chosen.of(unseen.categories),
        prevalence=target.prevalence,
    )
    candidates, cross_fitted = measured.candidates, measured.cross_fitted
    one, own = (way.of(unseen.categories) for way in (candidates.alone(), candidates))
    compared = thresholds.compare(unseen, one, own, target) if cross_fitted is not None else None
    manifest = msgspec.structs.replace(
        _draft(source),
        calibration=measured.calibration,
        threshold=measured.chosen.overall.value,
        thresholds={name: interval.value for name, interval in measured.chosen.by_category.items()},
        metrics={
            "prevalence": target.prevalence,
            "test": evaluate.summary(figures),
            "thresholds": {
                "precision": target.precision,
                "out_of_reach": None if measured.shortfall is None else measured.shortfall.as_dict(),
                **thresholds.summary(candidates, cross_fitted, compared),
            },
        },
    )
    return Assessment(
        manifest, test.catalog, test.pairs, probabilities, figures, target, candidates, cross_fitted, compared
    )


def _headline(figures: dict[str, Figures]) -> dict[str, float]:
    """Return AUC and recalls by kind, under names that a tracking server takes."""
    return {
        f"test.{kind}.{name}": value
        for kind, line in figures.items()
        for name, value in (
            ("auc", line.auc.value),
            *((f"recall_at_{precision}", found.value) for precision, found in line.recall_at_precision.items()),
        )
    }


def rehearse(source: Source) -> None:
    """Export the model as it is, compare and discard it: what cannot be released should not be trained first.

    Raises:
        ParityExceeded, EngineUnavailable, InferenceFailed: as `assemble`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = _write_files(source, Path(scratch))
        engine = OnnxEngine(files[releases.MODEL_FILE], _draft(source))
        export.check_parity(source.model, engine, words=source.tokenizer.get_vocab_size())
        engine.close()


def _write_files(source: Source, directory: Path) -> dict[str, Path]:
    """Return the release's files by name; weights above 2 GB stand in one of their own beside the model."""
    files = {name: directory / name for name in (releases.MODEL_FILE, releases.TOKENIZER_FILE)}
    export.export(source.model, source.inputs, files[releases.MODEL_FILE])
    source.tokenizer.no_truncation()  # the runtime sets it, and the length of padding, from the manifest
    source.tokenizer.save(str(files[releases.TOKENIZER_FILE]))
    weights.save(source.model, directory / releases.WEIGHTS_FILE)
    return {path.name: path for path in directory.iterdir()}


def _draft(source: Source) -> Manifest:
    """Return the manifest before anything is measured."""
    return Manifest(
        schema_version=MANIFEST_SCHEMA,
        release="",
        family=source.family,
        created_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        inputs=source.inputs,
        image=source.image,
        text=source.text,
        calibration=Calibration(),
        threshold=0.5,
        thresholds={},
        max_batch=MAX_BATCH,
        parent=None,
        metrics={},
        provenance=source.provenance | {"versions": _versions()},
        files={},
        attributes=source.attributes,
    )


def _score(engine: Engine, held_out: HeldOut, progress: Progress) -> NDArray[np.float32]:
    return evaluate.score(engine, held_out.catalog, held_out.texts, held_out.pairs, progress)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxruntime", "tokenizers", "pillow")}
