"""What a release's engine says of the products of a catalogue, in one process, without a stream."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from engines import attribution, calibration
from engines.attributes import AttributeReader
from engines.build import evaluate
from engines.build.evaluate import MATCH, Pairs
from engines.build.texts import encode, written
from engines.contract import Batch
from engines.inference import infer_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.progress import Progress

    from engines.build.dataset import Catalog
    from engines.build.texts import Texts
    from engines.contract import Engine
    from engines.text import Tokenizer


def judge(engine: Engine, tokenizer: Tokenizer, catalog: Catalog, progress: Progress) -> NDArray[np.float64]:
    """Return each product's probability (N,) that its first picture is wrong.

    Raises:
        InferenceFailed: the engine does not run.
    """
    texts = encode(catalog, tokenizer, engine.manifest.attributes)
    return calibration.apply(engine.manifest.calibration, _scored(engine, catalog, texts, progress))


def explain(engine: Engine, tokenizer: Tokenizer, catalog: Catalog, progress: Progress) -> list[str]:
    """Return what of each product's text contradicts its first picture, as a worker finds it (`streamer.explain`).

    Raises:
        InferenceFailed: the engine does not run.
    """
    texts = encode(catalog, tokenizer, engine.manifest.attributes)
    logits = _scored(engine, catalog, texts, progress)
    limits = evaluate.thresholds(engine.manifest, catalog)
    composed = written(catalog, tokenizer.spec)
    contradicted: list[str] = []
    for row in progress.track(range(len(logits)), description="explaining alerts"):
        left_out = attribution.leave_out(composed[row], tokenizer.spans(composed[row]), texts.attention_mask[row])
        pair = texts.batch(catalog.pixel_values[catalog.first_picture[[row]]], np.array([row]))
        without = partial(_logits, engine, pair)
        claims, facts = left_out.claims, left_out.facts
        answers = without(claims[:facts], left_out.attention_mask[:facts])
        if all(probability >= limits[row] for probability in _calibrated(engine, answers)):
            answers += without(claims[facts:], left_out.attention_mask[facts:])  # no single fact is the reason
        named = attribution.rank(claims[: len(answers)], float(logits[row]), answers)
        contradicted.append("; ".join(f"{one.claim.field}: {one.claim.value}" for one in named))
    return contradicted


def _scored(engine: Engine, catalog: Catalog, texts: Texts, progress: Progress) -> NDArray[np.float32]:
    """Return the logit of each product with its first picture, (N,)."""
    own = np.arange(len(catalog.products))
    pairs = Pairs(own, catalog.first_picture[:-1], np.zeros_like(own), np.full(len(own), MATCH))
    return evaluate.score(engine, catalog, texts, pairs, progress)


def _logits(engine: Engine, pair: Batch, claims: Sequence[attribution.Claim], masks: NDArray[np.int32]) -> list[float]:
    """Return the engine's answers for a pair without each claim, under masks (C, T)."""
    columns = engine.manifest.attributes
    if columns is None or pair.attributes is None:
        attributes = None
    else:
        reader, known = AttributeReader(columns), pair.attributes[0]
        attributes = np.stack([reader.without(known, claim.field) for claim in claims]) if claims else None
    size = engine.manifest.max_batch
    batches = (
        Batch(
            np.repeat(pair.pixel_values, len(part), axis=0),
            np.repeat(pair.input_ids, len(part), axis=0),
            masks[part],
            None if attributes is None else attributes[part],
        )
        for part in np.split(np.arange(len(masks)), range(size, len(masks), size))
        if len(part)
    )
    return [float(logit) for logits in infer_all(engine, batches) for logit in logits]


def _calibrated(engine: Engine, logits: Sequence[float]) -> NDArray[np.float64]:
    return calibration.apply(engine.manifest.calibration, np.asarray(logits, dtype=np.float32))
