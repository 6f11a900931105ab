"""What a run is given, what it has read before it trains, and what of it manifest, model card and MLflow say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from engines.build import held_out
from engines.build.retrain import votes
from engines.build.retrain.decision import GateRules
from engines.catalogs import erased
from engines.catalogs.judged import read_pinned

if TYPE_CHECKING:
    from pathlib import Path

    from engines.build.assemble import Source
    from engines.build.recipe import RetrainRecipe
    from engines.build.retrain.catalogue import Parts
    from engines.build.retrain.confirmed import Confirmed
    from engines.build.retrain.decision import Decision
    from engines.build.retrain.taught import Taught
    from engines.build.retrain.votes import Prevalence
    from engines.contract import Manifest


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """What a run is given.

    champion: a release's directory. labels: a pinned data set (`engines.catalogs.judged`). catalog: a folder, or None
    for drawn products. erased: lists products of the folder that are left out (`engines.catalogs.erased`). work: of
    this run alone. products: how many are drawn to be replayed; held_out_products: and to measure on. reviewed: the
    share of what people are shown that they judge.
    """

    champion: Path
    labels: Path
    work: Path
    recipe: RetrainRecipe
    catalog: Path | None = None
    erased: Path | None = None
    rules: GateRules = field(default_factory=GateRules)
    products: int = 3000
    held_out_products: int = 1500
    reviewed: votes.Reviewed = votes.EVERYTHING

    def digests_erased(self) -> frozenset[str]:
        """Return what is left out.

        Raises:
            CatalogInvalid: the list cannot be read.
        """
        return erased.NOTHING if self.erased is None else erased.read(self.erased)


@dataclass(frozen=True)
class Known:
    """All that is read before anything is trained."""

    champion: Manifest
    source: Source
    parts: Parts
    confirmed: Confirmed
    prevalence: Prevalence
    taught: Taught


def provenance(run: Retraining, known: Known) -> dict[str, Any]:
    """Return what the challenger comes from, for its manifest."""
    before: dict[str, Any] = known.champion.provenance.get("recipe", {})
    seed = before.get("catalog_seed", before.get("seed", 0))
    pinned = read_pinned(run.labels)
    return {
        "catalog": known.parts.name,
        "products": len(known.taught.replayed.chance),
        "recipe": run.recipe.as_dict() | {"catalog_seed": seed},
        "labels": None if pinned is None else msgspec.to_builtins(pinned),
        "erased_share": erased_share(run, known.champion),
    }


def erased_share(run: Retraining, champion: Manifest) -> float | None:
    """Return about which share of the catalogue was erased since weights began to learn from it, None if unknown.

    Weights keep what they have learned: a challenger takes over its champion's share, and adds what was erased of the
    products that the champion holds out. An engine that is adapted anew begins with 0.
    """
    before: float | None = champion.provenance.get("erased_share", 0.0)
    if run.catalog is None:
        return before  # drawn products are nobody's
    known = held_out.read(run.champion, champion)
    if known is None or before is None:
        return None
    return round(1 - (1 - before) * (1 - held_out.share_erased(known, run.digests_erased())), 4)


def labels(known: Known) -> dict[str, Any]:
    """Return what the labels say, for the manifest's metrics."""
    overall, by_category = known.prevalence
    return {
        "items": len(known.confirmed.judged),
        "reviewer_error": round(known.confirmed.votes.error, 4),
        "reviewer_error_measured": known.confirmed.votes.measured,
        "prevalence": _rounded(overall),
        "prevalence_by_category": {name: _rounded(interval) for name, interval in by_category.items()},
        "confidence": votes.CONFIDENCE,
        "weights_clipped": round(known.taught.clipped, 4),
    }


def all_of(run: Retraining, known: Known) -> dict[str, Any]:
    """Return what a run learns from, for the model card and MLflow."""
    return {
        "champion": known.champion.release,
        **provenance(run, known),
        "learned": {
            "replayed": len(known.taught.replayed.chance),
            "confirmed_matches": len(known.taught.matches.chance),
            "doubted": len(known.taught.doubted.chance),
        },
        "labels_say": labels(known),
        "erased": len(run.digests_erased()),
    }


def figures(decision: Decision) -> dict[str, float]:
    """Return the recalls that decided, for MLflow."""
    found = {
        f"{name}.{who}": getattr(gain, who).value
        for name, gain in decision.gains.items()
        for who in ("champion", "challenger", "difference")
    }
    return found | {"promoted": float(decision.promote)}


def _rounded(interval: Any) -> list[float]:  # noqa: ANN401 - an Interval
    return [round(number, 4) for number in interval]
