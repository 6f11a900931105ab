"""A catalogue's own errors, ranked: every product's first picture, judged by an engine trained on other products only.

    folds A | B    trained on B → judges A    trained on A → judges B    one list, the most suspicious first

Nothing is labelled: training takes the catalogue to be right, and what it cannot believe all the same is suspicious.
Alerts are explained, and the first of them get a heat map.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import msgspec

from engines.build import features, sources
from engines.build.adapt import adapt_parts, image_spec, require_room
from engines.build.asking import Asking, write_whole
from engines.build.dataset import connections, limit, split
from engines.build.gather import MOST_HELD_OUT, gather_listed, gather_split
from engines.build.listing import list_folder
from engines.build.recipe import PREVALENCE, TEXT_FIELDS
from engines.build.report.audit import EXPLAINED, HEAT_MAPS, SHOWN, Facts, write_audit
from engines.build.report.page import Explanation, card
from engines.build.texts import fields_to_read, text_of
from engines.contract import TextSpec
from engines.errors import CatalogInvalid
from engines.runtime.loader import load, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from rich.progress import Progress

    from engines.build.dataset import Catalog
    from engines.build.listing import Listing
    from engines.build.recipe import AdaptRecipe
    from engines.build.report.audit import Judged
    from engines.build.report.page import Card
    from engines.contract import Engine
    from engines.text import Tokenizer

_MIN_PRODUCTS: Final = 50
_VALIDATION_SHARE: Final = 0.15  # of what a fold's engine may know; it chooses weights and threshold with it
_VALIDATION_PRODUCTS: Final = 60  # at least, where that share would be fewer
_MEASURED: Final = 1_000  # products that the report of a fold's engine is about, eight pairs of each at most


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
    prevalence: float
    digest: str
    progress: Progress

    def judged(self, fold: Fold, explained: int) -> list[Judged]:
        """Return the rows of the products that the fold holds, in its order, so many of the alerts with their reasons.

        What is finished is not done again.
        """
        with self._asking(fold) as asking:
            found = asking.judged(fold.held)
            alerts = [n for n in ranked(found) if found[n].alert][:explained]
            reasons = dict(zip(alerts, asking.explained([fold.held[n] for n in alerts]), strict=True))
        return [msgspec.structs.replace(one, contradicts=reasons.get(n, "")) for n, one in enumerate(found)]

    def heat_maps(self, fold: Fold, rows: Sequence[int]) -> dict[int, NDArray[np.float32] | None]:
        """Return by row where the pictures of some of the fold's products contradict their texts."""
        with self._asking(fold) as asking:
            return dict(zip(rows, asking.heat_maps(rows), strict=True))

    @contextmanager
    def _asking(self, fold: Fold) -> Generator[Asking]:
        """Give questions to the fold's engine, which is trained and loaded with the first that nobody asked before."""
        folder = self._folder(fold)
        with ExitStack() as opened:

            @cache
            def engine() -> tuple[Engine, Tokenizer]:
                release = self._release(fold, folder)
                return opened.enter_context(closing(load(release))), load_tokenizer(release)

            yield Asking(fold.number, self.listing, folder, self.digest, engine, self.progress)

    def _folder(self, fold: Fold) -> Path:
        return self.work / f"fold-{fold.number}"

    def _release(self, fold: Fold, folder: Path) -> Path:
        """Return the fold's release, trained where an interrupted run has not left it."""
        stamp = folder / f"release-{self.digest}"
        if not stamp.exists():
            seed, components = self.recipe.seed, self.listing.components
            measured = limit(fold.held, components, _MEASURED, seed=seed)
            training, validation, test = (
                self.listing.subset(rows) for rows in (fold.training, fold.validation, measured)
            )
            require_room((training, validation, test), folder, self.recipe)
            release = adapt_parts(
                gather_split((training, validation, test), image_spec(self.recipe), self.progress),
                self.name,
                folder,
                folder,
                self.recipe,
                precision=self.precision,
                prevalence=self.prevalence,
                progress=self.progress,
            )
            write_whole(stamp, release.name.encode())
            features.remove(folder)
        return folder / stamp.read_text()


def audit_folder(
    path: Path,
    out: Path,
    work: Path,
    recipe: AdaptRecipe,
    *,
    folds: int,
    precision: float,
    progress: Progress,
    prevalence: float = PREVALENCE,
    explained: int = EXPLAINED,
    heat_maps: int = HEAT_MAPS,
) -> Path:
    """Judge every product of a folder, write page and lists into `out`, and return the page.

    What an interrupted run has left in `work` is used again: finished folds are not trained anew.

    Args:
        path: the folder.
        out: where page and lists go.
        work: where engines, and what they have said so far, are kept.
        recipe: of the engines.
        folds: into how many parts the products are split.
        precision: of the engines' thresholds.
        progress: bars are added to it.
        prevalence: the share of wrong products that thresholds and probabilities are stated for.
        explained: of a fold's alerts, how many name what of the text is contradicted, the most suspicious first.
        heat_maps: of the first products, how many have one, those that alert.

    Raises:
        CatalogInvalid: the folder cannot be read, or has too few products.
        TextRefused: an engine would read nothing of a product.
        ParityExceeded: an exported graph does not reproduce its model.
        InferenceFailed: an engine does not run.
        TrainingEnded: a process that trained was ended.
    """
    listing = list_folder(path, progress)
    parted = _folds(listing.components, folds, recipe)
    for fold in parted:
        _require_texts(fold, listing, recipe)
    digest = _digest(listing, recipe, folds, precision, prevalence)
    audit = Audit(path.name, listing, work, recipe, precision, prevalence, digest, progress)
    judged = [one for fold in parted for one in audit.judged(fold, explained)]
    rows = [row for fold in parted for row in fold.held]
    order = ranked(judged)
    listed = [judged[n] for n in order]
    suspects = [rows[n] for n in order[:SHOWN]]
    warm: dict[int, NDArray[np.float32] | None] = {}
    for fold in parted:
        first = zip(suspects, listed[:heat_maps], strict=False)
        warm |= audit.heat_maps(fold, [row for row, one in first if one.fold == fold.number and one.contradicts])
    shown = gather_listed(listing.subset(suspects), image=image_spec(recipe), progress=progress)
    explanations = [Explanation(one.contradicts, warm.get(row)) for row, one in zip(suspects, listed, strict=False)]
    return write_audit(listed, _cards(shown, listed, explanations), Facts(path.name, folds, explained, prevalence), out)


def _require_texts(fold: Fold, listing: Listing, recipe: AdaptRecipe) -> None:
    """Return if the fold's engine, once hours are spent on it, will read something of every product that it judges."""
    fields = fields_to_read([listing.items[row].fields for row in fold.training])
    spec = TextSpec(max_tokens=recipe.max_tokens, fields=fields)
    for row in fold.held:
        text_of(listing.items[row], spec)


def _cards(shown: Catalog, listed: Sequence[Judged], explanations: Sequence[Explanation]) -> list[Card]:
    pictures = shown.first_picture.tolist()
    return [card(shown, n, pictures[n], listed[n].probability, one) for n, one in enumerate(explanations)]


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
            f"a fold has only {fewest} products to train on, to choose with or to judge; each needs {_MIN_PRODUCTS}. "
            f"{connections(components)}"
        )
    return found


def _digest(listing: Listing, recipe: AdaptRecipe, folds: int, precision: float, prevalence: float) -> str:
    """Return what tells audits apart: nothing of another catalogue, split, recipe or code is used again."""
    digest = hashlib.sha256()
    for item, pictures in zip(listing.items, listing.digests, strict=True):
        digest.update(msgspec.json.encode([item.id, item.fields, item.raw, pictures], order="deterministic"))
    facts = [listing.components, TEXT_FIELDS, recipe.as_dict(), folds, precision, prevalence, sources.digest()]
    digest.update(msgspec.json.encode(facts, order="deterministic"))
    return digest.hexdigest()[:12]


def ranked(judged: Sequence[Judged]) -> list[int]:
    """Return the places of all, the most suspicious first."""
    return sorted(range(len(judged)), key=lambda n: -judged[n].probability)
