"""A catalogue's own errors, ranked: every product's first picture, judged by an engine trained on other products only.

    folds A | B    trained on B → judges A    trained on A → judges B    one list, the most suspicious first

Nothing is labelled: training takes the catalogue to be right, and what it cannot believe all the same is suspicious.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections import Counter
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from engines import attribution, calibration
from engines.attributes import AttributeReader
from engines.build import evaluate
from engines.build.adapt import PART_FOLDERS, adapt_parts, image_spec, text_spec
from engines.build.dataset import split
from engines.build.evaluate import MATCH, Pairs
from engines.build.gather import gather_folder
from engines.build.recipe import PREVALENCE
from engines.build.report.page import card, write_page
from engines.build.texts import data_digest, encode, written
from engines.contract import Batch
from engines.errors import CatalogInvalid
from engines.inference import infer_all
from engines.runtime.loader import load, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.progress import Progress

    from engines.build.dataset import Catalog
    from engines.build.gather import Parts
    from engines.build.recipe import AdaptRecipe
    from engines.contract import Engine
    from engines.text import Tokenizer

CSV_FILE: Final = "audit.csv"
PARQUET_FILE: Final = "audit.parquet"

SHOWN: Final = 300
EXPLAINED: Final = 300  # of a fold
HEADS: Final = (50, 100)
CATEGORIES: Final = 20
_MIN_PRODUCTS: Final = 50
_VALIDATION_SHARE: Final = 0.15  # of what a fold's engine may know; it chooses weights and threshold with it
_VALIDATION_PRODUCTS: Final = 60  # at least, where that share would be fewer
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class Judged(msgspec.Struct, frozen=True):
    """What the engine that did not know a product says of it; a row of the list."""

    id: str
    title: str
    category: str
    probability: float
    alert: bool
    contradicts: str
    fold: int


def audit_folder(
    path: Path, out: Path, work: Path, recipe: AdaptRecipe, *, folds: int, precision: float, progress: Progress
) -> Path:
    """Judge every product of a folder, write page and lists into `out`, and return the page.

    What an interrupted run has left in `work` is used again: finished folds are not trained anew.

    Raises:
        CatalogInvalid: the folder cannot be read, or has too few products.
        ParityExceeded: an exported graph does not reproduce its model.
        InferenceFailed: an engine does not run.
    """
    catalog, components = gather_folder(path, image=image_spec(recipe), progress=progress)
    folds_of = _folds(components, folds, recipe.seed)
    digest = _digest(catalog, components, recipe, folds, precision)
    judged: list[Judged] = []
    for fold, rows in enumerate(folds_of):
        done = work / f"fold-{fold}" / f"judged-{digest}.json"
        if not done.exists():
            training, validation, held = (catalog.subset(part) for part in rows)
            found = _judge_fold(
                (training, validation, held),
                path.name,
                done.parent,
                recipe,
                fold,
                precision=precision,
                progress=progress,
            )
            unfinished = done.with_suffix(".partial")
            unfinished.write_bytes(msgspec.json.encode(found))
            unfinished.replace(done)
            for name in PART_FOLDERS:  # features, 125 kB a picture
                shutil.rmtree(done.parent / name, ignore_errors=True)
        judged += msgspec.json.decode(done.read_bytes(), type=list[Judged])
    order = [product for rows in folds_of for product in rows[2]]
    ranked = sorted(range(len(judged)), key=lambda n: -judged[n].probability)
    listed = [judged[n] for n in ranked]
    out.mkdir(parents=True, exist_ok=True)
    write_lists(listed, out)
    cards = [
        card(catalog, order[n], int(catalog.first_picture[order[n]]), judged[n].probability, _notes(judged[n]))
        for n in ranked[:SHOWN]
    ]
    return write_page("audit.html.j2", _context(listed, path.name, folds) | {"cards": cards}, out)


def write_lists(listed: Sequence[Judged], out: Path) -> None:
    """Write every product as CSV, and as Parquet where pyarrow is installed.

    A cell that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    rows = [{"rank": rank, **msgspec.to_builtins(one)} for rank, one in enumerate(listed, 1)]
    with (out / CSV_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["rank", *Judged.__struct_fields__])
        writer.writeheader()
        writer.writerows({name: _harmless(cell) for name, cell in row.items()} for row in rows)
    if find_spec("pyarrow") is not None:
        import pyarrow as pa  # noqa: PLC0415 - comes with the extra `feeds`
        from pyarrow import parquet  # noqa: PLC0415 - as above

        parquet.write_table(pa.Table.from_pylist(rows), out / PARQUET_FILE)


def judge(
    engine: Engine, tokenizer: Tokenizer, catalog: Catalog, progress: Progress
) -> tuple[NDArray[np.float64], list[str]]:
    """Return each product's probability (N,) that its first picture is wrong, and what of the text contradicts it.

    The latter for alerts, at most `EXPLAINED`, as a worker finds it (`streamer.explain`).

    Raises:
        InferenceFailed: the engine does not run.
    """
    own = np.arange(len(catalog.products))
    texts = encode(catalog, tokenizer, engine.manifest.attributes)
    pairs = Pairs(own, catalog.first_picture[:-1], np.zeros_like(own), np.full(len(own), MATCH))
    logits = evaluate.score(engine, catalog, texts, pairs, progress)
    probabilities = calibration.apply(engine.manifest.calibration, logits)
    contradicted = [""] * len(own)
    limits = evaluate.thresholds(engine.manifest, catalog)
    suspicious = np.argsort(-probabilities, kind="stable")[:EXPLAINED]
    alerting = suspicious[probabilities[suspicious] >= limits[suspicious]]
    composed = written(catalog, tokenizer.spec)
    for row in progress.track(alerting.tolist(), description="explaining alerts"):
        left_out = attribution.leave_out(composed[row], tokenizer.spans(composed[row]), texts.attention_mask[row])
        pair = texts.batch(catalog.pixel_values[pairs.picture[[row]]], own[[row]])
        without = partial(_logits, engine, pair)
        claims, facts = left_out.claims, left_out.facts
        answers = without(claims[:facts], left_out.attention_mask[:facts])
        if all(probability >= limits[row] for probability in _calibrated(engine, answers)):
            answers += without(claims[facts:], left_out.attention_mask[facts:])  # no single fact is the reason
        named = attribution.rank(claims[: len(answers)], float(logits[row]), answers)
        contradicted[row] = "; ".join(f"{one.claim.field}: {one.claim.value}" for one in named)
    return probabilities, contradicted


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


def _judge_fold(
    parts: Parts, name: str, work: Path, recipe: AdaptRecipe, fold: int, *, precision: float, progress: Progress
) -> list[Judged]:
    release = adapt_parts(parts, name, work, work, recipe, precision=precision, progress=progress)
    engine = load(release)
    held = parts[2]
    probabilities, contradicted = judge(engine, load_tokenizer(release), held, progress)
    engine.close()
    return [
        Judged(
            id=product.id,
            title=product.fields.get("title", ""),
            category=product.category,
            probability=round(float(probability), 6),
            alert=bool(probability >= limit),
            contradicts=contradicts,
            fold=fold,
        )
        for product, probability, limit, contradicts in zip(
            held.products, probabilities, evaluate.thresholds(engine.manifest, held), contradicted, strict=True
        )
    ]


def _folds(components: Sequence[int], folds: int, seed: int) -> list[tuple[list[int], list[int], list[int]]]:
    """Return for each fold which products its engine is trained on, chosen with, and judges.

    Raises:
        CatalogInvalid: there are too few products, or too many of them share something.
    """
    found: list[tuple[list[int], list[int], list[int]]] = []
    for held in split(components, [1 / folds] * folds, seed=seed):
        judged = set(held)
        rest = [i for i in range(len(components)) if i not in judged]
        share = min(0.5, max(_VALIDATION_SHARE, _VALIDATION_PRODUCTS / max(1, len(rest))))
        training, validation = split([components[i] for i in rest], (1 - share, share), seed=seed)
        found.append(([rest[i] for i in training], [rest[i] for i in validation], held))
    fewest = min(len(part) for rows in found for part in rows)
    if fewest < _MIN_PRODUCTS:
        raise CatalogInvalid(
            f"{len(components)} products in {len(set(components))} parts that share no photo, title or item group make "
            f"a fold with only {fewest} to train on, to choose with or to judge; each needs {_MIN_PRODUCTS}"
        )
    return found


def _digest(catalog: Catalog, components: Sequence[int], recipe: AdaptRecipe, folds: int, precision: float) -> str:
    """Return what tells audits apart: of another catalogue, another split, another recipe nothing is used again."""
    known = [data_digest(catalog, text_spec(recipe)), [product.id for product in catalog.products], components]
    facts = [known, recipe.as_dict(), folds, precision]
    return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()[:12]


def _notes(one: Judged) -> list[str]:
    return [f"contradicts {one.contradicts}"] if one.contradicts else []


def _context(listed: Sequence[Judged], catalog: str, folds: int) -> dict[str, object]:
    alerts = [one for one in listed if one.alert]
    sizes, found = Counter(one.category for one in listed), Counter(one.category for one in alerts)
    categories = [(name, sizes[name], alerting) for name, alerting in found.most_common(CATEGORIES)]
    return {
        "catalog": catalog,
        "products": len(listed),
        "folds": folds,
        "prevalence": PREVALENCE,
        "alerts": len(alerts),
        "expected": sum(one.probability for one in alerts),
        "heads": [(n, sum(one.probability for one in listed[:n])) for n in HEADS],
        "categories": categories,
    }


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
