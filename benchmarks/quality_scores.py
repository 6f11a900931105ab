"""What every method of `quality.py` says of every validation and test pair: DIR/scores.npz.

    scores = quality_scores.load(DIR)
    scores.test.methods["compact"]                 (M,) the higher, the likelier a mismatch
    scores.validation.signals["compact: fusion"]   (M,) what a method's score is made of, and what it could be made of
    scores.test.ids[scores.test.text]              (M,) the products whose text is read; `shown`: whose picture

Figures, intervals and further ideas need no training when they begin here: `quality_figures.py` measures anew,
`quality_signals.py` weighs anew. Test pairs are one draw; validation pairs are several, one behind the other, as
`weighing.weigh` takes them. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import typer

from engines.build.evaluate import Pairs, related

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.build.dataset import Catalog

SCORES_FILE: Final = "scores.npz"
FACTS_FILE: Final = "quality.json"
PARTS: Final = ("validation", "test")


@dataclass(frozen=True)
class ScoredPairs:
    """M pairs of N products, and what methods say of them.

    Attributes:
        ids: str (N,), the products' own.
        items: int64 (N,), equal for products of one item: variants, and what shows and says the same.
        text: int64 (M,), the product whose text is read, a row of `ids`.
        shown: int64 (M,), the product whose picture is seen.
        label: int64 (M,), 1 for a mismatch.
        difference: str (M,), the grade, or `evaluate.MATCH`.
        draw: int64 (M,), which of the draws a pair belongs to.
        choosing: bool (M,), the pairs that a release's threshold is chosen on; none of the test pairs.
        methods: scores (M,) by the method's name; NaN where it was not asked, never where `choosing`.
        signals: further columns (M,) by name.
    """

    ids: NDArray[np.str_]
    items: NDArray[np.int64]
    text: NDArray[np.int64]
    shown: NDArray[np.int64]
    label: NDArray[np.int64]
    difference: NDArray[np.str_]
    draw: NDArray[np.int64]
    choosing: NDArray[np.bool_]
    methods: dict[str, NDArray[np.floating]] = field(default_factory=dict[str, "NDArray[np.floating]"])
    signals: dict[str, NDArray[np.floating]] = field(default_factory=dict[str, "NDArray[np.floating]"])


@dataclass(frozen=True)
class Scores:
    """Both parts that methods are asked about."""

    validation: ScoredPairs
    test: ScoredPairs


def unscored(catalog: Catalog, draws: Sequence[Pairs], choosing: int | None = None) -> ScoredPairs:
    """Return the pairs of one or more draws, one of them to choose thresholds on, before any method was asked."""
    pairs = joined(draws)
    draw = np.repeat(np.arange(len(draws)), [len(one.label) for one in draws])
    return ScoredPairs(
        ids=np.array([one.id for one in catalog.products]),
        items=related(catalog, pairs._replace(product=np.arange(len(catalog.products)))),
        text=pairs.product,
        shown=catalog.picture_owner[pairs.picture],
        label=pairs.label,
        difference=pairs.difference,
        draw=draw,
        choosing=np.full(len(draw), fill_value=False) if choosing is None else draw == choosing,
    )


def joined(draws: Sequence[Pairs]) -> Pairs:
    """Return the pairs of all draws, one behind the other."""
    return Pairs(*(np.concatenate(column) for column in zip(*draws, strict=True)))


def save(scores: Scores, folder: Path) -> None:
    """Write the file, whole or not at all."""
    columns: dict[str, Any] = {}
    for part in PARTS:
        pairs: ScoredPairs = getattr(scores, part)
        for one in fields(pairs):
            value = getattr(pairs, one.name)
            named = {f"/{name}": column for name, column in value.items()} if isinstance(value, dict) else {"": value}
            columns |= {f"{part}/{one.name}{name}": column for name, column in named.items()}
    unfinished = folder / f"{SCORES_FILE}.partial"
    with unfinished.open("wb") as file:
        np.savez_compressed(file, **columns)
    unfinished.replace(folder / SCORES_FILE)


def load(folder: Path) -> Scores:
    """Return what a run of `quality.py` left in its folder.

    Raises:
        BadParameter: it left nothing, or was cut before.
    """
    with np.load(_left_in(folder, SCORES_FILE)) as columns:
        read = {key: columns[key] for key in columns.files}
    return Scores(*(_part(read, part) for part in PARTS))


def load_facts(folder: Path) -> dict[str, Any]:
    """Return what a run of `quality.py` wrote into quality.json.

    Raises:
        BadParameter: as `load`.
    """
    facts: dict[str, Any] = msgspec.json.decode(_left_in(folder, FACTS_FILE).read_bytes())
    return facts


def _left_in(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise typer.BadParameter(
            f"{folder} has no {name}: let `quality.py CATALOG --out {folder}` run to its end first"
        )
    return folder / name


def _part(columns: dict[str, NDArray[Any]], part: str) -> ScoredPairs:
    found: dict[str, Any] = {"methods": {}, "signals": {}}
    for key, column in columns.items():
        of, name, *rest = key.split("/", 2)
        if of == part and rest:
            found[name][rest[0]] = column
        elif of == part:
            found[name] = column
    return ScoredPairs(**found)
