"""One table of several runs of `quality.py` on one catalogue, that differ in their seed.

    python benchmarks/quality_seeds.py DIR DIR DIR --out DIR

Prints for each method and grade the mean over the runs, and the lowest and the highest of them: recall at precision 0.5
where 5 % of the pictures are wrong, and AUC. Each seed draws its own split, pairs, and weights.
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated, Any

import matplotlib as mpl
import msgspec
import numpy as np
import typer
from quality_pictures import draw_bars
from rich.console import Console
from rich.markdown import Markdown

from engines.build.recipe import PREVALENCE


def summarise(
    runs: Annotated[list[Path], typer.Argument(help="Directories that hold quality.json.")],
    out: Annotated[Path, typer.Option(help="Directory for seeds.md and seeds.png.")],
) -> None:
    """Print what the runs have in common, and where they differ."""
    mpl.use("svg")
    facts = [msgspec.json.decode((run / "quality.json").read_bytes()) for run in runs]
    names = list(facts[0]["methods"])
    grades = [grade for grade in facts[0]["gain"] if all(grade in one["gain"] for one in facts)]
    recalls = {name: [_spread([_recall(one, name, grade) for one in facts]) for grade in grades] for name in names}
    aucs = {
        name: [_spread([one["methods"][name][grade]["auc"][0] for one in facts]) for grade in grades] for name in names
    }
    gains = {
        figure: [_spread([one["gain"][grade][figure][0] for one in facts]) for grade in grades]
        for figure in ("recall", "auc")
    }
    lines = [
        f"# {facts[0]['catalog']}, {len(facts)} seeds: mean (lowest to highest)",
        "",
        f"Recall at precision 0.5 where {PREVALENCE:.0%} of the pictures are wrong:",
        *_table(grades, recalls, "{:.2f}"),
        "AUC:",
        *_table(grades, aucs, "{:.3f}"),
        "compact minus the dual encoder that finds most of a grade:",
        *_table(grades, gains, "{:+.3f}"),
    ]
    text = "\n".join(lines) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / "seeds.md").write_text(text)
    draw_bars(f"{facts[0]['catalog']}, {len(facts)} seeds", recalls, grades, out / "seeds.png")
    Console().print(Markdown(text))


def _recall(facts: dict[str, Any], method: str, grade: str) -> float:
    stated = facts["methods"][method][grade]["prevalence"][str(PREVALENCE)]
    return float(stated["recall_at_precision"]["0.5"][0])


def _spread(values: list[float]) -> tuple[float, float, float]:
    return float(np.mean(values)), min(values), max(values)


def _table(grades: list[str], rows: dict[str, list[tuple[float, float, float]]], number: str) -> list[str]:
    lines = [f"| method | {' | '.join(grades)} |", f"| --- |{' --- |' * len(grades)}"]
    for name, spreads in rows.items():
        cells = [f"{number} ({number} to {number})".format(*spread) for spread in spreads]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return ["", *lines, ""]


if __name__ == "__main__":
    typer.run(summarise)
