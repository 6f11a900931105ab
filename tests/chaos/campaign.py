"""Many runs, one after another, each in a process of its own: what was made is kept, and a later sitting goes on."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from streamer.demo.broker import die_with_parent, log_tail
from tests.chaos.orders import Order, Told
from tests.chaos.results import ROOT
from tests.priority import set_niceness

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from rich.console import Console
    from rich.progress import TaskID

    from tests.chaos.faults import Fault
    from tests.chaos.results import Result, Results

LOG = "harness.log"
MAX_LINE_BYTES = 2**26  # a result that holds everything that was wrong
HARNESS_NICENESS = 5
SILENT_S = 1800.0
"""Without a word from a run, after which it is taken to hang; on a busy machine, judging it may take minutes."""
BROKEN_LINES = 10  # of what a run broke; all of it stands in the file


@dataclass(frozen=True)
class Plan:
    """Which runs to make, and how.

    Attributes:
        runs: fault and seed of each.
        results: the file that they are added to.
        logs: a directory for the logs of runs in which a promise broke.
        keep: the logs of the others, too.
        background: let other work go first.
        ends: begin none after this moment of the monotonic clock.
    """

    runs: list[tuple[Fault, int]]
    results: Path
    logs: Path
    keep: bool
    background: bool
    ends: float


class Campaign:
    """Makes the runs of a plan that are not made yet."""

    def __init__(self, plan: Plan, results: Results, console: Console) -> None:
        self._plan, self._results, self._console = plan, results, console
        self._turn = asyncio.Semaphore(1)
        self._todo = [one for one in plan.runs if not results.has(*one)]
        self._began = time.monotonic()
        self._made = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    async def run(self) -> None:
        """Make the runs; one is read and judged while the next one takes place."""
        all_runs = self._progress.add_task("all runs", total=len(self._plan.runs))
        self._progress.advance(all_runs, len(self._plan.runs) - len(self._todo))
        with self._progress:
            async with asyncio.TaskGroup() as group:
                for fault, seed in self._todo:
                    await self._turn.acquire()
                    if time.monotonic() > self._plan.ends:
                        self._console.print("[yellow]the time is over[/]: the rest is left for another sitting")
                        return
                    group.create_task(self._one(fault, seed, all_runs))

    async def _one(self, fault: Fault, seed: int, all_runs: TaskID) -> None:
        directory = self._plan.logs / f"{fault}-{seed}-{time.time_ns()}"
        directory.mkdir(parents=True)
        shown = self._progress.add_task(f"{fault}, seed {seed}", total=1000)
        turn_over = False
        result: Result | None = None
        try:
            async with aclosing(_told(self._order(fault, seed, directory), directory / LOG)) as lines:
                async for told in lines:
                    words = f"{fault}, seed {seed}: {told.stage}"
                    self._progress.update(shown, completed=int(1000 * told.share), description=words)
                    if told.stage == "checking" and not turn_over:
                        self._turn.release()
                        turn_over = True
                    result = told.result or result
        finally:
            if not turn_over:
                self._turn.release()
            self._progress.remove_task(shown)
        self._progress.advance(all_runs)
        self._take(fault, seed, result, directory)

    def _order(self, fault: Fault, seed: int, directory: Path) -> Order:
        background = self._plan.background
        return Order(fault=fault, seed=seed, size=self._results.size, directory=str(directory), background=background)

    def _take(self, fault: Fault, seed: int, result: Result | None, directory: Path) -> None:
        """Keep and tell what came of a run; its directory only where somebody will want to look into it."""
        self._made += 1
        if result is None:
            with (directory / LOG).open("rb") as log:
                self._results.broken_off[f"{fault}, seed {seed}"] = f"{log_tail(log)}\nlogs: {directory}"
            self._say(f"{fault}, seed {seed}: broken off, logs: {directory}")
        else:
            self._results.runs.append(result)
            self._tell(result, directory)
        self._results.save(self._plan.results)
        if result is not None and not (result.problems() or self._plan.keep):
            shutil.rmtree(directory)

    def _tell(self, result: Result, directory: Path) -> None:
        verdict, broken = result.verdict, result.problems()
        ended = ", ".join(f"{one.slot}:{one.code}{'' if one.told else '!'}" for one in result.exits)
        self._say(
            f"{result.fault}, seed {result.seed}: {verdict.events} events in {result.seconds:.0f} s, "
            f"{verdict.lost} lost, {len(broken)} problems, {verdict.duplicates} redelivered "
            f"({verdict.changed} of them under another name), {verdict.repeated_alerts} alerts again, "
            f"recovery {verdict.recovery_s:.1f} s, hits {result.hits}, exits [{ended}], "
            f"{result.liveness_kills} failed liveness, other work {result.busy:.0%}"
        )
        for line in broken[:BROKEN_LINES]:
            self._say(f"  {line}")
        if broken:
            self._say(f"  logs: {directory}")

    def _say(self, words: str) -> None:
        left = len(self._todo) - self._made
        pace_s = (time.monotonic() - self._began) / max(self._made, 1)
        head = f"[{len(self._plan.runs) - left}/{len(self._plan.runs)}, {left * pace_s / 60:.0f} min left]"
        self._console.print(head, words, markup=False, soft_wrap=True)


async def _told(order: Order, log: Path) -> AsyncGenerator[Told]:
    """Make a run in a process of its own; yield what it tells. What it complains of goes into the log."""
    command = [sys.executable, "-m", "tests.chaos.alone", msgspec.json.encode(order).decode()]
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            limit=MAX_LINE_BYTES,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    if order.background:
        set_niceness(process.pid, HARNESS_NICENESS)
    assert process.stdout is not None
    try:
        while line := await asyncio.wait_for(process.stdout.readline(), SILENT_S):
            yield msgspec.json.decode(line, type=Told)
    except TimeoutError:
        process.send_signal(signal.SIGABRT)
    except BaseException:
        process.kill()
        raise
    finally:
        await process.wait()
