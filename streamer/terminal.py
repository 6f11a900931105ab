"""What the commands print: tables for people, JSON for programs, a progress bar. No decision is made here."""

from __future__ import annotations

import json
import time
import unicodedata
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, SecretStr
from rich.box import SIMPLE
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from streamer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from streamer.catalogs import Collected
    from streamer.comparison import Comparison
    from streamer.errors import RejectedEvent
    from streamer.feeds import Feed
    from streamer.findings import Finding
    from streamer.publish import Published
    from streamer.topics import TopicSpec, TopicState

SHOWN_ROWS = 20  # bad rows that are spelled out; all are counted
REDRAW_S = 0.1
MASK = "********"
LONGEST_NAME = 40  # columns; STREAMER_PIPELINE__SCORE_CACHE_ENTRIES has 38

_STATUS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[bold red]FAIL[/]", "skipped": "[dim]skipped[/]"}


@dataclass(frozen=True)
class SettingRow:
    """One setting as people read it; `value` is masked where it is a secret."""

    env: str
    value: str
    default: str
    description: str


def printable(text: str) -> str:
    """Return the text with whatever steers a terminal, or the direction of its text, written as an escape."""
    return "".join(
        character if character == " " or unicodedata.category(character)[0] not in "CZ" else ascii(character)[1:-1]
        for character in text
    )


def setting_rows(settings: Settings) -> Iterator[SettingRow]:
    """Yield every setting, section by section."""
    for section_name in Settings.model_fields:
        section: BaseModel = getattr(settings, section_name)
        for name, field in type(section).model_fields.items():
            value = getattr(section, name)
            env = f"STREAMER_{section_name}__{name}".upper()
            yield SettingRow(env, _written(value), _written(field.default), field.description or "")


def _written(value: object) -> str:
    """Return a value as it is written in the environment."""
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, tuple):
        return json.dumps(value)
    return "" if value is None else str(value)


def settings_table(settings: Settings, *, width: int) -> Table:
    """Return every setting; what differs from its default stands out. Names stay whole, values share what is left."""
    share = max(8, (width - LONGEST_NAME - 6) // 2)  # 6: the gaps between three columns
    columns = (
        Column("setting", min_width=LONGEST_NAME),
        Column("value", overflow="fold", max_width=share),
        Column("default", overflow="fold", max_width=share),
    )
    table = Table(*columns, title="from the environment and .env", box=SIMPLE, pad_edge=False)
    for row in setting_rows(settings):
        value = escape(row.value)
        about = f"\n[dim]{escape(row.description)}[/]" if row.description else ""
        table.add_row(row.env + about, value if row.value == row.default else f"[bold cyan]{value}[/]", row.default)
    return table


def env_template(settings: Settings) -> str:
    """Return a `.env` file that changes nothing: every setting with its default, commented out."""
    lines = [
        f"# {row.description}\n# {row.env}={row.default}" if row.description else f"# {row.env}={row.default}"
        for row in setting_rows(settings)
    ]
    return "\n".join(lines)


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return what the doctor found, and below each finding what to do."""
    table = Table("check", "", "found, and what to do")
    for finding in findings:
        advice = f"\n[yellow]→ {escape(finding.advice)}[/]" if finding.advice else ""
        table.add_row(finding.check, _STATUS[finding.status], escape(finding.found) + advice)
    return table


def findings_json(findings: Sequence[Finding]) -> str:
    """Return the findings as one JSON object; `ok` is false when any check failed."""
    ok = all(finding.status != "fail" for finding in findings)
    return json.dumps({"ok": ok, "findings": [asdict(finding) for finding in findings]})


def topics_table(specs: Sequence[TopicSpec], existing: Mapping[str, TopicState]) -> Table:
    """Return the topics of the stream as the broker has them."""
    table = Table("topic", "what it is", "partitions", "copies")
    for spec in specs:
        state = existing.get(spec.name)
        counts = (str(state.partitions), str(state.replication)) if state else ("[red]missing[/]", "")
        table.add_row(spec.name, spec.role, *counts)
    return table


class PublishBar:
    """Shows how far a feed is, and spells out its first bad rows."""

    def __init__(self, console: Console, verb: str) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f}/s"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task(verb, total=None, rows=0, rate=0.0)
        self._last: tuple[Feed, Published] | None = None
        self._shown = 0
        self._started = time.monotonic()
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self  # the bar appears with the first row: a feed that cannot be read has none

    def __exit__(self, *_: object) -> None:
        if self._last is not None:
            feed, published = self._last
            self._draw(published, feed.total if published.finished else None)
            self._progress.stop()

    def advanced(self, feed: Feed, published: Published) -> None:
        """Redraw, at most ten times a second."""
        now = time.monotonic()
        if self._last is not None and now - self._drawn < REDRAW_S:
            return
        if self._last is None:
            self._progress.start()
            self._progress.update(self._task, total=feed.total)
        self._last, self._drawn = (feed, published), now
        self._draw(published, feed.position())

    def _draw(self, published: Published, completed: int | None) -> None:
        rate = (published.rows - published.resumed_at) / max(time.monotonic() - self._started, REDRAW_S)
        fields: dict[str, Any] = {"rows": published.rows, "rate": rate}
        self._progress.update(self._task, completed=completed, **fields)

    def rejected(self, line: int, error: RejectedEvent) -> None:
        """Print a bad row, unless there were many."""
        self._shown += 1
        if self._shown <= SHOWN_ROWS:
            self._progress.console.print(f"[yellow]line {line}[/] {error.code}: {escape(str(error))}", soft_wrap=True)
        elif self._shown == SHOWN_ROWS + 1:
            self._progress.console.print("[yellow]…[/] further bad rows are only counted")

    def summarize(self, done: Published, *, dry_run: bool) -> None:
        """Print how it ended, and how many rows were skipped for which reason."""
        self._console.print(_ending(done, time.monotonic() - self._started, dry_run=dry_run), soft_wrap=True)
        for code, count in done.reasons.most_common():
            self._console.print(f"  [yellow]{count:,} rows skipped[/]: {code}")


def _ending(done: Published, elapsed_s: float, *, dry_run: bool) -> str:
    if dry_run:
        return f"{done.rows:,} rows: {done.rows - done.rejected:,} good, {done.rejected:,} bad; nothing was sent"
    if done.finished and not done.sent and done.resumed_at:
        bad = f", {done.rejected:,} of them bad" if done.rejected else ""
        return f"already published: all {done.rows:,} rows of this feed{bad}; --restart publishes it again"
    after = f" after row {done.resumed_at:,}" if done.resumed_at else ""
    end = "" if done.finished else f"; stopped at --limit, row {done.rows:,}"
    return (
        f"published {done.sent:,} rows{after} in {elapsed_s:.1f} s, {done.sent / max(elapsed_s, 1e-3):,.0f} rows/s{end}"
    )


class CollectBar:
    """Shows how far a feed is, how many products are good, and how many pictures come in a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[products]:,} products, {task.fields[refused]:,} refused"),
            TextColumn("[dim]{task.fields[rate]:,.0f} pictures/s"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("collecting", total=None, products=0, refused=0, rate=0.0)
        self._started = time.monotonic()
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self  # as above: a feed that cannot be read has no bar

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def collected(self, feed: Feed, done: Collected, *, finished: bool = False) -> None:
        """Redraw, at most ten times a second."""
        now = time.monotonic()
        if self._drawn and not finished and now - self._drawn < REDRAW_S:
            return
        self._progress.start()
        self._drawn = now
        rate = done.brought / max(now - self._started, REDRAW_S)
        fields: dict[str, Any] = {"products": done.products, "refused": done.refused, "rate": rate}
        completed = feed.total if finished else feed.position()
        self._progress.update(self._task, total=feed.total, completed=completed, **fields)

    def summarize(self, done: Collected, out: Path) -> None:
        """Print how it ended, and how much was refused for which reason."""
        elapsed_s = time.monotonic() - self._started
        self._console.print(
            f"collected {done.products:,} of {done.rows:,} products into {escape(str(out))} in {elapsed_s:.1f} s, "
            f"{done.brought:,} pictures brought",
            soft_wrap=True,
        )
        for code, count in done.reasons.most_common():
            self._console.print(f"  [yellow]{count:,} refused[/]: {code}")
        if done.advice:
            self._console.print(f"[yellow]most rows were refused:[/] {escape(done.advice)}", soft_wrap=True)
        if done.reasons:
            self._console.print(f"  each with its line in {escape(str(out / 'refused.jsonl'))}", soft_wrap=True)


def comparison_table(comparison: Comparison) -> Table:
    """Return what a challenger's trial says, over all and for the largest categories."""
    table = Table(
        "",
        *(Column(name, justify="right") for name in ("products", "agree", "correlation", "both", "open", "close")),
        box=SIMPLE,
        title=f"{comparison.challenger} tried beside {comparison.champion}",
        caption="agree: both alert or neither. correlation: of ranks. open, close: alerts that would, with it",
    )
    for name, group in [("all", comparison.all), *comparison.largest(SHOWN_ROWS)]:
        low, high = group.agreeing_interval
        table.add_row(
            escape(printable(name)),
            f"{group.products:,}",
            f"{group.agreeing:.1%} [{low:.1%}, {high:.1%}]".replace("[", r"\["),
            "" if group.spearman is None else f"{group.spearman:.3f}",
            *(f"{group.agreements[kind]:,}" for kind in ("both", "opens", "closes")),
        )
    return table


class ReadingBar:
    """Shows how much of a topic has been read."""

    def __init__(self, console: Console, verb: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task(verb, total=None)
        self._drawn = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advanced(self, done: int, total: int) -> None:
        """Redraw, at most ten times a second."""
        now = time.monotonic()
        if now - self._drawn >= REDRAW_S or done == total:
            self._drawn = now
            self._progress.update(self._task, completed=done, total=total)
