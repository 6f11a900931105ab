"""How well fusion finds wrong pictures in a catalogue, against judges that read picture and text apart.

    streamer collect FEED --out CATALOG                                      a feed and its pictures as a folder
    python benchmarks/quality.py CATALOG --out DIR [--seed 0]
    python benchmarks/quality.py CATALOG --out DIR --shares 0.38 0.12 0.5    tested on half of the products
    python benchmarks/quality.py CATALOG --out DIR --also vilt=CHECKPOINT    other families on the same pairs

One recipe, one split by connected groups, one run: each method is trained on the same products, its free weights are
chosen on the same validation pairs, and all are measured on the same test pairs, which nothing was trained or tuned on.
A grade is one wrong picture for each text; its figures are stated for a prevalence, by weighing. DIR gets quality.json,
quality.md, quality.png, curves.png (validation, epoch by epoch), scores.npz (every score of every pair, see
`quality_scores.py`), and misses.png and false-alarms.png: 50 pairs each to be judged by eye. What is trained stands in
DIR/work, and a run that was cut goes on from it; what each stage took is counted over all runs, in DIR/run.json.

What ships is `compact`; `compact, fusion layers alone` is the same without the signals beside its attention, and `dual
encoder + facets + taggers` these signals without the attention, weighed in the same way.
"""

from __future__ import annotations

import hashlib
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import matplotlib as mpl
import quality_figures
import quality_methods as methods
import quality_scores
import typer
from quality_figures import DUALS, FEATURES, FUSION
from quality_pictures import draw_audit, draw_curves
from quality_run import Run
from rich.console import Console
from rich.markdown import Markdown

from engines.build import adapt, sources
from engines.build.families import FAMILIES
from engines.build.gather import SHARES, gather_parts
from engines.build.models.compact import CompactConfig
from engines.build.recipe import AdaptRecipe
from engines.build.terminal import reported
from engines.catalogs.folder import CATALOG_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence


def ask(bench: methods.Bench, also: Sequence[tuple[str, str]]) -> None:
    """Train every method and ask it about all pairs."""
    run = bench.run
    with run.stage(methods.POOLED):
        methods.pooled_mlp(bench)
    encoders = []
    for name, mix in zip(DUALS, ({"random": 1.0}, bench.recipe.mix), strict=True):
        with run.stage(name):
            encoders.append(methods.dual(bench, name, mix))
    with run.stage(methods.LEMON):
        methods.lemon(bench, encoders[-1])
    with run.stage(FUSION):
        model = methods.fusion(bench)
    methods.unattended(bench, encoders, model.taggers)
    for family, source in also:
        with run.stage(methods.method_of(family, source)):
            methods.checkpoint(bench, family, source)


def other_families(also: Sequence[str]) -> list[tuple[str, str]]:
    """Return family and checkpoint of each `--also`.

    Raises:
        BadParameter: it is not FAMILY=CHECKPOINT, or the family begins with no checkpoint.
    """
    pretrained = [name for name, family in FAMILIES.items() if family.pretrained is not None]
    parsed = []
    for one in also:
        family, _, source = one.partition("=")
        if family not in pretrained or not source:
            raise typer.BadParameter(f"{one!r} is not FAMILY=CHECKPOINT, with a family of {', '.join(pretrained)}")
        parsed.append((family, source))
    return parsed


def measure(  # noqa: PLR0917 - typer's options
    catalog: Annotated[
        Path,
        typer.Argument(help="Folder with catalog.jsonl and the pictures it names, as `streamer collect` makes it."),
    ],
    out: Annotated[Path, typer.Option(help="Directory for tables, plots, scores and work; a cut run goes on from it.")],
    seed: Annotated[int, typer.Option(help="Of the split, the pairs, the weights.")] = 0,
    epochs: Annotated[float | None, typer.Option(help="Of a reader of fusion; the recipe's if left out.")] = None,
    dual_epochs: Annotated[float | None, typer.Option(help="Of a reader of a dual encoder; as of fusion's.")] = None,
    readers: Annotated[int, typer.Option(min=1, help="Of each model.")] = CompactConfig.readers,
    views: Annotated[int, typer.Option(min=1, help="Of each picture that is trained on.")] = AdaptRecipe.views,
    max_tokens: Annotated[int, typer.Option(help="Longer texts are cut.")] = 64,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Begin no reader, of no method, with what another catalogue taught.")
    ] = False,
    shares: Annotated[
        tuple[float, float, float], typer.Option(help="Of the products: to train on, to choose weights, to test.")
    ] = SHARES,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FAMILY=CHECKPOINT",
            help="Another family to train and measure beside compact, as `streamer adapt --family FAMILY --checkpoint "
            "CHECKPOINT` trains it; again for more. On a CPU it takes hours.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Train fusion and baselines on one catalogue and print what each finds, by grade of hardness.

    Nothing must be labelled: wrong pictures are made by exchanging them. Begin with a feed and its pictures in one
    folder, `streamer collect shop.csv --out shop`, then `python benchmarks/quality.py shop --out shop-quality`. It
    takes some 350 products at least; 7,700 take two hours on two cores without bfloat16. The run may be cut at any
    time, and goes on when it is started again.

    Look first at DIR/quality.md, then at DIR/misses.png and DIR/false-alarms.png: of false alarms many are real errors
    of the catalogue. Repeat with --seed 1 and 2 in other directories and sum up with quality_seeds.py.
    """
    mpl.use("svg")
    others = other_families(also or [])
    recipe = AdaptRecipe(
        seed=seed,
        shares=shares,
        epochs=epochs,
        from_scratch=from_scratch,
        max_tokens=max_tokens,
        views=views,
        model={"readers": readers},
    )
    dual_epochs = epochs if dual_epochs is None else dual_epochs
    lines = catalog / CATALOG_FILE
    facts: dict[str, Any] = {
        "catalog": catalog.name,
        "recipe": recipe.as_dict(),
        "dual_epochs": dual_epochs,
        "shares": shares,
        "threads": threads,
        "catalog_sha256": hashlib.sha256(lines.read_bytes()).hexdigest() if lines.exists() else "",
        "code_sha256": sources.digest(),
    }
    with reported(threads) as progress:
        run = Run(out, facts)
        with run.stage(FEATURES):
            products = gather_parts(
                catalog, image=adapt.image_spec(recipe), seed=seed, progress=progress, shares=shares
            )
            prepared = adapt.prepare(products, catalog.name, run.work, recipe, progress)
        bench = methods.Bench.begin(catalog, shares, prepared, recipe, dual_epochs, progress, run)
        ask(bench, others)
        quality_scores.save(bench.scores, out)
        facts |= {
            "warm_start_sha256": None if prepared.start is None else prepared.start.digest,
            "products": {
                name: len(getattr(prepared, name).catalog.products) for name in ("training", "validation", "test")
            },
            "seconds": run.seconds(),
            "seconds_whole": run.kept.whole,
            "curves": run.kept.curves,
            "weights": bench.weights,
        }
        progress.console.print("measuring, which takes some minutes")
        table = quality_figures.write(facts, bench.scores, out)
        draw_curves(run.kept.curves, out / "curves.png")
        draw_audit(prepared.test, bench.pairs[1], bench.scores.test.methods[FUSION], seed, out)
    Console().print(Markdown(table))


if __name__ == "__main__":  # decoding pictures starts processes, and those import this module
    typer.run(measure)
