"""What `quality.py` and `quality_seeds.py` draw: bars by grade, learning curves, sheets of misses and false alarms."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageOps

from engines import calibration
from engines.build import grades
from engines.build.recipe import PREVALENCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from engines.build.evaluate import Pairs
    from engines.build.signals import Part

_SHEET: Final = 50
_COLUMNS: Final = 10
_TILE, _CAPTION = 150, 86  # pixels


def draw_bars(title: str, found: Mapping[str, Sequence[Sequence[float]]], grades: Sequence[str], file: Path) -> None:
    """Write each method's figure [value, low, high] for each grade as bars."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(found)
    for number, (name, intervals) in enumerate(found.items()):
        values = np.array(intervals)
        places = np.arange(len(grades)) + (number - (len(found) - 1) / 2) * width
        errors = np.stack([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]).clip(min=0)
        axes.bar(places, values[:, 0], width, yerr=errors, label=name, error_kw={"elinewidth": 0.8})
    axes.set_xticks(np.arange(len(grades)), grades)
    axes.set_ylim(0, 1)
    axes.set_ylabel("recall at precision 0.5")
    axes.set_title(f"{title}, {PREVALENCE:.0%} of the pictures wrong", parse_math=False)
    _finish(figure, axes, file)


def draw_curves(curves: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write how each reader's fusion layers alone do on validation pairs after each epoch, a line for each grade."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    names = list(curves[0]["auc"]) if curves else []
    for number, grade in enumerate(names):
        for reader in sorted({point["reader"] for point in curves}):
            points = [point for point in curves if point["reader"] == reader]
            axes.plot(
                [point["epoch"] for point in points],
                [point["auc"][grade] for point in points],
                color=f"C{number}",
                label=grade if reader == 0 else None,
            )
    axes.set_xlabel("epoch")
    axes.set_ylabel("AUC of one reader's fusion layers")
    _finish(figure, axes, file)


def draw_learning(curves: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write how each idea's fusion layers do on hard validation pairs after each epoch: recall and AUC."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    both = figure.subplots(1, 2)
    for axes, name, title in zip(both, ("recall", "auc"), ("recall at precision 0.5", "AUC"), strict=True):
        for idea in dict.fromkeys(point["idea"] for point in curves):
            points = [point for point in curves if point["idea"] == idea and name in point]
            axes.plot([point["epoch"] for point in points], [point[name] for point in points], marker=".", label=idea)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{title}, hard swaps")
    _finish(figure, both[1], file)


def draw_audit(part: Part, pairs: Pairs, scores: NDArray[np.floating], seed: int, out: Path) -> None:
    """Write 50 matches that are taken for mismatches, and 50 hard mismatches that are not, where half is right."""
    grade = grades.HARD if (pairs.difference == grades.HARD).any() else grades.EASY
    (matches,), (wrong,) = (np.nonzero(pairs.label == 0), np.nonzero(pairs.difference == grade))
    rows = np.concatenate([matches, wrong])
    threshold = calibration.threshold_for_precision(
        scores[rows], pairs.label[rows], prevalence=PREVALENCE, precision=0.5
    )
    missed = wrong[scores[wrong] < (np.inf if threshold is None else threshold)]
    drawn = np.random.default_rng(seed).permutation(missed)[:_SHEET]
    false_alarms = matches[np.argsort(-scores[matches], kind="stable")][:_SHEET]
    for name, chosen in (("misses", drawn), ("false-alarms", false_alarms)):
        draw_sheet(part, pairs, chosen, out / f"{name}.png")


def draw_sheet(part: Part, pairs: Pairs, rows: NDArray[np.int64], file: Path) -> None:
    """Write pairs as a sheet of pictures, each above the text that it was shown with."""
    lines = -(-len(rows) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _TILE, max(1, lines) * (_TILE + _CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        left, top = number % _COLUMNS * _TILE, number // _COLUMNS * (_TILE + _CAPTION)
        pixels = part.catalog.pixel_values[pairs.picture[row]].transpose(1, 2, 0)
        sheet.paste(ImageOps.contain(Image.fromarray(pixels), (_TILE - 8, _TILE - 8)), (left + 4, top + 4))
        draw.multiline_text((left + 4, top + _TILE), _caption(part, pairs, row, number), fill="black", spacing=1)
    sheet.save(file)


def _caption(part: Part, pairs: Pairs, row: int, number: int) -> str:
    said = part.catalog.products[pairs.product[row]].fields
    title = textwrap.wrap(said.get("title", ""), 24)[:3]
    owner = part.catalog.products[part.catalog.picture_owner[pairs.picture[row]]]
    shown = [f"shows: {owner.fields.get('color', '')}"] if pairs.label[row] else []
    return "\n".join([f"{number + 1}: {said.get('color', '')}", *title, *shown])


def _finish(figure: Figure, axes: Axes, file: Path) -> None:
    axes.legend(fontsize="small", frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(file, dpi=120)
