"""What each idea of the compact family does for quality: one reader for each, on one split, judged on validation pairs.

    python benchmarks/quality_ablations.py CATALOG --out DIR [--only NAME --only NAME]

Each line changes one thing of the recipe that ships and trains a single reader by it; the test part is never looked at.
Figures are means over four draws of pairs: recall at precision 0.5 where 5 % of the pictures are wrong, and AUC, of the
fusion layers alone and of all signals together (their weights fitted on a fifth draw). Of the recipe that ships,
ensembles of several readers are shown, too. DIR gets ablations.json, ablations.md, and curves.png: how the fusion
layers tell hard swaps, epoch by epoch. Features, readers and lines that an earlier run of the same code has finished
in DIR are used again, and `quality.py` with the same DIR, seed and epochs goes on with the readers of what ships.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Final

import matplotlib as mpl
import msgspec
import numpy as np
import torch
import typer
from quality_pictures import draw_learning
from rich.console import Console
from rich.markdown import Markdown

from engines import calibration
from engines.build import adapt, grades, sources, weighing
from engines.build.gather import gather_parts
from engines.build.models.compact import CompactConfig
from engines.build.recipe import PREVALENCE, AdaptRecipe
from engines.build.schedule import steps, steps_per_epoch
from engines.build.signals import all_signals
from engines.build.terminal import reported

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.progress import Progress

    from engines.build.adapt import Prepared
    from engines.build.evaluate import Pairs
    from engines.build.gather import Parts
    from engines.build.models.compact import CompactFusion, Reader
    from engines.build.signals import Part

Figures = dict[str, dict[str, float]]

IDEAS: Final[dict[str, dict[str, Any]]] = {
    "as it ships, one reader": {},
    "readers begun from nothing": {"from_scratch": True},
    "no colors beside the image features": {"colors": False},
    "no taggers": {"tag_epochs": 0.0},
    "one view of each picture": {"views": 1},
    "two fusion layers of width 192": {"model": {"layers": 2, "width": 192}},
    "no word left out, dropout 0.1": {"word_dropout": 0.0, "model": {"dropout": 0.1}},
    "twice the epochs": {"epochs": 2.0},
    "no partners of another color": {"mix": {"random": 0.1, "category": 0.3, "nearest": 0.35, "variant": 0.25}},
    "3 % of the matches trimmed": {"trimmed_share": 0.03},
    "wrong texts beside wrong pictures": {"wrong_texts": 4},
    "the catalogue's attributes": {"attributes": True},
}
"""What each line changes of the recipe; `epochs` is a factor, `colors` says whether a reader is shown the palette."""

SHIPPED: Final = next(iter(IDEAS))
ENSEMBLES: Final = (1, 2, 3)
_FITTED_ON, _JUDGED_ON = 100, (111, 112, 113, 114)  # first seed of the draws that weights are fitted on, and others
_OURS: Final = {"epochs", "colors"}


@dataclass(frozen=True)
class Bench:
    """The split that all lines share, where their work stands, and one bar for it all."""

    parts: Parts
    name: str
    work: Path
    progress: Progress
    seed: int
    epochs: float | None

    def trained(self, idea: str) -> tuple[CompactFusion, Part, list[dict[str, Any]]]:
        """Return a model by the idea's recipe, the validation part, and the learning curve of its first reader."""
        changes = IDEAS[idea]
        recipe = AdaptRecipe(seed=self.seed, epochs=self.epochs, model={"readers": CompactConfig.readers})
        recipe = replace(recipe, **{name: value for name, value in changes.items() if name not in _OURS})
        if changes:
            recipe = replace(recipe, model={**recipe.model, "readers": 1})
        features = self.work / "one-view" if "views" in changes else self.work
        prepared = adapt.prepare(self.parts, self.name, features, recipe, self.progress)
        if "epochs" in changes:
            longer = changes["epochs"] * _epochs(len(self.parts[0].products), prepared.tuned(recipe))
            recipe = replace(recipe, epochs=longer)
        if not changes.get("colors", True):
            prepared = _without_colors(prepared)
        curve: list[dict[str, Any]] = []
        pairs = prepared.validation.pairs(_FITTED_ON)

        def on_epoch(number: int, epoch: int, reader: Reader) -> None:
            if number == 0:
                scores = all_signals(reader, prepared.validation, pairs).fusion
                curve.append({"idea": idea, "epoch": epoch} | _figures(scores, pairs).get(grades.HARD, {}))

        work = self.work if changes.get("colors", True) else self.work / "no-colors"
        work.mkdir(exist_ok=True)
        adapt.train(prepared, work, recipe, self.progress, on_epoch)
        return prepared.model, prepared.validation, curve

    def lines(self, idea: str) -> dict[str, dict[str, Any]]:
        """Return the figures of one idea, by the name of its line; of the recipe that ships also those of ensembles."""
        started = time.monotonic()
        model, part, curve = self.trained(idea)
        each = list(model.readers)
        took_s = round((time.monotonic() - started) / len(each), 1)
        found = {}
        for count in sorted({*(n for n in ENSEMBLES if n < len(each)), len(each)}):
            model.readers = torch.nn.ModuleList(each[:count])
            facts = _judged(model, part) | {"seconds_per_reader": took_s, "curve": curve if count == 1 else []}
            found[idea if count == 1 else f"{count} readers"] = facts
        return found


def _epochs(products: int, recipe: AdaptRecipe) -> float:
    """Return how many epochs a reader takes by the recipe."""
    return steps(products, recipe) / steps_per_epoch(products, recipe)


def _judged(model: CompactFusion, part: Part) -> dict[str, Any]:
    weighing.weigh(model, part, seed=_FITTED_ON)
    weights = weighing.weights_of(model)
    alone, together = [], []
    for seed in _JUDGED_ON:
        pairs = part.pairs(seed)
        signals = all_signals(model.signals, part, pairs)
        alone.append(_figures(signals.fusion, pairs))
        together.append(_figures(weighing.combined(signals, weights), pairs))
    return {"weights": weights.weights.tolist(), "fusion alone": _mean(alone), "all signals": _mean(together)}


def _without_colors(prepared: Prepared) -> Prepared:
    def of(part: Part) -> Part:
        return replace(part, features=replace(part.features, palette=np.zeros_like(part.features.palette)))

    return replace(prepared, training=of(prepared.training), validation=of(prepared.validation))


def _figures(scores: NDArray[np.floating], pairs: Pairs) -> Figures:
    found = {}
    for grade in grades.MEANINGS:
        rows = np.nonzero((pairs.label == 0) | (pairs.difference == grade))[0]
        label = pairs.label[rows]
        if label.any():
            recall = calibration.recall_at_precision(scores[rows], label, prevalence=PREVALENCE, precision=0.5)
            found[grade] = {"recall": recall, "auc": calibration.auc(scores[rows], label)}
    return found


def _mean(each: list[Figures]) -> Figures:
    return {
        grade: {name: round(float(np.mean([one[grade][name] for one in each])), 4) for name in each[0][grade]}
        for grade in each[0]
    }


def as_markdown(lines: dict[str, dict[str, Any]]) -> str:
    """Return the table that people read."""
    present = list(next(iter(lines.values()))["all signals"])
    rows = [f"| | fusion alone, hard | {' | '.join(present)} |", "| --- |" + " --- |" * (len(present) + 1)]
    for name, facts in lines.items():
        cells = [_cell(facts["fusion alone"].get(grades.HARD)), *(_cell(facts["all signals"][g]) for g in present)]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "Recall at precision 0.5 and 5 % prevalence, and AUC, on validation pairs:\n\n" + "\n".join(rows) + "\n"


def _cell(figures: dict[str, float] | None) -> str:
    return "" if figures is None else "{recall:.2f}, {auc:.3f}".format(**figures)


def measure(  # noqa: PLR0917 - typer's options
    catalog: Annotated[Path, typer.Argument(help="Folder with catalog.jsonl and the pictures it names.")],
    out: Annotated[Path, typer.Option(help="Directory for the table, the curves and work.")],
    seed: Annotated[int, typer.Option(help="Of the split, the draws, the weights.")] = 0,
    epochs: Annotated[float | None, typer.Option(help="Of a reader; the recipe's if left out.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Ideas to measure; all, unless told.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Measure what each idea does, one after the other, and print a table.

    CATALOG is a folder that `streamer collect FEED --out CATALOG` has made. The run may be cut, and goes on.
    """
    mpl.use("svg")
    recipe = AdaptRecipe(seed=seed)
    kept = out / "ablations.json"
    found = msgspec.json.decode(kept.read_bytes()) if kept.exists() else {}
    code = sources.digest()
    lines: dict[str, dict[str, Any]] = found["lines"] if found.get("code_sha256") == code else {}
    with reported(threads) as progress:
        parts = gather_parts(catalog, image=adapt.image_spec(recipe), seed=seed, progress=progress)
        bench = Bench(parts, catalog.name, out / "work", progress, seed, epochs)
        for idea in progress.track(only or list(IDEAS), description="ideas"):
            if idea in lines:
                continue
            lines |= bench.lines(idea)
            kept.write_bytes(msgspec.json.format(msgspec.json.encode({"code_sha256": code, "lines": lines})))
            progress.console.print(f"{idea}: {_cell(lines[idea]['all signals'].get(grades.HARD))} of hard swaps")
    table = as_markdown(lines)
    (out / "ablations.md").write_text(table)
    draw_learning([point for facts in lines.values() for point in facts["curve"]], out / "curves.png")
    Console().print(Markdown(table))


if __name__ == "__main__":  # decoding pictures starts processes, and those import this module
    typer.run(measure)
