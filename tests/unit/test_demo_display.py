"""The demo's screen, lines and summary."""

from __future__ import annotations

import io
from collections import deque
from pathlib import Path

import pytest
from rich.console import Console

from streamer.demo import summary
from streamer.demo.display import Progress, line, screen, sparkline
from streamer.demo.metrics import STAGES, Reading
from tests.unit.demo_records import Run

FACTS = summary.RunFacts(
    options=["--events", "4", "--catalog", "my photos"],
    catalogue="mugs",
    broker="embedded broker",
    seed=1,
    ready_s=1.25,
    started_ms=100,
)


def _run() -> Run:
    made = Run()
    made.score(made.publish("a", kind="swapped", shown_id="b"), 0.9)
    made.score(made.publish("b"), 0.1)
    made.reject(made.publish("c", order=None, kind="malformed_json"), "malformed_json")
    made.raise_alerts()
    return made


def _progress() -> Progress:
    made = Progress(
        headline="mugs",
        events=4,
        ledger=_run().ledger,
        explain=lambda _: "color: says red, shows blue",
    )
    for n in (0, 1):
        made.add_reading(Reading(at_s=n, stage_count=dict.fromkeys(STAGES, n * 123.0), depth={"in_flight": 17}))
    return made


def _text_of(renderable: object, *, width: int = 100, height: int = 30) -> str:
    console = Console(width=width, height=height, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


@pytest.mark.parametrize(("width", "height"), [(100, 30), (80, 24), (180, 50)])
def test_screen_any_terminal_shows_rates_outcomes_and_alerts(width: int, height: int) -> None:
    """The figures are there, and the screen is as large as the terminal."""
    shown = _text_of(screen(_progress()), width=width, height=height)
    assert len(shown.splitlines()) == height
    assert all(len(row) <= width for row in shown.splitlines())
    for word in ("123", "scored", "rejected", "17", "opened", "color: says"):
        assert word in shown


def test_line_not_a_terminal_says_it_in_one() -> None:
    """A log needs no more than a line."""
    said = line(_progress())
    assert "0/4 published; 2 scored, 1 rejected; 1 alerts open" in said
    assert "\n" not in said


def test_sparkline_scales_to_the_largest() -> None:
    """The largest value is a full bar, and missing history is blank."""
    assert sparkline(deque([0.0, 5.0, 10.0]), 5) == "  ▁▅█"
    assert sparkline(deque(), 3) == "   "


def test_summary_table_holds_the_figures() -> None:
    """What a newcomer reads last: outcomes, recall, precision, reasons, and where the report is."""
    shown = _text_of(summary.tables(_run().evaluation, FACTS, Path("demo-report/index.html")))
    for words in ("3 events, 3 outcomes", "100.0%  1 of 1 wrong", "malformed_json", "demo-report/index.html"):
        assert words in shown


def test_summary_table_lost_event_is_said_first() -> None:
    """A run that does not add up says so in its title."""
    lossy = _run()
    lossy.publish("lost")
    shown = _text_of(summary.tables(lossy.evaluation, FACTS, Path("index.html")))
    assert "outcomes do not add up" in shown
    assert "without any" in shown


def test_summary_json_has_what_the_contract_names() -> None:
    """Programs read these names."""
    figures = summary.as_json(_run().evaluation, FACTS)
    assert figures["events"] == 3
    assert figures["outcomes"] == {"scored": 2, "unchanged": 0, "superseded": 0, "deleted": 0, "rejected": 1}
    assert figures["alerts"] == {"opened": 1, "updated": 0, "resolved": 0}
    assert (figures["recall"], figures["precision"]) == (1.0, 1.0)
    assert figures["latency_ms"] == {"p50": 600.0, "p99": 600.0}
    assert figures["first_alert_s"] == 0.5
    assert figures["release"] == "r1"


def test_command_of_a_run_is_quoted_for_a_shell() -> None:
    """What the report says to type again survives a space in a path."""
    assert FACTS.command == """make demo ARGS='--events 4 --catalog '"'"'my photos'"'"''"""
