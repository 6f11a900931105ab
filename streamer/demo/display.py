"""The demo as it happens: a live screen on a terminal, a line every two seconds elsewhere. Draws, decides nothing."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Group
from rich.layout import Layout
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streamer.demo.metrics import QUEUES, STAGES, Rates, Reading, rates
from streamer.demo.products import difference
from streamer.events import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from streamer.demo.observe import Ledger, SeenAlert
    from streamer.demo.products import DemoProduct
    from streamer.demo.traffic import PlannedEvent

HISTORY = 40
WINDOW = 8
"""Readings behind one rate: at four a second, the last two seconds."""
ROWS = 30
LINE_INTERVAL_S = 2.0
BARS = "▁▂▃▄▅▆▇█"
TRANSITION_STYLES = {"opened": "bold red", "updated": "yellow", "resolved": "green"}
OUTCOME_STYLES = {
    "scored": "green",
    "unchanged": "cyan",
    "superseded": "blue",
    "deleted": "magenta",
    "rejected": "yellow",
}
STAGE_MEANINGS = {
    "parse": "bytes → event",
    "fetch": "URL → photo",
    "decode": "photo → pixels",
    "tokenise": "text → tokens",
    "queue": "wait for a batch",
    "engine": "batch → scores",
    "explain": "alert → its words",
    "publish": "score → Kafka",
}


@dataclass
class Progress:
    """All that the screen shows; the demo writes it, `screen` and `line` read it.

    `explain` says in words what is really the case with the event behind an alert.
    """

    headline: str
    events: int
    ledger: Ledger
    explain: Callable[[SeenAlert], str]
    phase: str = "starting"
    published: int = 0
    started_s: float = field(default_factory=time.monotonic)
    finished: bool = False
    first: Reading | None = None
    readings: deque[Reading] = field(default_factory=lambda: deque(maxlen=WINDOW))
    throughput: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def add_published(self) -> None:
        """Count one event that the broker has acknowledged."""
        self.published += 1

    def add_reading(self, reading: Reading) -> None:
        """Take in what the worker says of itself."""
        self.first = self.first or reading
        if not self.finished:
            self.readings.append(reading)
            self.throughput.append(self.rates.stage_per_s["publish"])

    def finish(self) -> None:
        """Show the figures of the whole run from here on."""
        self.finished = True
        self.phase = "done; rates and means are of the whole run"

    @property
    def rates(self) -> Rates:
        """Rates over the last readings, or the whole run; zero while there are fewer than two readings."""
        if not self.readings or self.first is None:
            return rates(Reading(at_s=0.0), Reading(at_s=1.0))
        return rates(self.first if self.finished else self.readings[0], self.readings[-1])

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s


def explainer(products: Iterable[DemoProduct], planned: Sequence[PlannedEvent]) -> Callable[[SeenAlert], str]:
    """Return a function that says what is really the case with the event behind an alert."""
    by_id = {product.id: product for product in products}
    truths = {(e.truth.product_id, e.truth.order): e.truth for e in planned}

    def explain(alert: SeenAlert) -> str:
        if alert.transition == "resolved":
            return "the product was deleted" if alert.reason == "deleted" else "the picture was put right"
        truth = truths.get((alert.product_id, alert.order))
        if truth is None or not truth.swapped or truth.shown_id is None:
            return "false alarm: the picture is right"
        wrong = difference(by_id[truth.product_id], by_id[truth.shown_id])
        return f"{wrong.attribute}: says {wrong.says}, shows {wrong.shows}"

    return explain


async def show(progress: Progress, console: Console) -> None:
    """Show the progress until cancelled, and its last state once more then."""
    if console.is_terminal:
        with Live(_Fitted(progress), console=console, refresh_per_second=8, transient=False):
            await asyncio.Event().wait()
    else:
        while True:
            console.print(line(progress), markup=False, soft_wrap=True)
            await asyncio.sleep(LINE_INTERVAL_S)


class _Fitted:
    """The screen, drawn anew at each refresh in at most `ROWS` rows, so that what follows stays in view."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(screen(self._progress), options.update_height(min(ROWS, options.size.height - 1)))


def screen(progress: Progress) -> Layout:
    """Return the whole live screen; made for 100 columns by 30 rows, and it uses more."""
    layout = Layout()
    layout.split_column(
        Layout(_header(progress), size=5),
        Layout(name="middle", size=10),
        Layout(_alerts(progress), ratio=1),
    )
    layout["middle"].split_row(Layout(_stages(progress), ratio=3), Layout(_outcomes(progress), ratio=2))
    return layout


def line(progress: Progress) -> str:
    """Return the state in one line, for logs and pipes."""
    counts = progress.ledger.counts
    outcomes = ", ".join(f"{counts[o]} {o}" for o in OUTCOMES if counts[o]) or "no outcomes yet"
    now = progress.rates
    return (
        f"[{progress.elapsed_s:5.1f} s] {progress.phase}: {progress.published}/{progress.events} published; "
        f"{outcomes}; "
        f"{len(progress.ledger.open)} alerts open; {now.stage_per_s['publish']:.0f} events/s; "
        f"engine busy {now.busy_share:.0%}"
    )


def sparkline(values: deque[float], width: int) -> str:
    """Return the last `width` values as bars, scaled to the largest; spaces where there are none yet."""
    shown = list(values)[-width:]
    top = max(shown, default=0.0)
    if top <= 0:
        return " " * width
    return "".join(BARS[round((len(BARS) - 1) * value / top)] for value in shown).rjust(width)


def _header(progress: Progress) -> Panel:
    done = sum(progress.ledger.counts.values())
    bars = Table.grid(padding=(0, 1), expand=True)
    bars.add_column(width=9, style="dim")
    bars.add_column(ratio=1)
    bars.add_column(justify="right", width=13)
    bars.add_row("published", _bar(progress.published, progress.events, "blue"), f"{progress.published:,}")
    bars.add_row("outcomes", _bar(done, progress.events, "green"), f"{done:,} / {progress.events:,}")
    foot = Text(progress.phase, style="italic dim", overflow="ellipsis", no_wrap=True)
    title = f"[bold default]mismatch streamer[/] · {escape(progress.headline)} · {progress.elapsed_s:.0f} s"
    return Panel(Group(bars, foot), title=title, title_align="left", border_style="bright_black")


def _bar(done: int, total: int, style: str) -> ProgressBar:
    return ProgressBar(total=max(total, 1), completed=done, complete_style=style, finished_style=style)


def _stages(progress: Progress) -> Panel:
    now = progress.rates
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    table.add_column("stage")
    table.add_column("", style="dim", ratio=1, no_wrap=True)
    table.add_column("per s", justify="right", width=6)
    table.add_column("mean ms", justify="right", width=8)
    for stage in STAGES:
        mean = now.stage_ms[stage]
        shown = "—" if mean is None else f"{mean:.2f}" if mean < 10 else f"{mean:.0f}"  # noqa: PLR2004 - three digits
        table.add_row(stage, STAGE_MEANINGS[stage], f"{now.stage_per_s[stage]:,.0f}", shown)
    title = f"[default]stages[/]  [green]{sparkline(progress.throughput, 20)}[/green]"
    return Panel(table, title=title, title_align="left", border_style="bright_black")


def _outcomes(progress: Progress) -> Panel:
    counts, now = progress.ledger.counts, progress.rates
    depth = progress.readings[-1].depth if progress.readings else {}
    batch = "—" if now.batch_size is None else f"{now.batch_size:.0f}"
    left, right = _figures(), _figures()
    for outcome in OUTCOMES:
        left.add_row(Text(outcome, style=OUTCOME_STYLES[outcome]), f"{counts[outcome]:,}")
    for queue in QUEUES:
        right.add_row(queue.replace("_", " "), f"{depth.get(queue, 0):.0f}")
    right.add_row("batch size", batch)
    right.add_row("engine busy", f"{now.busy_share:.0%}")
    columns = Table.grid(expand=True, padding=(0, 2))
    columns.add_column(ratio=1)
    columns.add_column(ratio=1)
    columns.add_row(left, right)
    title = "[default]outcomes · queues[/]"
    return Panel(columns, title=title, title_align="left", border_style="bright_black")


def _figures() -> Table:
    table = Table.grid(expand=True)
    table.add_column(ratio=1)
    table.add_column(justify="right")
    return table


def _alerts(progress: Progress) -> Panel:
    table = Table(box=None, expand=True, pad_edge=False, show_header=False)
    table.add_column(width=8, style="dim")
    table.add_column(width=8)
    table.add_column(width=4, justify="right")
    table.add_column(ratio=2, no_wrap=True, overflow="ellipsis")
    table.add_column(ratio=3, no_wrap=True, overflow="ellipsis", style="dim")
    for alert in reversed(progress.ledger.alerts[-60:]):
        table.add_row(*_alert_cells(alert, progress.explain(alert)))
    counts = progress.ledger.transitions()
    facts = [f"[{style}]{counts[name]} {name}[/{style}]" for name, style in TRANSITION_STYLES.items()]
    body: RenderableType = table if progress.ledger.alerts else Text("none yet", style="dim")
    return Panel(
        body, title="[default]alerts[/] · " + " · ".join(facts), title_align="left", border_style="bright_black"
    )


def _alert_cells(alert: SeenAlert, explanation: str) -> list[RenderableType]:
    moment = datetime.fromtimestamp(alert.at_ms / 1000, UTC).astimezone()
    probability = "" if alert.probability is None else f"{alert.probability:.2f}"
    style = TRANSITION_STYLES[alert.transition]
    return [
        f"{moment:%H:%M:%S}",
        Text(alert.transition, style=style),
        probability,
        Text(alert.title),
        Text(explanation),
    ]
