"""`python -m engines.build`: from a catalogue to a release."""

from __future__ import annotations

import math
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from engines.build import golden_pairs, run, tracking
from engines.build.recipe import PREVALENCE, AdaptRecipe, Recipe, TuneRecipe
from engines.build.report.audit import EXPLAINED, HEAT_MAPS, SHOWN
from engines.build.retrain.cli import champion, retrain
from engines.build.terminal import reported

_SMALL_EPOCHS = 20.0
_IS_MAIN = os.environ.get("RANK", "0") == "0"  # of the processes that `accelerate launch` has started
_FOLDER_VOCABULARY = 4000  # people write with more words than a generator

app = typer.Typer(
    help="Train an engine on a catalogue and publish it as a release.\n\nA catalogue is taken to be right: matches are "
    "its own pairs, mismatches are made by exchanging pictures between products that differ, most of all between "
    "variants of one item. Nothing is labelled by hand.",
    no_args_is_help=True,
    add_completion=False,
)


def _one(shares: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return shares that are a whole together.

    Raises:
        BadParameter: they are not.
    """
    if min(shares) <= 0 or not math.isclose(sum(shares), 1.0, abs_tol=0.005):
        raise typer.BadParameter(f"{shares} are not three parts of a whole; their sum must be 1, as in 0.4 0.3 0.3")
    return shares


Out = Annotated[
    Path, typer.Option(help="Directory that will hold the release, as <family>-<digest>; made when missing.")
]
Seed = Annotated[int, typer.Option(help="Of everything random: the split, the pairs, the first weights.")]
Precision = Annotated[
    float,
    typer.Option(
        min=0.05,
        max=0.99,
        help="The release's threshold is the one of greatest recall whose alerts are right in this share, when a share "
        "--prevalence of the products is wrong.",
    ),
]
Prevalence = Annotated[
    float,
    typer.Option(
        min=0.001,
        max=0.5,
        help="The share of wrong products that figures, probabilities and thresholds are stated for: your catalogue's, "
        "if you know it.",
    ),
]
Shares = Annotated[
    tuple[float, float, float],
    typer.Option(
        help="Of the products: to train on, to choose weights and threshold with, to measure on; each part needs 50.",
        callback=_one,
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        min=1,
        help="CPU threads; at most so many of compact's readers are trained at a time, where there is no GPU.",
    ),
]
Attributes = Annotated[
    bool, typer.Option("--attributes", help="Read columns, such as price or color, beside the text; not for small.")
]

_LEAST_STEPS = f"{AdaptRecipe.WARM['least_steps']} steps ({AdaptRecipe.LEAST_STEPS} --from-scratch)"
FromScratch = Annotated[
    bool,
    typer.Option(
        "--from-scratch", help="Begin compact's readers with nothing, not with what another catalogue has taught them."
    ),
]


class AdaptFamily(StrEnum):
    """The families that `adapt` trains; those below `small` begin with a checkpoint."""

    compact = "compact"
    small = "small"
    vilt = "vilt"
    blip = "blip"
    blip2 = "blip2"
    flava = "flava"
    clip = "clip"


@app.command()
def rendered(  # noqa: PLR0917 - options, typer passes them by name
    out: Out,
    seed: Seed = 0,
    products: Annotated[int, typer.Option(min=200, help="Drawn products to train on.")] = run.RENDERED_PRODUCTS,
    epochs: Annotated[int, typer.Option(min=1, help="How often each product is an anchor.")] = 8,
    precision: Precision = run.RENDERED_PRECISION,
    threads: Threads = 2,
) -> None:
    """Train on drawn products; no data is needed. With the defaults this rebuilds the release that ships.

    Products to train, to choose the threshold and to measure on are drawn from three seeds (--seed + 1, 2, 3), so no
    item is in two of them. About half an hour on two cores; try `--products 400 --epochs 1` first, which takes a minute
    and learns nothing.
    """
    with reported(threads, shown=_IS_MAIN) as progress:
        recipe = Recipe(epochs=epochs, seed=seed)
        release = run.build_rendered(out, recipe, products=products, precision=precision, progress=progress)
    typer.echo(release)


@app.command()
def adapt(  # noqa: PLR0917 - as above
    catalog: Annotated[
        Path, typer.Argument(help="Folder with catalog.jsonl (Google Merchant field names) and the pictures it names.")
    ],
    out: Out,
    family: Annotated[
        AdaptFamily,
        typer.Option(
            help="compact: pretrained backbones, for real photos. small: from scratch, quicker. The others fine-tune a "
            "--checkpoint, best on a GPU."
        ),
    ] = AdaptFamily.compact,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="DIR_OR_HUB_ID", help="What vilt, blip, blip2, flava and clip begin with."),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Directory for features and checkpoints; a run that was cut goes on from it. OUT/work when left out."
        ),
    ] = None,
    seed: Seed = 0,
    epochs: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help=f"How often each product is an anchor; if left out {AdaptRecipe.EPOCHS:g} for compact "
            f"and at least {_LEAST_STEPS}, "
            f"{_SMALL_EPOCHS:g} for small, {TuneRecipe.epochs:g} for others.",
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=8, max=512, help="Longer texts are cut at the end.")] = 64,
    attributes: Attributes = False,
    from_scratch: FromScratch = False,
    wrong_texts: Annotated[
        int,
        typer.Option(min=0, help="With compact, texts of each product that are wrong in one attribute to learn from."),
    ] = 0,
    precision: Precision = 0.5,
    prevalence: Prevalence = PREVALENCE,
    shares: Shares = AdaptRecipe.shares,
    threads: Threads = 2,
) -> None:
    """Train on a folder of product photos: fusion layers between pretrained backbones, or a small model from scratch.

    Or fine-tune a checkpoint of a transformer family: `accelerate launch -m engines.build adapt …` does so on several
    GPUs. Where MLflow is installed it tracks the run, at MLFLOW_TRACKING_URI or in the work directory.

    Products that share a photo, a title or an item group stay together: 70 % train, 15 % choose weights and threshold,
    15 % measure, with compact by grades of hardness. Three pictures of a product are trained on at most; while it runs,
    compact needs some 0.8 MB in --work for each, and 0.2 MB in TMPDIR: 17 GB and 6 GB for a large catalogue with one
    picture a product. It says so before it begins where there is no room.
    """
    pretrained = family not in (AdaptFamily.compact, AdaptFamily.small)
    if pretrained != (checkpoint is not None):
        raise typer.BadParameter(f"{family} {'needs' if pretrained else 'takes no'} --checkpoint")
    if family is AdaptFamily.small and attributes:
        raise typer.BadParameter("small reads no --attributes")
    work = work or out / "work"
    tracked = tracking.run(f"{family}-{catalog.name}", work, enabled=_IS_MAIN)
    with reported(threads, shown=_IS_MAIN) as progress, tracked:
        release: Path | None
        if family is AdaptFamily.small:
            small = Recipe(
                epochs=math.ceil(epochs or _SMALL_EPOCHS),
                seed=seed,
                max_tokens=max_tokens,
                vocabulary_size=_FOLDER_VOCABULARY,
                shares=shares,
            )
            release = run.build_folder(
                catalog, out, small, precision=precision, prevalence=prevalence, progress=progress
            )
        elif checkpoint is None:
            from engines.build.adapt import adapt_folder  # noqa: PLC0415 - imports transformers, which takes seconds

            compact = AdaptRecipe(
                seed=seed,
                epochs=epochs,
                max_tokens=max_tokens,
                from_scratch=from_scratch,
                wrong_texts=wrong_texts,
                attributes=attributes,
                shares=shares,
            )
            release = adapt_folder(
                catalog, out, work, compact, precision=precision, prevalence=prevalence, progress=progress
            )
        else:
            from engines.build.adapt_checkpoint import adapt_checkpoint  # noqa: PLC0415 - as above

            tune = TuneRecipe(
                seed=seed,
                epochs=epochs or TuneRecipe.epochs,
                max_tokens=max_tokens,
                attributes=attributes,
                shares=shares,
            )
            release = adapt_checkpoint(
                family,
                checkpoint,
                catalog,
                out,
                work,
                tune,
                precision=precision,
                prevalence=prevalence,
                progress=progress,
            )
    if release is not None:
        typer.echo(release)


@app.command()
def audit(  # noqa: PLR0917 - as above
    catalog: Annotated[
        Path, typer.Argument(help="Folder with catalog.jsonl (Google Merchant field names) and the pictures it names.")
    ],
    out: Annotated[Path, typer.Option(help="Directory for index.html, audit.csv and, with pyarrow, audit.parquet.")],
    work: Annotated[
        Path | None,
        typer.Option(help="Directory for engines and checkpoints; a run that was cut goes on. OUT/work when left out."),
    ] = None,
    folds: Annotated[
        int, typer.Option(min=2, help="Parts, each judged by an engine trained on the others; more take longer.")
    ] = 2,
    seed: Seed = 0,
    epochs: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="How often each product is an anchor; if left out "
            f"{AdaptRecipe.EPOCHS:g}, and at least {_LEAST_STEPS}.",
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=8, max=512, help="Longer texts are cut at the end.")] = 64,
    attributes: Attributes = False,
    from_scratch: FromScratch = False,
    precision: Precision = 0.5,
    prevalence: Prevalence = PREVALENCE,
    explained: Annotated[
        int,
        typer.Option(
            min=0,
            help="Alerts of a fold, the most suspicious, that name what the picture contradicts; each takes "
            "as long as judging some 7 products.",
        ),
    ] = EXPLAINED,
    heat_maps: Annotated[
        int,
        typer.Option(
            min=0,
            max=SHOWN,
            help="First products of the page that show where, if they alert; each takes as long as judging 81.",
        ),
    ] = HEAT_MAPS,
    threads: Threads = 2,
) -> None:
    """Rank the products of a folder by how likely their own picture is wrong.

    The compact family is trained once for each fold, on the products of the others; products that share a photo, a
    title or an item group are in one fold. Run again with other --explained or --heat-maps it only does what is new.
    """
    with reported(threads, shown=_IS_MAIN) as progress:
        from engines.build.audit import audit_folder  # noqa: PLC0415 - imports transformers, which takes seconds

        recipe = AdaptRecipe(
            seed=seed, epochs=epochs, from_scratch=from_scratch, max_tokens=max_tokens, attributes=attributes
        )
        page = audit_folder(
            catalog,
            out,
            work or out / "work",
            recipe,
            folds=folds,
            precision=precision,
            prevalence=prevalence,
            progress=progress,
            explained=explained,
            heat_maps=heat_maps,
        )
    typer.echo(page)


@app.command()
def golden(
    release: Annotated[Path, typer.Argument(help="Directory of a release that was made without golden pairs.")],
    out: Out,
) -> None:
    """Give a release golden pairs: what it answers here for some products, for every scorer that loads it to ask again.

    The products are drawn, and nothing is trained. The release gets another name, since its files are others; its model
    is the same.
    """
    with reported(1):
        made = golden_pairs.add(release, out)
    typer.echo(made)


@app.command(name="warm-start")
def warm_start(
    release: Annotated[Path, typer.Argument(help="Directory of a compact release.")],
    catalog: Annotated[Path, typer.Argument(help="The folder that it was adapted to.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
) -> None:
    """Keep what a release's readers have learned, for other catalogues to begin with.

    The file also holds a coarse print of every picture of CATALOG: no catalogue that shares many begins with it. Put it
    in the place of engines/build/begun/compact.safetensors.
    """
    with reported(1) as progress:
        from engines.build import warm_start as starting  # noqa: PLC0415 - as above
        from engines.build.gather import MOST_PICTURES, gather_listed  # noqa: PLC0415
        from engines.build.listing import list_folder  # noqa: PLC0415
        from engines.build.models.compact import CompactFusion  # noqa: PLC0415
        from engines.build.restore import restore  # noqa: PLC0415

        source = restore(release)
        if not isinstance(source.model, CompactFusion):
            raise typer.BadParameter(f"{release} is of the family {source.family}, not compact")
        listing = list_folder(catalog, progress)
        shown = gather_listed(listing, image=source.image, progress=progress, most_pictures=MOST_PICTURES)
        starting.write(source.model, shown.pixel_values, out)
    typer.echo(out)


app.command()(retrain)
app.command()(champion)
