"""How well fusion finds wrong pictures in a catalogue, against judges that read picture and text apart.

    python benchmarks/quality.py CATALOG --out DIR [--seed 0]
    python benchmarks/quality.py CATALOG --out DIR --shares 0.38 0.12 0.5    tested on half of the products

CATALOG is a folder as `streamer collect` writes it. One recipe, one split by connected groups, one run: each method is
trained on the same products, its free weights are chosen on the same validation pairs, and all are measured on the same
test pairs, which nothing was trained or tuned on. A grade is one wrong picture for each text; its figures are stated
for a prevalence, by weighing. DIR gets quality.json, quality.md, quality.png, curves.png (validation, epoch by epoch),
and misses.png and false-alarms.png: 50 pairs each to be judged by eye. What is trained stands in DIR/work, and a run
that was cut goes on from it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Final

import matplotlib as mpl
import msgspec
import numpy as np
import torch
import typer
from quality_pictures import draw_bars, draw_curves, draw_sheet
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from engines import calibration
from engines.build import adapt, baselines, grades
from engines.build.evaluate import PRECISIONS, related
from engines.build.gather import SHARES, gather_parts
from engines.build.models.compact import CompactConfig
from engines.build.recipe import PREVALENCE, AdaptRecipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from engines.build.adapt import Part, Prepared
    from engines.build.evaluate import Pairs
    from engines.build.models.compact import CompactFusion, Reader
    from engines.calibration import Interval

    Scores = NDArray[np.floating]

PREVALENCES: Final = (0.01, PREVALENCE, 0.1)
FUSION, DUALS = "compact", ("dual encoder", "dual encoder, hard negatives")
HALF: Final = 0.5  # the precision at which misses and false alarms are shown
_SHEET: Final = 50
_LEMON_WEIGHTS: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Bench:
    """What all methods share: features of the split, pairs to choose weights with, pairs to measure on."""

    prepared: Prepared
    recipe: AdaptRecipe
    dual_epochs: float | None
    work: Path
    progress: Progress
    validation: Pairs
    test: Pairs
    curves: list[dict[str, Any]] = field(default_factory=list)

    def parts(self) -> tuple[tuple[Part, Pairs], tuple[Part, Pairs]]:
        """Return validation and test, each with its pairs."""
        return (self.prepared.validation, self.validation), (self.prepared.test, self.test)

    def trained(self, recipe: AdaptRecipe, on_epoch: Callable[[int, int, Reader], None] | None = None) -> CompactFusion:
        """Return a compact model trained by the recipe from the start, or from where an earlier run was cut."""
        model = adapt.fresh(self.prepared.model.config, recipe.seed)
        adapt.standardise(model, self.prepared.training)
        adapt.train(replace(self.prepared, model=model), self.work, recipe, self.progress, on_epoch)
        return model


def dual(bench: Bench, mix: dict[str, float]) -> tuple[Scores, CompactFusion]:
    """Return the test scores of a dual encoder whose batches hold partners drawn from `mix`, and the encoder."""
    recipe = replace(bench.recipe, pair_weight=0.0, contrastive_weight=1.0, tag_epochs=0.0)
    recipe = replace(recipe, epochs=bench.dual_epochs, mix=mix)
    model = bench.trained(recipe)
    return -adapt.all_signals(model.signals, bench.prepared.test, bench.test).similarity, model


def lemon(bench: Bench, model: CompactFusion) -> Scores:
    """Return the test scores of LEMoN in the space of a dual encoder; its weights are chosen on validation pairs."""
    known = adapt.embed(model, bench.prepared.training)
    own, by_picture, by_text = zip(
        *(baselines.lemon(known, adapt.embed(model, part), shown(part, pairs), pairs) for part, pairs in bench.parts()),
        strict=True,
    )

    def scores(part: int, weights: tuple[float, ...]) -> Scores:
        return np.asarray(own[part] + weights[0] * by_picture[part] + weights[1] * by_text[part])

    def quality(weights: tuple[float, ...]) -> float:
        return adapt.mean_recall(scores(0, weights), bench.validation)

    best = max(product(_LEMON_WEIGHTS, repeat=2), key=quality)
    return scores(1, best)


def pooled_mlp(bench: Bench) -> Scores:
    """Return the test scores of an MLP on pooled vectors of both frozen backbones."""
    training = bench.prepared.training
    model = baselines.train_pooled(training.catalog, training.features, bench.recipe.mix, seed=bench.recipe.seed)
    test = bench.prepared.test
    return baselines.score_pooled(model, test.features, shown(test, bench.test), bench.test)


def fusion(bench: Bench) -> dict[str, Scores]:
    """Return the test scores of the compact family, with and without the signals beside its fusion layers."""
    model = bench.trained(bench.recipe, partial(_note, bench))
    adapt.weigh(model, bench.prepared.validation, seed=bench.recipe.seed)
    signals = adapt.all_signals(model.signals, bench.prepared.test, bench.test)
    return {
        f"{FUSION}, fusion layers alone": signals.fusion,
        FUSION: adapt.combined(signals, adapt.weights_of(model)),
    }


def _note(bench: Bench, number: int, epoch: int, reader: Reader) -> None:
    """Add a point to the learning curves: what one reader's fusion layers find of the validation pairs."""
    pairs = bench.validation
    scores = adapt.all_signals(reader, bench.prepared.validation, pairs).fusion
    auc = {
        grade: round(calibration.auc(scores[rows], pairs.label[rows]), 4) for grade, rows in _by_grade(pairs).items()
    }
    bench.curves.append({"reader": number, "epoch": epoch, "auc": auc})


def draw_audit(bench: Bench, scores: Scores, out: Path) -> None:
    """Write 50 matches that are taken for mismatches, and 50 hard mismatches that are not, where half is right."""
    pairs = bench.test
    grade = grades.HARD if (pairs.difference == grades.HARD).any() else grades.EASY
    (matches,), (wrong,) = (np.nonzero(pairs.label == 0), np.nonzero(pairs.difference == grade))
    rows = np.concatenate([matches, wrong])
    threshold = calibration.threshold_for_precision(
        scores[rows], pairs.label[rows], prevalence=PREVALENCE, precision=HALF
    )
    missed = wrong[scores[wrong] < (np.inf if threshold is None else threshold)]
    drawn = np.random.default_rng(bench.recipe.seed).permutation(missed)[:_SHEET]
    false_alarms = matches[np.argsort(-scores[matches], kind="stable")][:_SHEET]
    for name, chosen in (("misses", drawn), ("false-alarms", false_alarms)):
        draw_sheet(bench.prepared.test, pairs, chosen, out / f"{name}.png")


def shown(part: Part, pairs: Pairs) -> NDArray[np.int64]:
    """Return the product whose picture each pair shows."""
    return part.catalog.picture_owner[pairs.picture]


def figures(bench: Bench, scores: Scores) -> dict[str, Any]:
    """Return the test figures of one method by grade, [value, low, high] where there is an interval."""
    return {grade: _figures_of(bench, scores, rows) for grade, rows in _by_grade(bench.test).items()}


def _figures_of(bench: Bench, scores: Scores, rows: NDArray[np.int64]) -> dict[str, Any]:
    recall = calibration.recall_at_precision
    interval = partial(_interval, bench, scores, rows)
    return {
        "pairs": int(bench.test.label[rows].sum()),
        "auc": interval(calibration.auc),
        "prevalence": {
            str(prevalence): {
                "average_precision": interval(partial(calibration.average_precision, prevalence=prevalence)),
                "recall_at_precision": {
                    str(precision): interval(partial(recall, prevalence=prevalence, precision=precision))
                    for precision in PRECISIONS
                },
            }
            for prevalence in PREVALENCES
        },
    }


def gain(bench: Bench, fused: Scores, other: Scores, rows: NDArray[np.int64]) -> dict[str, list[float]]:
    """Return how much more fusion finds in these pairs, the two methods drawn together."""
    both = np.stack([fused, other], axis=1)

    def difference(statistic: Callable[[Any, Any], float]) -> list[float]:
        return _interval(bench, both, rows, lambda s, t: statistic(s[:, 0], t) - statistic(s[:, 1], t))

    recall = partial(calibration.recall_at_precision, prevalence=PREVALENCE, precision=0.5)
    return {"recall": difference(recall), "auc": difference(calibration.auc)}


def _interval(
    bench: Bench, scores: Scores, rows: NDArray[np.int64], statistic: Callable[[Any, Any], float]
) -> list[float]:
    """Return the statistic of these pairs with its interval; pairs of one item are drawn together."""
    groups = related(bench.prepared.test.catalog, bench.test)[rows]
    return _rounded(calibration.bootstrap(statistic, scores[rows], bench.test.label[rows], groups=groups, samples=300))


def _by_grade(pairs: Pairs) -> dict[str, NDArray[np.int64]]:
    present = [grade for grade in grades.MEANINGS if (pairs.difference == grade).any()]
    return {grade: np.nonzero((pairs.label == 0) | (pairs.difference == grade))[0] for grade in present}


def _rounded(interval: Interval) -> list[float]:
    return [round(number, 4) for number in interval]


def as_markdown(facts: dict[str, Any]) -> str:
    """Return the table that people read: recall at precision 0.5 and 5 % prevalence, then the rest by grade."""
    methods, products = facts["methods"], facts["products"]
    present = list(methods[FUSION])

    def table(rows: dict[str, list[str]]) -> list[str]:
        lines = [_row("method", present), _row("---", ["---"] * len(present))]
        return ["", *lines, *(_row(name, cells) for name, cells in rows.items()), ""]

    recalls = {name: [_interval_text(_at_stated(of[g])) for g in present] for name, of in methods.items()}
    others = {
        name: ["{:.3f}, {:.3f}".format(of[g]["auc"][0], _stated(of[g])["average_precision"][0]) for g in present]
        for name, of in methods.items()
    }
    gains = {f: [_interval_text(facts["gain"][g][f], "{:+.2f}") for g in present] for f in ("recall", "auc")}
    meanings = [f"* **{g}**: {grades.MEANINGS[g]} ({methods[FUSION][g]['pairs']} pairs)" for g in present]
    lines = [
        f"# {facts['catalog']}: {products['training']} products trained on, {products['test']} tested",
        "",
        f"Recall at precision 0.5 where {PREVALENCE:.0%} of the pictures are wrong, with 95 % bootstrap intervals:",
        *table(recalls),
        "AUC, and average precision at that prevalence:",
        *table(others),
        f"{FUSION} minus the dual encoder that finds most of a grade, paired intervals:",
        *table(gains),
        "Each grade's wrong picture is of:",
        "",
        *meanings,
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, cells: list[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _interval_text(interval: list[float], number: str = "{:.2f}") -> str:
    return f"{number} ({number} to {number})".format(*interval)


def _stated(of_grade: dict[str, Any]) -> dict[str, Any]:
    stated: dict[str, Any] = of_grade["prevalence"][str(PREVALENCE)]
    return stated


def _at_stated(of_grade: dict[str, Any]) -> list[float]:
    """Return the headline: recall at precision 0.5 at the stated prevalence."""
    interval: list[float] = _stated(of_grade)["recall_at_precision"]["0.5"]
    return interval


def best_dual(methods: dict[str, Any], grade: str) -> str:
    """Return the dual encoder that finds most of a grade."""
    return max(DUALS, key=lambda name: _at_stated(methods[name][grade])[0])


def measure(  # noqa: PLR0917 - typer's options
    catalog: Annotated[Path, typer.Argument(help="Folder with catalog.jsonl and the pictures it names.")],
    out: Annotated[Path, typer.Option(help="Directory for quality.json, quality.md, quality.png and work.")],
    seed: Annotated[int, typer.Option(help="Of the split, the pairs, the weights.")] = 0,
    epochs: Annotated[float | None, typer.Option(help="Of a reader of fusion; the recipe's if left out.")] = None,
    dual_epochs: Annotated[float | None, typer.Option(help="Of a reader of a dual encoder; as of fusion's.")] = None,
    readers: Annotated[int, typer.Option(min=1, help="Of each model.")] = CompactConfig.readers,
    views: Annotated[int, typer.Option(min=1, help="Of each picture that is trained on.")] = AdaptRecipe.views,
    max_tokens: Annotated[int, typer.Option(help="Longer texts are cut.")] = 64,
    shares: Annotated[
        tuple[float, float, float], typer.Option(help="Of the products: to train on, to choose weights, to test.")
    ] = SHARES,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Train fusion and baselines on one catalogue and print what each finds, by grade of hardness."""
    torch.set_num_threads(threads)
    mpl.use("svg")
    recipe = AdaptRecipe(seed=seed, epochs=epochs, max_tokens=max_tokens, views=views, model={"readers": readers})
    dual_epochs = epochs if dual_epochs is None else dual_epochs
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    seconds: dict[str, float] = {}
    results: dict[str, Scores] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:
        image = adapt.image_spec(recipe)
        products = gather_parts(catalog, image=image, seed=seed, progress=progress, shares=shares)
        prepared = adapt.prepare(products, catalog.name, out / "work", recipe, progress)
        validation, test = prepared.validation.pairs(seed), prepared.test.pairs(seed + 1)
        bench = Bench(prepared, recipe, dual_epochs, out / "work", progress, validation, test)
        started = time.monotonic()

        def took(name: str) -> None:
            nonlocal started
            seconds[name], started = round(time.monotonic() - started, 1), time.monotonic()

        results["pooled vectors + MLP"] = pooled_mlp(bench)
        took("pooled vectors + MLP")
        results[DUALS[0]], _ = dual(bench, {"random": 1.0})
        took(DUALS[0])
        results[DUALS[1]], encoder = dual(bench, recipe.mix)
        took(DUALS[1])
        results["LEMoN"] = lemon(bench, encoder)
        took("LEMoN")
        results |= fusion(bench)
        took(FUSION)
        methods = {
            name: figures(bench, scores) for name, scores in progress.track(results.items(), description="measuring")
        }
    facts = {
        "catalog": catalog.name,
        "products": {
            name: len(getattr(prepared, name).catalog.products) for name in ("training", "validation", "test")
        },
        "recipe": recipe.as_dict(),
        "dual_epochs": dual_epochs,
        "shares": shares,
        "seconds_in_this_process": seconds,
        "threads": threads,
        "curves": bench.curves,
        "methods": methods,
        "gain": {
            grade: gain(bench, results[FUSION], results[best_dual(methods, grade)], rows)
            for grade, rows in _by_grade(test).items()
        },
    }
    table = as_markdown(facts)
    (out / "quality.json").write_bytes(msgspec.json.format(msgspec.json.encode(facts)))
    (out / "quality.md").write_text(table)
    present = list(methods[FUSION])
    recalls = {name: [_at_stated(of[grade]) for grade in present] for name, of in methods.items()}
    draw_bars(catalog.name, recalls, present, out / "quality.png")
    draw_curves(bench.curves, out / "curves.png")
    draw_audit(bench, results[FUSION], out)
    Console().print(Markdown(table))


if __name__ == "__main__":  # decoding pictures starts processes, and those import this module
    typer.run(measure)
