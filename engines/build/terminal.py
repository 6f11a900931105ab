"""What the training commands show: progress bars on stderr, and errors as words."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from engines.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def reported(threads: int, *, shown: bool = True, failed: int = 1) -> Generator[Progress]:
    """Give progress bars; an engine's error, or the disk's, becomes its words and the exit code `failed`.

    Args:
        threads: of torch.
        shown: whether this process shows anything; of several one does.
        failed: the exit code.
    """
    torch.set_num_threads(threads)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:
            yield progress
    except EngineError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(failed) from error
    except OSError as error:
        typer.echo(
            f"disk: {error}; free some room, or have --out, --work and TMPDIR on another disk, and run again", err=True
        )
        raise typer.Exit(failed) from error
