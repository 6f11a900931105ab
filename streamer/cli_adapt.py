"""`streamer collect | adapt | audit`: from a feed to an engine of its own, and to what is wrong in it already."""

# No `from __future__ import annotations`: typer reads the annotations.
from pathlib import Path
from typing import Annotated

import typer

from streamer import command

Feed = Annotated[
    Path,
    typer.Argument(
        help="A .jsonl, .ndjson, .csv, .tsv (each also .gz) or .parquet file, or a folder with catalog.jsonl."
    ),
]
BaseUrl = Annotated[str | None, typer.Option(metavar="URL", help="What relative image links are relative to.")]
Pictures = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The folder that holds the pictures on this machine; the feed's own if unset."),
]
ColumnNames = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="FIELD=COLUMN",
        help="What the feed calls a field, as in title=headline, where that is not found by itself; again for each.",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Stop after this row of the feed.")]

PASSES_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Of a command whose further options are the training program's."""


def collect_feed(
    feed: Feed,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to make, or to go on with.")],
    *,
    base_url: BaseUrl = None,
    pictures: Pictures = None,
    column: ColumnNames = None,
    limit: Limit = None,
    retry_refused: Annotated[
        bool, typer.Option("--retry-refused", help="Ask again for pictures that were refused for good.")
    ] = False,
    survey: Annotated[
        bool, typer.Option("--survey/--no-survey", help="Write DIR/survey/index.html: what the catalogue holds.")
    ] = True,
) -> None:
    """Bring a feed and its pictures into one folder, ready to train on, and survey it.

    DIR/catalog.jsonl has a line for each product that can be used, DIR/images its pictures, each content once, and
    DIR/refused.jsonl every other row with a reason code. Columns are found as by `publish`; of several rows with one id
    the last counts. Links may be URLs or paths of files beside the feed. A run that was killed goes on where it was: no
    picture is brought twice, and those that failed for a reason that may pass (a timeout, a host that was down) are
    asked for again by the next run.

    Products that were erased (`streamer labels erase`) are left out, and removed from a DIR that has them.

    Example: `streamer collect shop.csv --out shop`

    Settings: STREAMER_FETCH__… (limits, retries, allowed hosts), STREAMER_PIPELINE__MAX_PIXELS, and
    STREAMER_LABELS__DATASET, where the list of erased products is.
    """
    from engines.catalogs.collection import SURVEY_FOLDER  # noqa: PLC0415
    from streamer import adapt as adapting  # noqa: PLC0415
    from streamer.collect import CollectOptions  # noqa: PLC0415
    from streamer.columns import Columns  # noqa: PLC0415

    if survey:
        adapting.require(adapting.SURVEY_NEEDS, "demo")
    options = CollectOptions(
        feed=feed,
        out=out,
        base_url=base_url,
        pictures=pictures,
        columns=Columns.of(column or ()),
        limit=limit,
        retry_refused=retry_refused,
    )
    adapting.collect_folder(options, command.settings(), command.console(stderr=True), command.run)
    if survey:
        adapting.show_survey(out, out / SURVEY_FOLDER, command.console(stderr=True))


def adapt(
    context: typer.Context,
    catalog: Feed,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the release goes.")],
    *,
    family: Annotated[str, typer.Option(help="The kind of model; `python -m engines.build adapt --help` names them.")],
    work: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The collected catalogue, its survey, features and checkpoints; OUT.work if unset."
        ),
    ] = None,
    base_url: BaseUrl = None,
    pictures: Pictures = None,
    column: ColumnNames = None,
    limit: Limit = None,
) -> None:
    """Train an engine on a catalogue, without labels: collect it, survey it, train, measure, make a release.

    Collecting goes on where a killed run was; a folder made by `streamer collect` is used as it is. Look at
    OUT.work/survey/index.html while training runs. Options that are not listed here go to the training program, behind
    CATALOG: see `python -m engines.build adapt --help`. Its exit code is the exit code here.

    Products that were erased (`streamer labels erase`) are left out, and removed from a collected CATALOG.

    Needs torch: `pip install 'mismatch-streamer[train]'`.

    Example: `streamer adapt shop.jsonl --family compact --out releases/shop`

    Settings: STREAMER_FETCH__… (limits, retries, allowed hosts), STREAMER_PIPELINE__MAX_PIXELS, and
    STREAMER_LABELS__DATASET, where the list of erased products is.
    """
    from streamer import adapt as adapting  # noqa: PLC0415
    from streamer.columns import Columns  # noqa: PLC0415

    folder = work or out.with_name(out.name + ".work")
    options = adapting.AdaptOptions(
        command="adapt",
        catalog=catalog,
        out=out,
        work=folder,
        base_url=base_url,
        pictures=pictures,
        columns=Columns.of(column or ()),
        limit=limit,
        passed=["--work", str(folder / "training"), "--family", family, *context.args],
    )
    raise typer.Exit(adapting.adapt(options, command.settings(), command.console(stderr=True), command.run))


def audit(
    context: typer.Context,
    catalog: Feed,
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Where index.html and audit.csv go; audit.parquet with the extra `feeds`."),
    ],
    *,
    work: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The collected catalogue, its survey, the engines; OUT.work if unset."),
    ] = None,
    base_url: BaseUrl = None,
    pictures: Pictures = None,
    column: ColumnNames = None,
    limit: Limit = None,
) -> None:
    """Rank the products of a catalogue by how likely their picture is wrong, without labels.

    Each product is judged by an engine that was trained on others only: the catalogue is split into folds, and an
    engine is trained for each. Goes on where a killed run was. Options that are not listed here go to the training
    program, behind CATALOG: see `python -m engines.build audit --help`. Its exit code is the exit code here. Products
    that were erased are left out, as `streamer adapt` does it.

    Needs torch: `pip install 'mismatch-streamer[train]'`.

    Example: `streamer audit shop.jsonl --out audits/shop`

    Settings: STREAMER_FETCH__… (limits, retries, allowed hosts), STREAMER_PIPELINE__MAX_PIXELS, and
    STREAMER_LABELS__DATASET, where the list of erased products is.
    """
    from streamer import adapt as adapting  # noqa: PLC0415
    from streamer.columns import Columns  # noqa: PLC0415

    folder = work or out.with_name(out.name + ".work")
    options = adapting.AdaptOptions(
        command="audit",
        catalog=catalog,
        out=out,
        work=folder,
        base_url=base_url,
        pictures=pictures,
        columns=Columns.of(column or ()),
        limit=limit,
        passed=["--work", str(folder / "training"), *context.args],
    )
    raise typer.Exit(adapting.adapt(options, command.settings(), command.console(stderr=True), command.run))
