"""A catalogue's own errors, ranked: every product's first picture, judged by an engine trained on other products only.

    folds A | B    trained on B → judges A    trained on A → judges B    one list, the most suspicious first

Nothing is labelled: training takes the catalogue to be right, and what it cannot believe all the same is suspicious.
Pictures are decoded a part at a time, so memory does not grow with the catalogue.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import msgspec
from rich.progress import Progress

from engines.build import evaluate
from engines.build.adapt import PART_FOLDERS, adapt_parts, image_spec
from engines.build.dataset import limit, split
from engines.build.gather import MOST_HELD_OUT, gather_listed
from engines.build.judging import explain, judge
from engines.build.listing import list_folder
from engines.build.recipe import PREVALENCE, TEXT_FIELDS
from engines.build.report.page import card, write_page
from engines.errors import CatalogInvalid
from engines.runtime.loader import load, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engines.build.listing import Listing
    from engines.build.recipe import AdaptRecipe
    from engines.contract import Engine
    from engines.text import Tokenizer

CSV_FILE: Final = "audit.csv"
PARQUET_FILE: Final = "audit.parquet"

SHOWN: Final = 300
EXPLAINED: Final = 300  # of a fold
HEADS: Final = (50, 100)
CATEGORIES: Final = 20
AT_ONCE: Final = 2000  # products whose pictures are in memory while they are judged, 0.4 GB
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


@dataclass(frozen=True)
class Fold:
    """Rows of the listing: an engine is trained on the first, chosen with the second, and judges `held`."""

    number: int
    training: list[int]
    validation: list[int]
    held: list[int]


@dataclass(frozen=True)
class Audit:
    """What all folds share; `digest` tells it from audits of other catalogues, splits or recipes."""

    name: str
    listing: Listing
    work: Path
    recipe: AdaptRecipe
    precision: float
    digest: str
    progress: Progress

    def judged(self, fold: Fold) -> list[Judged]:
        """Return the rows of the products that the fold holds, in its order; finished ones are not judged again."""
        folder = self.work / f"fold-{fold.number}"
        done = folder / f"judged-{self.digest}.json"
        if not done.exists():
            release = self._release(fold, folder)
            engine, tokenizer = load(release), load_tokenizer(release)
            found = self._judged_by(engine, tokenizer, fold, folder)
            _write_whole(done, msgspec.json.encode(self._explained(engine, tokenizer, fold, found)))
            engine.close()
            for part in folder.glob(f"part-{self.digest}-*.json"):
                part.unlink()
        return msgspec.json.decode(done.read_bytes(), type=list[Judged])

    def _release(self, fold: Fold, folder: Path) -> Path:
        """Return the fold's release, trained where an interrupted run has not left it."""
        stamp = folder / f"release-{self.digest}"
        if not stamp.exists():
            seed, components = self.recipe.seed, self.listing.components
            measured = limit(fold.held, components, MOST_HELD_OUT, seed=seed)
            parts = [self.listing.subset(rows) for rows in (fold.training, fold.validation, measured)]
            image = image_spec(self.recipe)
            training, validation, test = (gather_listed(part, image=image, progress=self.progress) for part in parts)
            release = adapt_parts(
                (training, validation, test),
                self.name,
                folder,
                folder,
                self.recipe,
                precision=self.precision,
                progress=self.progress,
            )
            _write_whole(stamp, release.name.encode())
            for name in PART_FOLDERS:  # features, up to 0.7 MB a picture
                shutil.rmtree(folder / name, ignore_errors=True)
        return folder / stamp.read_text()

    def _judged_by(self, engine: Engine, tokenizer: Tokenizer, fold: Fold, folder: Path) -> list[Judged]:
        """Judge what the fold holds, some products at a time; each part is kept, and not judged again."""
        task = self.progress.add_task(f"judging fold {fold.number + 1}", total=len(fold.held))
        found: list[Judged] = []
        for start in range(0, len(fold.held), AT_ONCE):
            kept = folder / f"part-{self.digest}-{start}.json"
            if not kept.exists():
                part = self.listing.subset(fold.held[start : start + AT_ONCE])
                _write_whole(kept, msgspec.json.encode(_judge(engine, tokenizer, part, fold.number)))
            found += msgspec.json.decode(kept.read_bytes(), type=list[Judged])
            self.progress.update(task, completed=len(found))
        return found

    def _explained(self, engine: Engine, tokenizer: Tokenizer, fold: Fold, found: list[Judged]) -> list[Judged]:
        """Return the rows, of the most suspicious alerts also what of the text the picture contradicts."""
        alerts = [n for n in _ranked(found) if found[n].alert][:EXPLAINED]
        part = self.listing.subset([fold.held[n] for n in alerts])
        catalog = gather_listed(part, image=engine.manifest.image, progress=self.progress)
        reasons = dict(zip(alerts, explain(engine, tokenizer, catalog, self.progress) if alerts else [], strict=True))
        return [msgspec.structs.replace(one, contradicts=reasons.get(n, "")) for n, one in enumerate(found)]


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
    listing = list_folder(path, progress)
    parted = _folds(listing.components, folds, recipe)
    digest = _digest(listing, recipe, folds, precision)
    audit = Audit(path.name, listing, work, recipe, precision, digest, progress)
    judged = [one for fold in parted for one in audit.judged(fold)]
    rows = [row for fold in parted for row in fold.held]
    ranked = _ranked(judged)
    listed = [judged[n] for n in ranked]
    out.mkdir(parents=True, exist_ok=True)
    write_lists(listed, out)
    suspects = listing.subset([rows[n] for n in ranked[:SHOWN]])
    shown = gather_listed(suspects, image=image_spec(recipe), progress=progress)
    first = shown.first_picture.tolist()
    cards = [card(shown, n, first[n], one.probability, _notes(one)) for n, one in enumerate(listed[:SHOWN])]
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


def _judge(engine: Engine, tokenizer: Tokenizer, listing: Listing, fold: int) -> list[Judged]:
    with Progress(disable=True) as unseen:
        catalog = gather_listed(listing, image=engine.manifest.image, progress=unseen)
        probabilities = judge(engine, tokenizer, catalog, unseen)
    limits = evaluate.thresholds(engine.manifest, catalog)
    return [
        Judged(
            id=product.id,
            title=product.fields.get("title", ""),
            category=product.category,
            probability=round(float(probability), 6),
            alert=bool(probability >= limit),
            contradicts="",
            fold=fold,
        )
        for product, probability, limit in zip(catalog.products, probabilities, limits, strict=True)
    ]


def _folds(components: Sequence[int], folds: int, recipe: AdaptRecipe) -> list[Fold]:
    """Return who trains on, chooses with, and judges what.

    Raises:
        CatalogInvalid: there are too few products, or too many of them share something.
    """
    found: list[Fold] = []
    for number, held in enumerate(split(components, [1 / folds] * folds, seed=recipe.seed)):
        judged = set(held)
        rest = [i for i in range(len(components)) if i not in judged]
        share = min(0.5, max(_VALIDATION_SHARE, _VALIDATION_PRODUCTS / max(1, len(rest))))
        parts = split([components[i] for i in rest], (1 - share, share), seed=recipe.seed)
        training, validation = ([rest[i] for i in part] for part in parts)
        training = limit(training, components, recipe.max_products, seed=recipe.seed)
        found.append(Fold(number, training, limit(validation, components, MOST_HELD_OUT, seed=recipe.seed), held))
    fewest = min(len(rows) for fold in found for rows in (fold.training, fold.validation, fold.held))
    if fewest < _MIN_PRODUCTS:
        raise CatalogInvalid(
            f"{len(components)} products in {len(set(components))} parts that share no photo, title or item group make "
            f"a fold with only {fewest} to train on, to choose with or to judge; each needs {_MIN_PRODUCTS}"
        )
    return found


def _digest(listing: Listing, recipe: AdaptRecipe, folds: int, precision: float) -> str:
    """Return what tells audits apart: of another catalogue, another split, another recipe nothing is used again."""
    digest = hashlib.sha256()
    for item, pictures in zip(listing.items, listing.digests, strict=True):
        digest.update(msgspec.json.encode([item.id, item.fields, item.raw, pictures], order="deterministic"))
    facts = [listing.components, TEXT_FIELDS, recipe.as_dict(), folds, precision]
    digest.update(msgspec.json.encode(facts, order="deterministic"))
    return digest.hexdigest()[:12]


def _ranked(judged: Sequence[Judged]) -> list[int]:
    """Return the rows, the most suspicious first."""
    return sorted(range(len(judged)), key=lambda n: -judged[n].probability)


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.partial")
    unfinished.write_bytes(content)
    unfinished.replace(path)


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
