"""Faults, one after another, on a real Apache Kafka (KAFKA_HOME): prints one table, and exits 1 if a promise broke.

python -m tests.chaos --runs 10 --faults kill,cut --events 50000 --seed 1 --minutes 60 --json chaos.json

Each run is added to the file as it ends; the same command goes on where it was ended. The file is of one size of run
and of one state of the code.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from tests import brokers
from tests.chaos.campaign import Campaign, Plan
from tests.chaos.faults import FAULTS
from tests.chaos.results import Results
from tests.chaos.size import Size
from tests.priority import set_niceness

NICENESS = 10


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10, help="runs of each fault, with different seeds")
    parser.add_argument("--faults", type=lambda text: text.split(","), default=list(FAULTS), help=", ".join(FAULTS))
    parser.add_argument("--events", type=int, default=Size.events)
    parser.add_argument("--partitions", type=int, default=Size.partitions)
    parser.add_argument("--workers", type=int, default=Size.workers)
    parser.add_argument("--seed", type=int, default=1, help="of the first run of each fault")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no run after this long")
    parser.add_argument("--json", type=Path, default=Path("chaos.json"), help="where the figures are kept")
    parser.add_argument("--background", action="store_true", help="let other work on this machine go first")
    parser.add_argument("--keep", action="store_true", help="keep the logs of runs that held, too")
    arguments = parser.parse_args()
    if "clock" in arguments.faults and shutil.which("cc") is None:
        parser.error("`clock` needs a C compiler, `cc`: install one, or name the other faults with --faults")
    unknown = sorted(set(arguments.faults) - set(FAULTS))
    if unknown:
        parser.error(f"no fault is called {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    if not os.environ.get("KAFKA_HOME"):
        parser.error(brokers.HOW_TO_GIVE_KAFKA)
    return arguments


def _plan(arguments: argparse.Namespace, console: Console) -> Plan:
    faults = [fault for fault in FAULTS if fault in arguments.faults]
    seeds = range(arguments.seed, arguments.seed + arguments.runs)
    return Plan(
        runs=[(fault, seed) for seed in seeds for fault in faults],
        results=arguments.json,
        logs=Path(tempfile.mkdtemp(prefix="chaos-")),
        keep=arguments.keep,
        background=arguments.background,
        ends=time.monotonic() + 60 * arguments.minutes,
    )


async def _make(campaign: Campaign) -> None:
    """Make the runs; SIGTERM ends them as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await campaign.run()


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    arguments, console = _arguments(), Console(highlight=False, width=max(Console().width, 150))
    if arguments.background:
        set_niceness(os.getpid(), NICENESS)
    plan = _plan(arguments, console)
    results = Results.load(plan.results, Size(arguments.events, arguments.partitions, arguments.workers))
    try:
        with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
            asyncio.run(_make(Campaign(plan, results, console)))
    finally:
        console.print(results.table())
    for run, why in results.broken_off.items():
        console.print(f"{run} came to no result: {why}", markup=False, soft_wrap=True)
    for missed in results.missed():
        console.print(missed, markup=False, soft_wrap=True)
    broke = [one for one in results.runs if one.problems()]
    if not any(plan.logs.iterdir()):
        plan.logs.rmdir()
    return 1 if broke or results.broken_off or results.missed() or not results.runs else 0


if __name__ == "__main__":
    sys.exit(main())
