"""One table of several runs of `quality.py` on one catalogue, that differ in their seed.

    python benchmarks/quality_seeds.py DIR DIR DIR --out DIR [--targets benchmarks/quality_targets.toml]

Prints for each method and grade the median and the mean over the runs, and the lowest and the highest of them, where
5 % of the pictures are wrong: recall at precision 0.5, AUC, average precision, and by how much fusion has more of each
than the better dual encoder, which is chosen for each statistic of each run. With targets, also which run reaches
which. Each seed draws its own split, pairs, and weights.
"""

from __future__ import annotations

import tomllib
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import matplotlib as mpl
import numpy as np
import typer
from quality_figures import DUALS, FUSION, OVER, headline
from quality_pictures import draw_bars
from quality_scores import load_facts
from rich.console import Console
from rich.markdown import Markdown

from engines.build.recipe import PREVALENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_STATISTICS: Final = ("recall", "average_precision", "auc")
_GAIN: Final = "_gain"
_BETTER_DUAL: Final = next(name for name, methods in OVER.items() if methods == DUALS)


class Spread(NamedTuple):
    """Of a figure over the runs."""

    median: float
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of these."""
        known = list(values)
        return cls(float(np.median(known)), float(np.mean(known)), min(known), max(known))


def gain_of(facts: dict[str, Any], grade: str, statistic: str) -> float:
    """Return how much more fusion has in a run than the better dual encoder, better in this statistic."""
    of = {name: headline(facts["methods"][name][grade], statistic)[0] for name in (FUSION, *DUALS)}
    return round(of[FUSION] - max(of[name] for name in DUALS), 4)  # as exact as its parts are kept


def reaches(facts: dict[str, Any], statistic: str, grade: str, least: float) -> tuple[float, str]:
    """Return the figure of a run, and whether it reaches the target: `reached`, `not reached`, or why it is open.

    Args:
        facts: of the run.
        statistic: as `quality_targets.toml` names it.
        grade: of the pairs.
        least: the target.
    """
    name = statistic.removesuffix(_GAIN)
    if name == statistic:
        value = headline(facts["methods"][FUSION][grade], statistic)[0]
        return value, "reached" if value >= least else "not reached"
    value = gain_of(facts, grade, name)
    if value < least:
        return value, "not reached"
    if "gains" not in facts:
        return value, "interval to be taken anew"  # the run is of an earlier version
    low = facts["gains"][_BETTER_DUAL][grade][name][1]
    return value, "reached" if low > 0 else "not reached: 0 is in its interval"


def against(targets: dict[str, dict[str, float]], facts: list[dict[str, Any]]) -> list[str]:
    """Return a table of the targets, and which run reaches them."""
    seeds = [f"seed {one['recipe']['seed']}" for one in facts]
    lines = ["", f"| target | {' | '.join(seeds)} | median | mean |", f"| --- |{' --- |' * (len(seeds) + 2)}"]
    for statistic, by_grade in targets.items():
        for grade, least in by_grade.items():
            told = [reaches(one, statistic, grade, least) for one in facts]
            spread = Spread.of(value for value, _ in told)
            cells = [f"{value:.3f} {verdict}" for value, verdict in told]
            middle = [
                f"{value:.3f}{'' if value >= least else ' not reached'}" for value in (spread.median, spread.mean)
            ]
            lines.append(f"| {statistic}, {grade}: at least {least} | {' | '.join([*cells, *middle])} |")
    return [*lines, ""]


def as_markdown(facts: list[dict[str, Any]], targets: dict[str, dict[str, float]]) -> str:
    """Return the tables that people read."""
    methods = [name for name in facts[0]["methods"] if all(name in one["methods"] for one in facts)]
    present = _grades(facts)

    def table(rows: Iterable[str], figure: Callable[[dict[str, Any], str, str], float], number: str) -> list[str]:
        lines = [f"| | {' | '.join(present)} |", f"| --- |{' --- |' * len(present)}"]
        for row in rows:
            spreads = [Spread.of(figure(one, row, grade) for one in facts) for grade in present]
            cells = [f"{number}, {number} ({number} to {number})".format(*spread) for spread in spreads]
            lines.append(f"| {row} | {' | '.join(cells)} |")
        return ["", *lines, ""]

    lines = [
        f"# {facts[0]['catalog']}, {len(facts)} seeds: median, mean (lowest to highest)",
        "",
        f"Where {PREVALENCE:.0%} of the pictures are wrong. ",
    ]
    for statistic in _STATISTICS:
        lines += [f"{_named(statistic)}:", *table(methods, _figure(statistic), "{:.3f}")]
    lines += [
        f"{FUSION} minus {_BETTER_DUAL}, the better one of each statistic and run:",
        *table(_STATISTICS, lambda one, statistic, grade: gain_of(one, grade, statistic), "{:+.3f}"),
    ]
    if targets:
        lines += ["Targets:", *against(targets, facts)]
    return "\n".join(lines) + "\n"


def summarise(
    runs: Annotated[list[Path], typer.Argument(help="Directories that hold quality.json.")],
    out: Annotated[Path, typer.Option(help="Directory for seeds.md and seeds.png.")],
    targets: Annotated[
        Path | None, typer.Option(help="TOML with what is to be reached, see quality_targets.toml; no table without.")
    ] = None,
) -> None:
    """Print what the runs have in common, and where they differ.

    Run quality.py with --seed 0, 1 and 2 in directories of their own before.
    """
    mpl.use("svg")
    facts = [load_facts(run) for run in runs]
    name = facts[0]["catalog"]
    wanted = {} if targets is None else tomllib.loads(targets.read_text(encoding="utf-8")).get(name, {})
    text = as_markdown(facts, wanted)
    out.mkdir(parents=True, exist_ok=True)
    (out / "seeds.md").write_text(text, encoding="utf-8")
    present = _grades(facts)
    recall = _figure("recall")
    recalls = {
        method: [(s.mean, s.low, s.high) for s in (Spread.of(recall(f, method, g) for f in facts) for g in present)]
        for method in facts[0]["methods"]
        if all(method in one["methods"] for one in facts)
    }
    draw_bars(f"{name}, {len(facts)} seeds: mean, lowest and highest", recalls, present, out / "seeds.png")
    Console().print(Markdown(text))


def _grades(facts: list[dict[str, Any]]) -> list[str]:
    every = [one["methods"][FUSION] for one in facts]
    return [grade for grade in every[0] if all(grade in one for one in every)]


def _figure(statistic: str) -> Callable[[dict[str, Any], str, str], float]:
    return lambda facts, method, grade: headline(facts["methods"][method][grade], statistic)[0]


def _named(statistic: str) -> str:
    return "Recall at precision 0.5" if statistic == "recall" else statistic.replace("_", " ").capitalize()


if __name__ == "__main__":
    typer.run(summarise)
