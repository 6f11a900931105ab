"""What an audit leaves behind: every product in its rank, as CSV and Parquet, and a page of the first of them."""

from __future__ import annotations

import csv
from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from engines.build.recipe import PREVALENCE
from engines.build.report.page import write_page

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engines.build.report.page import Card

CSV_FILE: Final = "audit.csv"
PARQUET_FILE: Final = "audit.parquet"

EXPLAINED: Final = 10_000
"""Alerts of a fold that name what is contradicted: some 7 inferences each, where judging a product takes one."""

HEAT_MAPS: Final = 50
"""First cards that have a heat map if they alert: 74 inferences each, and 7 to explain them again."""

SHOWN: Final = 300
HEADS: Final = (50, 100)
CATEGORIES: Final = 20
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


class Facts(NamedTuple):
    """Of which catalogue an audit is, of how many folds, and how many alerts of each were explained at most.

    Probabilities, and what is expected by them, are those of a catalogue of which a share `prevalence` is wrong.
    """

    catalog: str
    folds: int
    explained: int
    prevalence: float = PREVALENCE


def write_audit(listed: Sequence[Judged], cards: Sequence[Card], facts: Facts, out: Path) -> Path:
    """Write the lists and the page into `out`, and return the page.

    Args:
        listed: every product, the most suspicious first.
        cards: of the first ones.
        facts: of the run.
        out: a directory, made when missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_lists(listed, out)
    alerts = [one for one in listed if one.alert]
    sizes, found = Counter(one.category for one in listed), Counter(one.category for one in alerts)
    context = {
        "facts": facts,
        "products": len(listed),
        "alerts": len(alerts),
        "all_explained": max(Counter(one.fold for one in alerts).values(), default=0) <= facts.explained,
        "expected": sum(one.probability for one in alerts),
        "heads": [(n, sum(one.probability for one in listed[:n])) for n in HEADS],
        "categories": [(name, sizes[name], alerting) for name, alerting in found.most_common(CATEGORIES)],
        "cards": cards,
    }
    return write_page("audit.html.j2", context, out)


def write_lists(listed: Sequence[Judged], out: Path) -> None:
    """Write every product as CSV, and as Parquet where pyarrow is installed.

    A cell that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    rows = [
        {"rank": rank, **msgspec.to_builtins(one), "probability": round(one.probability, 6)}
        for rank, one in enumerate(listed, 1)
    ]
    with (out / CSV_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["rank", *Judged.__struct_fields__])
        writer.writeheader()
        writer.writerows({name: _harmless(cell) for name, cell in row.items()} for row in rows)
    if find_spec("pyarrow") is not None:
        import pyarrow as pa  # noqa: PLC0415 - comes with the extra `feeds`
        from pyarrow import parquet  # noqa: PLC0415 - as above

        parquet.write_table(pa.Table.from_pylist(rows), out / PARQUET_FILE)


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
