"""`streamer retrain`: options in, exit code out."""

# No `from __future__ import annotations`: typer reads the annotations.
from pathlib import Path
from typing import Annotated

import typer

from engines.errors import EngineError
from streamer import command
from streamer.command import Bootstrap, Dataset, Store
from streamer.errors import StreamerError


def retrain_engine(
    context: typer.Context,
    *,
    if_needed: Annotated[
        bool,
        typer.Option(
            "--if-needed",
            help="Only if enough was judged since the last time (STREAMER_RETRAIN__MIN_LABELS), or drift asks for it.",
        ),
    ] = False,
    catalog: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="The folder (`streamer collect`) that the engine was adapted to; not for the engine that ships.",
        ),
    ] = None,
    work: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where runs stand; one that was killed goes on there.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Give up a run that was killed, and begin anew.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train and judge, but publish and announce nothing.")
    ] = False,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="End with exit code 0 also when the challenger was refused.")
    ] = False,
    by: Annotated[str, typer.Option(help="Who announces it.")] = "streamer retrain",
    store: Store = None,
    dataset: Dataset = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Make tomorrow's engine from today's and what people said of its alerts, and put it to work if it is no worse.

    Pins the label data set, goes on training the release that runs (families small and compact) on confirmed labels and
    on the catalogue, and compares both on what is held out of that: products with exchanged pictures that neither has
    learned from, and labels, by product group, which may be on products that the champion was once adapted on, with
    their own pictures taken for right. The gate lets the new one through if it loses no recall at the target precision
    on either, and is surely worse in no category, brand, language or image size. Then it is published and announced;
    running scorers swap without losing an event. A refused one stays in WORK with the reason, and every decision leaves
    a model card there and in the release store.

    Products that were erased (`streamer labels erase`) are neither learned from nor measured on. They are removed from
    a catalogue folder that `streamer collect` made; of another one, or one that cannot be written, it is said that they
    stand there still. A run that may have learned from a product before it was erased is given up, and its challenger
    removed.

    Options that are not listed here go to the training program: see `python -m engines.build retrain --help`. A run
    that was killed goes on where it was. In Kubernetes it is a CronJob with --if-needed and --exit-zero.

    Exit code 0: promoted, or nothing to do; 1: the challenger was refused (0 with --exit-zero); 2: it could not be
    done.

    Needs torch and delta-rs: `pip install 'mismatch-streamer[train,labels]'`.

    Example: `streamer retrain --if-needed --catalog shop --precision 0.6`

    Settings: STREAMER_RETRAIN__…, STREAMER_LABELS__DATASET, STREAMER_RELEASES__STORE, STREAMER_ENGINE__RELEASE (what
    runs before anything is announced), STREAMER_TOPICS__RELEASES and STREAMER_BROKER__….
    """
    from streamer.adapt import require  # noqa: PLC0415

    require(("deltalake", "pyarrow"), "labels")
    from streamer.retrain import FAILED, PROMOTED, REFUSED, RetrainOptions, retrain  # noqa: PLC0415

    settings = command.settings(bootstrap=bootstrap, store=store, dataset=dataset)
    options = RetrainOptions(
        work=work or settings.retrain.work,
        catalog=catalog or settings.retrain.catalog,
        if_needed=if_needed,
        restart=restart,
        dry_run=dry_run,
        by=by,
        passed=context.args,
    )
    console = command.console(stderr=True)
    try:
        code = retrain(options, settings, console, command.run)
    except (StreamerError, EngineError, typer.Exit):
        raise
    except Exception:  # noqa: BLE001 - with Python's own exit code, 1, it would be taken for a refused challenger
        console.print_exception()
        code = FAILED
    raise typer.Exit(PROMOTED if code == REFUSED and exit_zero else code)
