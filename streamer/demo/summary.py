"""How a demo ended: tables for people, and one JSON object for programs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from streamer.events import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streamer.demo.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What was run: all that is needed to run it again. `ready_s` is the worker's, from its start."""

    options: Sequence[str]
    catalogue: str
    broker: str
    seed: int
    ready_s: float
    started_ms: int

    @property
    def command(self) -> str:
        return f"make demo ARGS={shlex.quote(shlex.join(self.options))}"


def as_json(evaluation: Evaluation, facts: RunFacts) -> dict[str, Any]:
    """Return the figures of a run; None where there is nothing to divide by."""
    ledger, latency = evaluation.ledger, evaluation.latency
    transitions = ledger.transitions()
    return {
        "events": evaluation.events,
        "outcomes": {outcome: ledger.counts[outcome] for outcome in OUTCOMES},
        "adds_up": evaluation.adds_up,
        "missing": len(evaluation.missing),
        "duplicates": ledger.duplicates,
        "rejected": {kind: dict(row) for kind, row in evaluation.rejected.items()},
        "alerts": {name: transitions[name] for name in ("opened", "updated", "resolved")},
        "alerts_missing": len(ledger.awaited_alerts),
        "alerts_repeated": ledger.repeated_alerts,
        "recall": evaluation.recall,
        "precision": evaluation.precision,
        "events_per_s": evaluation.events_per_s,
        "latency_ms": {"p50": latency.p50_ms, "p99": latency.p99_ms},
        "first_alert_s": first_alert_s(evaluation, facts),
        "worker_ready_s": round(facts.ready_s, 3),
        "release": evaluation.release,
        "seed": facts.seed,
        "catalog": facts.catalogue,
    }


def first_alert_s(evaluation: Evaluation, facts: RunFacts) -> float | None:
    """Return the seconds from the command's start to the first alert."""
    first = min((alert.at_ms for alert in evaluation.ledger.alerts), default=None)
    return None if first is None else (first - facts.started_ms) / 1000


def tables(evaluation: Evaluation, facts: RunFacts, page: Path) -> Group:
    """Return the summary for the terminal."""
    sides = Table.grid(padding=(0, 3))
    sides.add_row(_outcomes(evaluation), _figures(evaluation, facts))
    footer = Text.assemble(("report  ", "dim"), (str(page), "bold"))
    parts: list[Any] = [
        Panel(sides, title=_verdict(evaluation), title_align="left", border_style="bright_black", expand=False)
    ]
    if evaluation.rejected:
        parts.append(_rejected(evaluation))
    return Group(*parts, footer)


def _verdict(evaluation: Evaluation) -> str:
    if not evaluation.adds_up:
        return "[bold red]outcomes do not add up[/bold red]"
    if not evaluation.alerts_complete:
        return "[bold red]outcomes add up, but alerts are missing or unexplained[/bold red]"
    return f"[bold green]{evaluation.events:,} events, {evaluation.events:,} outcomes[/bold green]"


def _outcomes(evaluation: Evaluation) -> Table:
    ledger = evaluation.ledger
    table = Table(box=None, show_footer=True, header_style="dim", pad_edge=False)
    table.add_column("outcome", footer="published")
    table.add_column("events", footer=f"{evaluation.events:,}", justify="right")
    for outcome in OUTCOMES:
        table.add_row(outcome, f"{ledger.counts[outcome]:,}")
    for name, count in (("without any", len(evaluation.missing)), ("more than one", ledger.duplicates)):
        if count:
            table.add_row(Text(name, style="bold red"), f"{count:,}")
    return table


def _figures(evaluation: Evaluation, facts: RunFacts) -> Table:
    caught, missed, wrong = len(evaluation.caught), len(evaluation.missed), len(evaluation.false_alarms)
    latency, transitions = evaluation.latency, evaluation.ledger.transitions()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_row("recall", f"[bold]{_percent(evaluation.recall)}[/bold]  {caught} of {caught + missed} wrong pictures")
    table.add_row("precision", f"[bold]{_percent(evaluation.precision)}[/bold]  {caught} of {caught + wrong} accused")
    alerts = ", ".join(f"{transitions[name]} {name}" for name in ("opened", "updated", "resolved"))
    missing = len(evaluation.ledger.awaited_alerts)
    table.add_row("alerts", alerts + (f", [bold red]{missing} missing[/bold red]" if missing else ""))
    table.add_row("throughput", f"{_number(evaluation.events_per_s)} events/s")
    table.add_row("publish → alert", f"p50 {_number(latency.p50_ms)} ms, p99 {_number(latency.p99_ms)} ms")
    first = first_alert_s(evaluation, facts)
    table.add_row(
        "from start", f"worker ready {facts.ready_s:.1f} s; first alert {'—' if first is None else f'{first:.1f} s'}"
    )
    table.add_row("engine", Text(evaluation.release or "none"))
    return table


def _rejected(evaluation: Evaluation) -> Table:
    table = Table(box=None, header_style="dim", title="bad input → dead-letters", title_justify="left", title_style="")
    table.add_column("sent")
    table.add_column("reason code")
    table.add_column("events", justify="right")
    for kind, reasons in evaluation.rejected.items():
        for reason, count in reasons.items():
            table.add_row(kind.replace("_", " "), reason, f"{count:,}")
    return table


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:,.0f}"
