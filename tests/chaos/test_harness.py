"""What runs under faults are made of: schedules, the run's own time, and the file that keeps what came of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pytest

from streamer.settings import FetchSettings
from tests.chaos.checker import Verdict
from tests.chaos.faults import CUTS, FAULTS, LONGEST_S, SHORTEST_S, Setting, schedule
from tests.chaos.images import fails_first
from tests.chaos.pace import SLOWEST, Pace, share
from tests.chaos.results import Exit, Result, Results
from tests.chaos.size import Size
from tests.chaos.test_chaos import SEED
from tests.chaos.test_chaos import SIZE as SHORT
from tests.chaos.workload import SESSION_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chaos.faults import Fault

WHOLE = Setting(duration_s=50.0, workers=3)


def result(fault: Fault = "kill", seed: int = 1, **changes: Any) -> Result:  # noqa: ANN401 - fields of a result
    """Return the result of a run in which everything held."""
    held: dict[str, Any] = {"verdict": Verdict(events=100, lost=0), "hits": {"young": 1}, "exits": []}
    return Result(fault, seed, **(held | {"liveness_kills": 0, "untidy": 0, "seconds": 60.0} | changes))


@pytest.mark.parametrize("fault", FAULTS)
def test_schedule_of_a_seed_is_the_same_again_and_in_order(fault: Fault) -> None:
    """A run can be repeated, and no two seeds make the same one."""
    steps = schedule(fault, 1, WHOLE)
    assert steps == schedule(fault, 1, WHOLE)
    assert [step.at_s for step in steps] == sorted(step.at_s for step in steps)
    assert fault in {"images", "engine"} or steps != schedule(fault, 2, WHOLE)


@pytest.mark.parametrize("fault", ["kill", "terminate"])
def test_schedule_of_signals_meets_first_seconds_and_a_rebalance(fault: Fault) -> None:
    """In every run: the run's first second, a process in its first second, a rebalance, and any moment."""
    for seed in range(1, 11):
        steps = schedule(fault, seed, WHOLE)
        assert min(step.at_s for step in steps) < 1
        assert sorted(step.moment for step in steps) == ["any", "any", "any", "rebalance", "young"]
        assert all(step.age_s <= 1 for step in steps)


def test_schedules_of_ten_seeds_cut_every_way_for_one_to_sixty_seconds() -> None:
    """Ten runs of a table have outages of each length, one way and both."""
    steps = [step for seed in range(1, 11) for step in schedule("cut", seed, WHOLE)]
    assert {step.target for step in steps} == set(CUTS)
    lasts = sorted(step.lasts_s for step in steps)
    assert SHORTEST_S <= lasts[0] < 1.6
    assert 40 < lasts[-1] <= LONGEST_S
    assert sum(last > 10 for last in lasts) > 8


def test_schedule_of_the_shorter_runs_outlasts_a_session() -> None:
    """Ten minutes of it have outages after which partitions belong to others, too."""
    short = Setting(SHORT.publishing_s, SHORT.workers)
    for fault in ("cut", "broker"):
        assert max(step.lasts_s for step in schedule(fault, SEED, short)) > SESSION_TIMEOUT_S


def test_schedule_of_scaling_goes_to_one_and_back_twice() -> None:
    """1 → 3 → 1 → 3, after the three that a run begins with."""
    assert [step.target for step in schedule("scale", 1, WHOLE)] == [1, 3, 1, 3]


def test_schedule_of_all_at_once_holds_every_fault() -> None:
    """What is mixed is what each fault does alone."""
    actions = {step.action for step in schedule("mixed", 1, WHOLE)}
    alone = {step.action for fault in FAULTS if fault != "mixed" for step in schedule(fault, 1, WHOLE)}
    assert actions == alone


def test_flaky_host_never_fails_so_often_in_a_row_that_it_is_left_alone() -> None:
    """Not even for a worker that asks for all its pictures at once: what it has can be had, so it must be scored."""
    fails = [fails_first(f"/{0xC80000 + version * 7919 % 2**16:06x}.png?{version}") for version in range(50_000)]
    assert 0.2 < sum(fails) / len(fails) < 0.3
    assert max(len(list(run)) for failing, run in groupby(fails) if failing) < FetchSettings().breaker_failures


def test_share_of_a_busy_machine_is_what_others_leave() -> None:
    """What the run itself takes does not slow its time; whatever others take, time does not stand still."""
    assert share(1.0, 0.0, 0.0) == 1
    assert share(1.0, 1.0, 1.0) == 1
    assert share(1.0, 1.0, 0.25) == 0.25
    assert share(1.0, 1.0, 0.0) == SLOWEST
    assert share(0.0, 1.0, 0.0) == 1


@pytest.fixture
def burner() -> Iterator[None]:
    """Another process that keeps a core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield
        process.kill()


@pytest.mark.usefixtures("burner")
async def test_pace_goes_no_faster_than_the_wall_clock_and_goes_on() -> None:
    """Also while another process keeps the cores busy."""
    async with Pace() as pace:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await pace.until(pace.now() + 0.3)
        assert loop.time() - began >= 0.3
        assert pace.now() >= 0.3


def test_results_are_kept_and_found_again(tmp_path: Path) -> None:
    """A later sitting leaves out what was made, and tries again what came to no result."""
    path, size = tmp_path / "chaos.json", Size(events=100)
    results = Results.load(path, size)
    results.runs.append(result("kill", 3, exits=[Exit(0, -9, True, 1.5)]))
    results.broken_off["cut, seed 3"] = "the broker does not start again"
    results.save(path)
    found = Results.load(path, size)
    assert found.runs == results.runs
    assert (found.has("kill", 3), found.has("cut", 3), found.broken_off) == (True, False, {})


def test_results_of_other_code_or_another_size_are_refused(tmp_path: Path) -> None:
    """A table is of one thing."""
    path = tmp_path / "chaos.json"
    Results.load(path, Size(events=100)).save(path)
    with pytest.raises(ValueError, match="another size"):
        Results.load(path, Size(events=200))
    path.write_text(path.read_text().replace(Results.load(path, Size(events=100)).code, "0" * 12))
    with pytest.raises(ValueError, match="other code"):
        Results.load(path, Size(events=100))


def test_result_counts_what_a_planned_rebalance_must_not_do() -> None:
    """Redeliver more than 2 %, or be ended by its own deadline instead of draining."""
    again = Verdict(events=100, lost=0, duplicates=3)
    assert result("kill", verdict=again).problems() == []
    assert len(result("scale", verdict=again).problems()) == 1
    assert len(result("terminate", exits=[Exit(0, 3, True, 9.0)]).problems()) == 1
    assert len(result("images", exits=[Exit(0, 2, False, 9.0)]).problems()) == 1
    assert len(result("kill", liveness_kills=1).problems()) == 1
    assert result("terminate", exits=[Exit(0, 0, True, 9.0), Exit(0, -15, True, 0.3)]).problems() == []


def test_results_say_what_no_run_of_a_fault_met(tmp_path: Path) -> None:
    """Ten runs in which nobody was ended in a rebalance show nothing of rebalances; nine may be unlucky."""
    results = Results.load(tmp_path / "chaos.json", Size(events=100))
    results.runs += [result("kill", seed) for seed in range(9)]
    assert results.missed() == []
    results.runs.append(result("kill", 9))
    assert results.missed() == ["kill: rebalance never happened in 10 runs"]
    results.runs.append(result("kill", 10, hits={"rebalance": 1}))
    assert results.missed() == []


def test_chaos_goes_on_where_it_was_ended(tmp_path: Path) -> None:
    """The command finds all its runs made, prints the table, and says by its exit code whether everything held."""
    path, size = tmp_path / "chaos.json", Size(events=100)
    results = Results.load(path, size)
    results.runs += [result("kill", 1), result("cut", 1)]
    results.save(path)
    command = [sys.executable, "-m", "tests.chaos", "--faults", "kill,cut", "--runs", "1", "--events", "100"]
    environment = os.environ | {"KAFKA_HOME": str(tmp_path), "COLUMNS": "160"}
    done = subprocess.run([*command, "--json", path], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "100 events a run" in done.stdout
    broke = json.loads(path.read_text())
    broke["runs"][1]["verdict"]["lost"] = 1
    path.write_text(json.dumps(broke))
    assert subprocess.run([*command, "--json", path], capture_output=True, check=False, env=environment).returncode == 1
