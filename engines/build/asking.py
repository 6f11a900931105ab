"""What one engine says of a catalogue's products, some at a time: memory stays as it is, and what is said is kept.

    rows of the listing ──► parts ──► judged | explained | heat maps ──► a file for each part, whole or not at all

A run that was cut asks about the rest only, and an engine that is not needed is not loaded, nor trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import numpy as np
from rich.progress import Progress

from engines.build import evaluate
from engines.build.gather import gather_listed
from engines.build.judging import Inquiry, own_pairs
from engines.build.report.audit import Judged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.build.listing import Listing
    from engines.contract import Engine
    from engines.text import Tokenizer

JUDGED_AT_ONCE: Final = 2000  # products whose pictures are in memory, 0.4 GB
EXPLAINED_AT_ONCE: Final = 100
HEATED_AT_ONCE: Final = 8

Said = TypeVar("Said")


class Heat(msgspec.Struct, frozen=True):
    """A heat map (see `engines.heat`), rows of logits; None where nothing is contradicted."""

    logits: list[list[float]] | None


@dataclass(frozen=True)
class Asking:
    """The engine of a fold.

    Attributes:
        fold: its number, from 0.
        listing: products, which are asked about by their rows.
        folder: where answers are kept.
        digest: of all that they depend on.
        engine: gives it; it is asked for only where something is not known yet.
        progress: a bar is added to it for each kind of question.
    """

    fold: int
    listing: Listing
    folder: Path
    digest: str
    engine: Callable[[], tuple[Engine, Tokenizer]]
    progress: Progress

    def judged(self, rows: Sequence[int]) -> list[Judged]:
        """Return what the engine says of all products of its fold, without reasons."""
        done = self.folder / f"judged-{self.digest}.json"
        if not done.exists():
            found = self._said("judging", rows, JUDGED_AT_ONCE, partial(_judge, fold=self.fold), Judged)
            write_whole(done, msgspec.json.encode(found))
            for part in self.folder.glob(f"judging-{self.digest}-*.json"):
                part.unlink()
        return msgspec.json.decode(done.read_bytes(), type=list[Judged])

    def explained(self, rows: Sequence[int]) -> list[str]:
        """Return what of each text the picture contradicts, the worst claim first."""
        return self._said("explaining", rows, EXPLAINED_AT_ONCE, _explain, str)

    def heat_maps(self, rows: Sequence[int]) -> list[NDArray[np.float32] | None]:
        """Return where each picture contradicts the worst claim (see `engines.heat`), None where there is none."""
        found = self._said("heat-maps", rows, HEATED_AT_ONCE, _heat, Heat)
        return [None if one.logits is None else np.array(one.logits, dtype=np.float32) for one in found]

    def _said(
        self,
        question: str,
        rows: Sequence[int],
        size: int,
        ask: Callable[[Inquiry, Progress], list[Said]],
        kind: type[Said],
    ) -> list[Said]:
        """Return the answers to a question about these products, `size` of them at a time."""
        parts = {
            self.folder / f"{question}-{self.digest}-{at}.json": list(rows[at : at + size])
            for at in range(0, len(rows), size)
        }
        missing = {file: part for file, part in parts.items() if _kept(file)[0] != part}
        task = self.progress.add_task(f"{question}, fold {self.fold + 1}", total=len(rows))
        self.progress.advance(task, len(rows) - sum(map(len, missing.values())))
        if missing:
            engine, tokenizer = self.engine()
            with Progress(disable=True) as unseen:
                for file, part in missing.items():
                    catalog = gather_listed(self.listing.subset(part), image=engine.manifest.image, progress=unseen)
                    said = ask(Inquiry(engine, tokenizer, catalog, own_pairs(catalog)), unseen)
                    write_whole(file, msgspec.json.encode((part, said)))
                    self.progress.advance(task, len(part))
        return [msgspec.convert(one, kind) for file in parts for one in _kept(file)[1]]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.partial")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _kept(file: Path) -> tuple[list[int], list[Any]]:
    """Return the products that a part is about and what is said of each, nothing where it is not there yet."""
    return msgspec.json.decode(file.read_bytes(), type=tuple[list[int], list[Any]]) if file.exists() else ([], [])


def _judge(inquiry: Inquiry, progress: Progress, *, fold: int) -> list[Judged]:
    probabilities = inquiry.probabilities(inquiry.logits(progress))
    limits = evaluate.thresholds(inquiry.engine.manifest, inquiry.catalog)
    return [
        Judged(
            id=product.id,
            title=product.fields.get("title", ""),
            category=product.category,
            probability=float(probability),
            alert=bool(probability >= limit),
            contradicts="",
            fold=fold,
        )
        for product, probability, limit in zip(inquiry.catalog.products, probabilities, limits, strict=True)
    ]


def _explain(inquiry: Inquiry, progress: Progress) -> list[str]:
    return [reason.words for reason in inquiry.reasons(progress)]


def _heat(inquiry: Inquiry, progress: Progress) -> list[Heat]:
    found = (inquiry.heat_map(reason) for reason in inquiry.reasons(progress))
    return [Heat(None if one is None else one.tolist()) for one in found]
