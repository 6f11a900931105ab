"""Whether an audit finds errors that are known to be there: pictures of a share of the products are exchanged first.

    python benchmarks/audit_planted.py [CATALOG] --out DIR [--shares 0 0.05 0.1] [--seed 0]

CATALOG is a folder as `streamer collect` writes it; without one, products are drawn, whose own pairs are all right. For
each share, products exchange all their pictures in pairs: a third of them with any other product (random), a third with
one of their category, a third with one of their category and gender that names another color (recolored; both with any
where there is no such partner). Only products with pictures of their own take part, never two with the same title and
color, so that an exchange changes nothing of the split. Then the folder is audited as `streamer audit` does it, and the
list compared with what was planted. A real catalogue's own errors stand in the list, too, and count as wrong alarms:
there, the precisions are lower bounds, and the share 0 shows how many alerts there are without any exchange.

DIR gets planted.json, planted.md, planted.png, and for each share the folder and its audit. A run that was cut goes on.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Final

import matplotlib as mpl
import msgspec
import numpy as np
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.markdown import Markdown

from engines.build.audit import audit_folder
from engines.build.listing import files_of, list_folder
from engines.build.recipe import PREVALENCE, AdaptRecipe
from engines.build.report.audit import CSV_FILE
from engines.build.terminal import reported
from engines.catalogs import rendered
from engines.catalogs.folder import CATALOG_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engines.build.listing import Listing

RANDOM, CATEGORY, RECOLORED = "random", "category", "recolored"
KINDS: Final = (RANDOM, CATEGORY, RECOLORED)
HEADS: Final = (50, 100)
_PICTURES: Final = ("image_link", "additional_image_link")
_SHARES: Final = (0.0, 0.05, 0.1)
_DRAWN: Final = 2000  # products
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # an id that begins so has an apostrophe before it in audit.csv


@dataclass(frozen=True)
class Row:
    """What an audit says of a product: its place in the list counts."""

    id: str
    probability: float
    alert: bool


def plant(listing: Listing, share: float, *, seed: int) -> dict[str, tuple[str, str]]:
    """Return which products show whose pictures, as {id: (id of the other, kind)}; an exchange has both ways.

    As many products take part as the share says, an even number, or fewer where no partners are left. A product that
    has no partner of the kind whose turn it is exchanges with any other.
    """
    generator = np.random.default_rng(seed)
    times = Counter(digest for own in listing.digests for digest in own)
    free = [n for n, own in enumerate(listing.digests) if max(times[digest] for digest in own) == 1]
    left = dict.fromkeys(generator.permutation(free).tolist())
    pairs = round(share * len(listing)) // 2
    chosen: dict[str, tuple[str, str]] = {}
    while left and len(chosen) < 2 * pairs:
        number = next(iter(left))
        del left[number]
        kinds = (KINDS[len(chosen) // 2 % len(KINDS)], RANDOM)
        fitting = ((n, kind) for kind in kinds for n in left if _may_exchange(listing, number, n, kind))
        partner, kind = next(fitting, (None, ""))
        if partner is not None:
            del left[partner]
            one, other = listing.items[number].id, listing.items[partner].id
            chosen |= {one: (other, kind), other: (one, kind)}
    return chosen


def write_planted(catalog: Path, listing: Listing, planted: Mapping[str, tuple[str, str]], out: Path) -> None:
    """Write the listed products as a folder, the pictures exchanged; files are linked, or copied to another disk."""
    shows = {item.id: {name: item.raw[name] for name in _PICTURES if name in item.raw} for item in listing.items}
    lines: list[bytes] = []
    for item in listing.items:
        said = {name: value for name, value in item.raw.items() if name not in _PICTURES}
        shown = planted[item.id][0] if item.id in planted else item.id
        lines.append(msgspec.json.encode(said | shows[shown]) + b"\n")
        for file in files_of(item):
            place = out / file.relative_to(catalog)
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                _link(file, place)
    (out / CATALOG_FILE).write_bytes(b"".join(lines))


def found(listed: Sequence[Row], planted: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Return how the list, most suspicious first, agrees with what was planted.

    `precision` and `recall` are those of the first 50, 100 and as many as were planted; `alerts` those of the alerts.
    `expected` is the sum of probabilities, which are stated for a catalogue with 5 % errors, whatever it has.
    """
    wrong = np.array([row.id in planted for row in listed])
    alerts = np.array([row.alert for row in listed])
    chance = np.array([row.probability for row in listed])
    heads = sorted({*HEADS, len(planted)} - {0})
    kinds = {
        kind: float(np.mean([alert for row, alert in zip(listed, alerts, strict=True) if _kind(row, planted) == kind]))
        for kind in KINDS
        if any(of == kind for _, of in planted.values())
    }
    return {
        "products": len(listed),
        "planted": len(planted),
        "heads": {
            str(n): {
                "precision": float(wrong[:n].mean()),
                "recall": float(wrong[:n].sum() / len(planted)) if planted else None,
            }
            for n in heads
        },
        "alerts": {
            "count": int(alerts.sum()),
            "right": int(wrong[alerts].sum()),
            "precision": float(wrong[alerts].mean()) if alerts.any() else None,
            "recall": float(alerts[wrong].mean()) if planted else None,
            "recall_by_kind": kinds,
        },
        "expected": {"in_alerts": float(chance[alerts].sum()), "in_all": float(chance.sum())},
        "places": np.nonzero(wrong)[0].tolist(),
    }


def read_list(audit: Path) -> list[Row]:
    """Return the rows of an audit's audit.csv, in their order."""
    with (audit / CSV_FILE).open(encoding="utf-8", newline="") as file:
        return [
            Row(_unquoted(row["id"]), float(row["probability"]), row["alert"] == "True") for row in csv.DictReader(file)
        ]


def as_markdown(facts: dict[str, Any]) -> str:
    """Return the table that people read."""
    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        "products whose picture was exchanged": lambda one: f"{one['planted']} of {one['products']}",
        **{f"precision of the first {n}": partial(_head, count=n) for n in HEADS},
        "precision, and recall, of as many as were planted": lambda one: _head(one, one["planted"]),
        "alerts, planted ones among them": lambda one: f"{one['alerts']['count']}, {one['alerts']['right']}",
        "precision of the alerts": lambda one: _share(one["alerts"]["precision"]),
        "recall of the alerts": lambda one: _share(one["alerts"]["recall"]),
        **{f"recall of the alerts, {kind}": partial(_recall_of, kind=kind) for kind in KINDS},
        "errors expected among the alerts": lambda one: f"{one['expected']['in_alerts']:.0f}",
        "errors expected in all": lambda one: f"{one['expected']['in_all']:.0f}",
    }
    shares = facts["shares"]
    lines = [
        f"# {facts['catalog']}, seed {facts['seed']}: what an audit finds of pictures that were exchanged",
        "",
        f"| share of products | {' | '.join(f'{float(share):.0%}' for share in shares)} |",
        f"| --- |{' --- |' * len(shares)}",
        *(f"| {name} | {' | '.join(cell(one) for one in shares.values())} |" for name, cell in rows.items()),
        "",
        f"Probabilities are stated for a catalogue in which {PREVALENCE:.0%} are wrong, whatever it has.",
        "Exchanged were a third each: any two products; two of a category; two of a category and gender that name",
        "another color.",
    ]
    return "\n".join(lines) + "\n"


def draw(facts: dict[str, Any], file: Path) -> None:
    """Write precision down the list, and expected errors beside planted ones, a color for each share."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (share, one) in enumerate(facts["shares"].items()):
        name, color = f"{float(share):.0%} exchanged", f"C{number}"
        until = max(2 * one["planted"], HEADS[-1])
        ranks = np.arange(1, min(until, one["products"]) + 1)
        hits = np.searchsorted(np.array(one["places"], dtype=np.int64), ranks)
        left.plot(ranks, hits / ranks, color=color, label=name)
        bars = (one["planted"], one["alerts"]["right"], one["expected"]["in_alerts"], one["expected"]["in_all"])
        right.bar(np.arange(len(bars)) + 0.25 * (number - 1), bars, 0.25, color=color, label=name)
    left.set_xlabel("place in the list")
    left.set_ylabel("precision up to there (of planted errors)")
    left.set_ylim(0, 1)
    right.set_xticks(range(4), ["planted", "planted and\nalerted", "expected in\nalerts", "expected\nin all"])
    right.set_ylabel("products")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize="small", frameon=False)
    figure.savefig(file, dpi=120)


def measure(  # noqa: PLR0917 - typer's options
    out: Annotated[Path, typer.Option(help="Directory for table, plot, the folders and their audits.")],
    catalog: Annotated[
        Path | None,
        typer.Argument(help="Folder as `streamer collect` makes it; if left out, products are drawn."),
    ] = None,
    shares: Annotated[
        tuple[float, float, float], typer.Option(help="Of the products, whose pictures are exchanged.")
    ] = (_SHARES),
    seed: Annotated[int, typer.Option(help="Of the exchanges, the folds, the weights.")] = 0,
    products: Annotated[int, typer.Option(min=400, help="Drawn, where there is no CATALOG.")] = _DRAWN,
    folds: Annotated[int, typer.Option(min=2, help="As of `streamer audit`.")] = 2,
    epochs: Annotated[float | None, typer.Option(help="As of `streamer audit`.")] = None,
    max_tokens: Annotated[int, typer.Option(help="As of `streamer audit`.")] = 64,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Exchange the pictures of some products, audit the catalogue, and say what the audit found of it.

    Begin with a feed and its pictures in one folder, `streamer collect shop.csv --out shop`, then `python
    benchmarks/audit_planted.py shop --out shop-planted`. Each share takes as long as `streamer audit` does: it trains
    an engine for each fold. The run may be cut at any time, and goes on when it is started again.
    """
    mpl.use("svg")
    facts: dict[str, Any] = {"catalog": "drawn products" if catalog is None else catalog.name, "seed": seed}
    facts["shares"] = {}
    recipe = AdaptRecipe(seed=seed, epochs=epochs, max_tokens=max_tokens)
    with reported(threads) as progress:
        if catalog is None:
            catalog = out / "drawn"
            if not (catalog / CATALOG_FILE).exists():
                rendered.write_folder(rendered.render_catalog(products, seed), catalog, progress=progress)
        listing = list_folder(catalog, progress)
        for share in dict.fromkeys(shares):
            folder = out / f"share-{share:g}"
            planted = plant(listing, share, seed=seed)
            write_planted(catalog, listing, planted, folder / "catalog")
            audit = folder / "audit"
            audit_folder(
                folder / "catalog",
                audit,
                folder / "work",
                recipe,
                folds=folds,
                precision=0.5,
                progress=progress,
                explained=0,  # what an alert names is not counted here
                heat_maps=0,
            )
            facts["shares"][f"{share:g}"] = found(read_list(audit), planted)
    table = as_markdown(facts)
    (out / "planted.json").write_bytes(msgspec.json.format(msgspec.json.encode(facts)))
    (out / "planted.md").write_text(table, encoding="utf-8")
    draw(facts, out / "planted.png")
    Console().print(Markdown(table))


def _may_exchange(listing: Listing, one: int, other: int, kind: str) -> bool:
    """Whether two products that say something else are as alike as the kind asks."""
    a, b = listing.items[one].fields, listing.items[other].fields
    alike = {RANDOM: (), CATEGORY: ("product_type",), RECOLORED: ("product_type", "gender")}[kind]
    if listing.identities[one] == listing.identities[other]:
        return False
    if any(a.get(name, "").casefold() != b.get(name, "").casefold() for name in alike):
        return False
    colors = [of.get("color", "").casefold() for of in (a, b)]
    return kind != RECOLORED or (all(colors) and colors[0] != colors[1])


def _link(file: Path, place: Path) -> None:
    try:
        os.link(file, place)
    except OSError:  # another disk, or one that has no links
        shutil.copyfile(file, place)


def _unquoted(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def _kind(row: Row, planted: Mapping[str, tuple[str, str]]) -> str:
    return planted[row.id][1] if row.id in planted else ""


def _head(one: dict[str, Any], count: int) -> str:
    head = one["heads"].get(str(count))
    return "" if head is None else _share(head["precision"])


def _recall_of(one: dict[str, Any], kind: str) -> str:
    return _share(one["alerts"]["recall_by_kind"].get(kind))


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":  # decoding pictures starts processes, and those import this module
    typer.run(measure)
