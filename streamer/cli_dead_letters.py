"""`streamer dead-letters`: look at what was rejected, and publish it again when its cause is gone."""

# No `from __future__ import annotations`: typer reads the annotations.
import json as jsonlib
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from streamer import command
from streamer.command import EXIT_FOUND, Bootstrap
from streamer.errors import FatalError

if TYPE_CHECKING:
    from streamer.dead_letters import Choice, Letter

dead_letters_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="List, show and replay the updates that were rejected: each with its reason, and its bytes as they came.",
)

Reasons = Annotated[list[str] | None, typer.Option("--reason", metavar="CODE", help="Only of this reason; repeatable.")]
Hosts = Annotated[
    list[str] | None, typer.Option("--host", metavar="HOST", help="Only with a picture on this host; repeatable.")
]
Products = Annotated[
    list[str] | None, typer.Option("--product", metavar="ID", help="Only of this product; repeatable.")
]
Since = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Rejected at or after: 2026-01-31T12:00:00Z, or how long ago: 90s, 30m, 6h, 2d."),
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Rejected before; as --since.")]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SUMMARY = 100  # letters that are listed where no --limit is given


@dead_letters_app.command("list")
def list_letters(
    *,
    reason: Reasons = None,
    host: Hosts = None,
    product: Products = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="Letters to list; all are counted.")] = _SUMMARY,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line, without the event's bytes.")
    ] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """List the rejected updates, oldest first in each partition, and count them by reason.

    The first column is where a letter stands, PARTITION:OFFSET: give it to `streamer dead-letters show`.

    Example: `streamer dead-letters list --since 6h --reason image_host_unavailable`

    Settings: STREAMER_TOPICS__DEAD_LETTERS and STREAMER_BROKER__….
    """
    from streamer import dead_letters, terminal, terminal_letters  # noqa: PLC0415

    settings = command.settings(bootstrap=bootstrap)
    choice = _choice(reason, host, product, since, until)
    counted = terminal_letters.Counted(limit)
    with terminal.ReadingBar(command.console(stderr=True), "reading") as bar:

        async def read() -> None:
            async with dead_letters.open_dead_letters(settings.broker, settings.topics) as letters:
                async for letter in letters.read(choice, bar):
                    counted.add(letter)
                    if json and counted.total <= limit:
                        typer.echo(jsonlib.dumps(terminal_letters.summary(letter)))

        command.run(read())
    if not json:
        console = command.console()
        console.print(counted.table())
        console.print(counted.reasons_table())


@dead_letters_app.command("show")
def show_letter(
    place: Annotated[str, typer.Argument(metavar="PARTITION:OFFSET", help="As `list` prints it.")],
    *,
    json: Annotated[bool, typer.Option("--json", help="Print the dead letter as it stands in the topic.")] = False,
    value: Annotated[
        bool, typer.Option("--value", help="Write the event's own bytes to stdout, and nothing else.")
    ] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Show one rejected update: why, when, from where, its headers and its text.

    What is not printable is shown as escapes; `--value` gives the bytes as they came.

    Example: `streamer dead-letters show 3:17`

    Settings: STREAMER_TOPICS__DEAD_LETTERS and STREAMER_BROKER__….
    """
    from streamer import dead_letters, terminal_letters  # noqa: PLC0415
    from streamer.wire import encode  # noqa: PLC0415

    wanted = dead_letters.Place.parse(place)
    settings = command.settings(bootstrap=bootstrap)

    async def find() -> "Letter":
        async with dead_letters.open_dead_letters(settings.broker, settings.topics) as letters:
            return await letters.at(wanted)

    letter = command.run(find())
    if value:
        sys.stdout.buffer.write(dead_letters.original(letter.content) or b"")
    elif json:
        typer.echo(encode(letter.content).decode())
    else:
        command.console().print(terminal_letters.details(letter))


@dead_letters_app.command("replay")
def replay_letters(
    *,
    reason: Reasons = None,
    host: Hosts = None,
    product: Products = None,
    since: Since = None,
    until: Until = None,
    everything: Annotated[bool, typer.Option("--all", help="Replay without any other choice.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be replayed, send nothing.")] = False,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Updates per second; as fast as Kafka takes them.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Publish rejected updates again, as they were: for the time after an outage, or after a fix.

    A replay keeps its place among the updates of its product: its version orders it, and where it first stood orders
    what has none. What a newer update has settled stays settled, so replaying too much, or twice, costs work and
    nothing else. An update that is rejected again is a new dead letter, and the next replay takes only that one.

    Exit code 1 if some cannot be replayed: their event was too large to keep, or came from a topic of another name.

    Example: `streamer dead-letters replay --reason image_host_unavailable --host cdn.example --since 2h --dry-run`

    Settings: STREAMER_TOPICS__… (names) and STREAMER_BROKER__….
    """
    from streamer import dead_letters, terminal, terminal_letters  # noqa: PLC0415

    if not (everything or reason or host or product or since or until):
        raise FatalError("choice_missing", "say which: --reason, --host, --product, --since, --until, or --all")
    command.log_to_stderr()
    settings = command.settings(bootstrap=bootstrap)
    choice = _choice(reason, host, product, since, until)
    with terminal.ReadingBar(command.console(stderr=True), "counting" if dry_run else "replaying") as bar:
        done = command.run(
            dead_letters.replay(settings.broker, settings.topics, choice, bar, dry_run=dry_run, rate=rate)
        )
    if json:
        typer.echo(jsonlib.dumps(terminal_letters.replayed(done, dry_run=dry_run)))
    else:
        command.console().print(terminal_letters.replayed_words(done, dry_run=dry_run), soft_wrap=True)
    raise typer.Exit(EXIT_FOUND if done.kept else 0)


def _choice(
    reasons: list[str] | None,
    hosts: list[str] | None,
    products: list[str] | None,
    since: str | None,
    until: str | None,
) -> "Choice":
    from streamer.dead_letters import Choice  # noqa: PLC0415

    return Choice(
        reasons=frozenset(reasons or ()),
        hosts=frozenset(host.lower() for host in hosts or ()),
        products=frozenset(products or ()),
        since=_moment(since, "--since"),
        until=_moment(until, "--until"),
    )


def _moment(text: str | None, option: str) -> datetime | None:
    """Return the time that stands there, or that long ago."""
    if text is None:
        return None
    try:
        if text[-1:] in _UNITS:
            return datetime.now(UTC) - timedelta(seconds=float(text[:-1]) * _UNITS[text[-1]])
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise FatalError("time_invalid", f"{option} {text!r}: write 2026-01-31T12:00:00Z, or 90s, 30m, 6h, 2d ago")
    return moment
