"""Faults, one after another, on a real Apache Kafka (KAFKA_HOME): prints one table, and exits 1 if a promise broke.

python -m tests.chaos --runs 10 --faults kill,cut --events 50000 --seed 1 --minutes 60 --json chaos.json
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from tests.chaos.faults import FAULTS
from tests.chaos.place import place
from tests.chaos.run import Result, Size, run


def table(results: list[Result]) -> Table:
    """Return the figures, one line for each fault."""
    shown = Table(
        title="Delivery under faults", caption="restarts: workers that ended by themselves, as a kubelet would"
    )
    for column in ("fault", "runs", "events", "lost", "wrong", "ahead", "duplicates", "restarts", "recovery s"):
        shown.add_column(column, justify="left" if column == "fault" else "right")
    for fault in FAULTS:
        of_fault = [result for result in results if result.fault == fault]
        if not of_fault:
            continue
        verdicts = [result.verdict for result in of_fault]
        events = sum(verdict.events for verdict in verdicts)
        duplicates = sum(verdict.duplicates for verdict in verdicts)
        recoveries = [verdict.recovery_s for verdict in verdicts]
        shown.add_row(
            fault,
            str(len(of_fault)),
            f"{events:,}",
            str(sum(verdict.lost for verdict in verdicts)),
            str(sum(len(result.problems()) for result in of_fault)),
            str(sum(len(verdict.ahead) for verdict in verdicts)),
            f"{duplicates} ({duplicates / max(events, 1):.2%})",
            f"{sum(result.restarts for result in of_fault)}",
            f"{statistics.median(recoveries):.1f}, at most {max(recoveries):.1f}",
        )
    return shown


async def _runs(arguments: argparse.Namespace, console: Console, directory: Path, results: list[Result]) -> list[str]:
    """Append the result of each run, so that those that were made are kept; return which runs came to no result."""
    broken_off: list[str] = []
    size = Size(arguments.events, arguments.partitions, arguments.workers)
    ends = time.monotonic() + 60 * arguments.minutes
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        for fault in arguments.faults:
            if time.monotonic() > ends:
                console.print(f"[yellow]{arguments.minutes:g} minutes are over[/]: the rest was left out")
                return broken_off
            root, kafka = directory / f"{fault}-{seed}", directory / f"{fault}-{seed}-kafka"
            for made in (root, kafka):
                made.mkdir()
            async with place(kafka) as here:
                if fault == "clock" and here.clock is None:
                    console.print("[yellow]clock left out[/]: it needs a C compiler, `cc`")
                    continue
                try:
                    results.append(await run(here, root, fault, seed, size))
                except Exception as error:  # noqa: BLE001 - hours of other runs are to come
                    broken_off.append(f"{fault}, seed {seed}: {type(error).__name__}: {error}; logs: {root}")
                    console.print("broken off:", broken_off[-1], markup=False, soft_wrap=True)
                    continue
            _tell(results[-1], root, console)
            if not (arguments.keep or results[-1].problems()):
                shutil.rmtree(root)
                shutil.rmtree(kafka)
            arguments.json.write_bytes(orjson.dumps([dataclasses.asdict(one) for one in results]))
    return broken_off


def _tell(result: Result, root: Path, console: Console) -> None:
    verdict, broken = result.verdict, result.problems()
    ended = ", ".join(f"{one.slot}:{one.code}{'' if one.told else '!'}" for one in result.exits)
    console.print(
        f"{result.fault}, seed {result.seed}: {verdict.events} events in {result.seconds:.0f} s, {verdict.lost} lost, "
        f"{len(broken)} problems, {verdict.duplicates} duplicates ({verdict.changed} changed), "
        f"{verdict.repeated_alerts} alerts again, recovery {verdict.recovery_s:.1f} s, "
        f"exits [{ended}], {result.liveness_kills} failed liveness",
        markup=False,
        soft_wrap=True,
    )
    for line in broken[:10]:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    if broken:
        console.print(f"  logs: {root}", markup=False, soft_wrap=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="runs of each fault, with different seeds")
    parser.add_argument("--faults", type=lambda text: text.split(","), default=list(FAULTS), help=", ".join(FAULTS))
    parser.add_argument("--events", type=int, default=Size.events)
    parser.add_argument("--partitions", type=int, default=Size.partitions)
    parser.add_argument("--workers", type=int, default=Size.workers)
    parser.add_argument("--seed", type=int, default=1, help="of the first run of each fault")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no run after this long")
    parser.add_argument("--json", type=Path, default=Path("chaos.json"), help="where the figures go")
    parser.add_argument("--keep", action="store_true", help="keep the logs of runs that held, too")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.faults) - set(FAULTS))
    if unknown:
        parser.error(f"no fault is called {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    return arguments


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    arguments, console = _arguments(), Console(highlight=False, width=max(Console().width, 110))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that the broker is away is what is tested
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    results: list[Result] = []
    broken: list[object] = []
    try:
        broken += asyncio.run(_runs(arguments, console, directory, results))
    finally:
        console.print(table(results))
    if broken:
        console.print(f"{len(broken)} runs came to no result")
    broken += [result for result in results if result.problems()]
    if not (broken or arguments.keep):
        shutil.rmtree(directory)
    return 1 if broken or not results else 0


if __name__ == "__main__":
    sys.exit(main())
