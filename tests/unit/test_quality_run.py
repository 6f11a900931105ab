"""`benchmarks/quality_run.py`: time that survives a run that was cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from quality_run import Run

if TYPE_CHECKING:
    from pathlib import Path


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def work(run: Run, clock: Clock) -> None:
    """Work for 10 s, save, work for another 7 s, and be killed."""
    with run.stage("training"):
        clock.now += 10
        run.tick()
        clock.now += 7
        raise KeyboardInterrupt


def cut(run: Run, clock: Clock) -> None:
    """Work until the run is killed."""
    with pytest.raises(KeyboardInterrupt):
        work(run, clock)


def test_run_counts_saved_work_of_a_run_that_was_cut(tmp_path: Path) -> None:
    """What was not saved is done again, so it is counted once."""
    clock = Clock()
    cut(Run(tmp_path, {"seed": 0}, clock), clock)
    again = Run(tmp_path, {"seed": 0}, clock)
    with again.stage("training"):
        clock.now += 9
    assert again.seconds() == {"training": 19.0}
    assert again.kept.whole


def test_run_counts_a_finished_stage_once(tmp_path: Path) -> None:
    """Reading what is finished costs time, too, but not that of the work."""
    clock = Clock()
    for _ in range(2):
        run = Run(tmp_path, {"seed": 0}, clock)
        with run.stage("features"):
            clock.now += 5
    assert run.seconds() == {"features": 5.0}


def test_run_leaves_out_what_is_skipped(tmp_path: Path) -> None:
    """What is measured between two stages is no part of either."""
    clock = Clock()
    run = Run(tmp_path, {"seed": 0}, clock)
    with run.stage("training"):
        clock.now += 5
        run.tick()
        clock.now += 3
        run.note({"epoch": 1})
        run.skip()
        clock.now += 2
    assert run.seconds() == {"training": 7.0}
    assert Run(tmp_path, {"seed": 0}, clock).kept.curves == [{"epoch": 1}]


def test_run_of_another_recipe_counts_from_nothing_and_says_that_work_was_there(tmp_path: Path) -> None:
    """Features of the run before may be used again, and nobody knows what they took."""
    clock = Clock()
    cut(Run(tmp_path, {"seed": 0}, clock), clock)
    (tmp_path / "work" / "training").mkdir(parents=True)
    other = Run(tmp_path, {"seed": 1}, clock)
    assert other.seconds() == {}
    assert not other.kept.whole
