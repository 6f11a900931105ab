"""How well a release finds one-attribute swaps in a rendered catalogue that nothing was trained or tuned on.

    python benchmarks/rendered_quality.py [--release DIR] [--products N] [--seed S] [--json]

Matches are products with their own pictures, mismatches the same texts with a sibling's picture that differs in one
attribute; all figures at 5 % prevalence, with 95 % bootstrap intervals. The threshold is the release's own.
"""

from __future__ import annotations

import os
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from engines.build import evaluate
from engines.build.gather import gather_rendered
from engines.build.recipe import PREVALENCE
from engines.build.texts import encode
from engines.runtime.loader import load, load_tokenizer

if TYPE_CHECKING:
    from engines.calibration import Interval

UNUSED_SEED = 20_261_124
"""Far from the seeds of training, validation and test, which are 1, 2 and 3."""


def measure(
    release: Annotated[Path | None, typer.Option(help="Release directory; the shipped one when left out.")] = None,
    products: Annotated[int, typer.Option(min=50)] = 2000,
    seed: Annotated[
        int, typer.Option(help="Of the catalogue; never 1, 2 or 3, which the release has seen.")
    ] = UNUSED_SEED,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON line.")] = False,
) -> None:
    """Print recall, precision and AUC of a release, by differing attribute and overall."""
    engine, tokenizer = load(release), load_tokenizer(release)
    manifest = engine.manifest
    with Progress(console=Console(stderr=True)) as progress:
        catalog = gather_rendered(products, seed=seed, image=manifest.image, progress=progress)
        pairs = evaluate.hard_pairs(catalog, seed=seed)
        logits = evaluate.score(engine, catalog, encode(catalog, tokenizer), pairs, progress)
    thresholds = evaluate.thresholds(manifest, catalog)[pairs.product]
    lines = evaluate.figures(logits, catalog, pairs, manifest.calibration, thresholds=thresholds, prevalence=PREVALENCE)
    title = f"{manifest.release} on {products} products of seed {seed}, {PREVALENCE:.0%} wrong"
    Console(width=int(os.environ.get("COLUMNS", "140"))).print(table(lines, title))
    if as_json:
        facts = {"release": manifest.release, "seed": seed, "products": products, "prevalence": PREVALENCE}
        print(msgspec.json.encode(facts | {"figures": evaluate.summary(lines)}).decode())


def table(lines: dict[str, evaluate.Figures], title: str) -> Table:
    """Return the figures as people read them, in per cent."""
    made = Table(title=title)
    for heading in (
        "differs in",
        "pairs",
        *(f"recall at precision {precision}" for precision in evaluate.PRECISIONS),
        "AUC",
        "recall at threshold",
        "precision at threshold",
    ):
        made.add_column(heading, justify="left" if heading == "differs in" else "right")
    for kind, line in lines.items():
        intervals = [
            *line.recall_at_precision.values(),
            line.auc,
            line.recall_at_threshold,
            line.precision_at_threshold,
        ]
        made.add_row(kind, str(line.pairs), *(_percent(interval) for interval in intervals))
    return made


def _percent(interval: Interval) -> str:
    return f"{interval.value:.1%} ({interval.low:.1%} to {interval.high:.1%})".replace("%", "")


if __name__ == "__main__":  # drawing pictures starts processes, and those import this module
    typer.run(measure)
