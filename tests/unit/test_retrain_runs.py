"""`streamer.retrain_runs`: what a directory of runs keeps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from streamer.retrain_runs import CHALLENGER_FOLDER, KEPT_CHALLENGERS, Runs

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.retrain_runs import Run

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def begun(runs: Runs, day: int) -> Run:
    """Return a run of that day that has made a challenger and a card."""
    run = runs.begin(reason="test", at=BEGAN + timedelta(days=day), champion="small-0", catalog=None, passed=())
    for name in (CHALLENGER_FOLDER, "card"):
        (runs.folder(run) / name / "inside").mkdir(parents=True)
    return run


def test_challengers_of_long_ago_are_removed_and_cards_are_not(tmp_path: Path) -> None:
    """The last ten that ended stay to be inspected, and that of the run that goes on."""
    runs = Runs(tmp_path)
    ended = [begun(runs, day) for day in range(KEPT_CHALLENGERS + 2)]
    for run in ended:
        runs.end(run, "refused", run.began_at)
    current = begun(runs, 50)
    assert runs.unfinished() == current
    kept = [run for run in (*ended, current) if (runs.folder(run) / CHALLENGER_FOLDER).exists()]
    assert kept == [*ended[2:], current]
    assert all((runs.folder(run) / "card").exists() for run in ended)
