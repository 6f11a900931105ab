"""The loop as it happens: a live screen on a terminal, a line for each phase elsewhere. Draws, decides nothing."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from streamer.loop import cpu

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.console import Console, RenderableType

    from streamer.loop.ledger import Ledger

REFRESH_S: Final = 0.25
LINE_EVERY_S: Final = 15.0

PHASES: Final = {
    "start": "broker, image host, scorer, label worker",
    "before": "the engine that ships scores what both are measured on",
    "season": "a new kind of product comes, some pictures are wrong",
    "labels": "people judge alerts and audit, labels are recorded",
    "retrain": "retrained, judged by the gate, released; updates go on coming",
    "swap": "the scorer swaps engines under load",
    "after": "the new engine scores the same products",
}


@dataclass
class Progress:
    """All that the screen shows; the loop writes it."""

    ledger: Ledger
    published: int = 0
    labels: int = 0
    recorded: int = 0
    engine: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    current: str | None = None
    _since: float = 0.0

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Say that a phase runs, how long it took, and what it cost, of all processes together."""
        self.current, self._since, before = name, time.monotonic(), cpu.used_s()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - self._since
            self.cpu_seconds[name] = cpu.used_s() - before
            self.current = None

    @property
    def running_s(self) -> float:
        """How long the present phase has run."""
        return time.monotonic() - self._since


async def show(progress: Progress, console: Console) -> None:
    """Show the progress until cancelled."""
    if not console.is_terminal:
        await _lines(progress, console)
        return
    with Live(console=console, refresh_per_second=4, get_renderable=lambda: screen(progress)):
        await asyncio.Event().wait()


def screen(progress: Progress) -> RenderableType:
    """Return the phases, and what has happened so far."""
    phases = Table.grid(padding=(0, 2))
    for name, meaning in PHASES.items():
        done = progress.seconds.get(name)
        mark: RenderableType = " "
        if done is not None:
            mark = Text("✓", style="green")
        elif name == progress.current:
            mark = Spinner("dots", style="cyan")
        took = done if done is not None else progress.running_s if name == progress.current else None
        style = "" if took is not None else "dim"
        phases.add_row(
            mark, Text(name, style=style), Text(meaning, style=style), "" if took is None else f"{took:.0f} s"
        )
    return Panel(Group(phases, Text(), Text(counts(progress), style="bold")), title="the loop", title_align="left")


def counts(progress: Progress) -> str:
    """Return what has happened so far in one line."""
    ledger = progress.ledger
    return (
        f"{progress.published:,} updates, {len(ledger.outcomes):,} outcomes · {ledger.alerts:,} alerts, "
        f"{ledger.requests:,} audited · {progress.labels:,} labels, {progress.recorded:,} recorded · {progress.engine}"
    )


async def _lines(progress: Progress, console: Console) -> None:
    told, last = None, 0.0
    while True:
        now = time.monotonic()
        if progress.current is not None and (progress.current != told or now - last > LINE_EVERY_S):
            told, last = progress.current, now
            console.print(f"{progress.current} {progress.running_s:.0f} s: {counts(progress)}", markup=False)
        await asyncio.sleep(REFRESH_S)
