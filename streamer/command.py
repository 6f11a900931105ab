"""What every command shares: options that many have, settings, consoles, and how work is run and interrupted."""

# No `from __future__ import annotations`: typer reads the annotations.
import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from streamer.settings import Settings

EXIT_FOUND, EXIT_FATAL, EXIT_INTERRUPTED = 1, 2, 130

T = TypeVar("T")

Bootstrap = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Kafka; wins over the settings.")]
Store = Annotated[
    str | None, typer.Option(metavar="DIR_OR_URL", help="Where releases are kept; wins over the settings.")
]
Dataset = Annotated[
    str | None, typer.Option(metavar="DIR_OR_URL", help="The data set of labels; wins over the settings.")
]


def settings(**options: object) -> "Settings":
    """Return the settings of the process, the options that were given before them."""
    from streamer.settings import load  # noqa: PLC0415

    return load(**sections(**options))


def sections(**options: object) -> dict[str, Any]:
    """Return the options that were given, under the section each belongs to."""
    owners = {
        "bootstrap": "broker",
        "release": "engine",
        "store": "releases",
        "dataset": "labels",
        "log_level": "telemetry",
        "partitions": "topics",
        "replication": "topics",
    }
    given: dict[str, Any] = {}
    for name, value in options.items():
        if value is not None:
            given.setdefault(owners[name], {})[name] = value
    return given


def console(*, stderr: bool = False) -> "Console":
    """Return where a command writes."""
    from rich.console import Console  # noqa: PLC0415

    return Console(stderr=stderr, highlight=False)


def quiet_client() -> None:
    """Keep aiokafka's log off the terminal: `topics.connecting` puts its reason into the error."""
    logger = logging.getLogger("aiokafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


def log_to_stderr() -> None:
    """Keep stdout for what programs read: warnings go to stderr, the rest nowhere."""
    import structlog  # noqa: PLC0415

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work; SIGTERM ends it as Ctrl-C does, with what is acknowledged kept."""
    quiet_client()

    async def interruptible() -> T:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await task

    try:
        return asyncio.run(interruptible())
    except (KeyboardInterrupt, asyncio.CancelledError):
        console(stderr=True).print("[yellow]stopped[/]; the same command goes on from here")
        raise typer.Exit(EXIT_INTERRUPTED) from None
