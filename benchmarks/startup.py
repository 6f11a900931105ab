"""How long until a worker is ready, and how much memory it holds then.

    python benchmarks/startup.py [--runs N]

Starts the embedded broker and a real worker, as `make demo` does, waits for `/readyz` (engine warm, partitions
assigned, state recovered), and reads the process's resident memory. One more start, which is not timed, has Python
write down what it imports: torch is not to be among it.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import aiohttp
import typer
from rich.console import Console
from rich.table import Table

from streamer.demo.cluster import run_cluster
from streamer.demo.worker import running_worker, settings_variables

console = Console(stderr=True)


async def start_once(folder: Path, **more: str) -> dict[str, float]:
    """Return seconds until ready and resident MB of a worker with these variables, too; its log is in the folder."""
    async with run_cluster(None, console) as cluster, aiohttp.ClientSession() as session:
        variables = settings_variables({"broker": cluster.broker, "topics": cluster.names}) | more
        with running_worker(variables, folder / "worker.log") as worker:
            ready_s = await worker.wait_until_ready(session)
            rss_mb = resident_mb(worker.pid)
    return {"ready_s": round(ready_s, 2), "rss_mb": round(rss_mb)}


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process; that much of one which keeps to itself may be read by anyone."""
    lines = Path("/proc", str(pid), "status").read_text(encoding="ascii").splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return int(status["VmRSS"].split()[0]) / 1024


async def imports_torch(folder: Path) -> bool:
    """Whether a worker has imported torch by the time that it is ready."""
    await start_once(folder, PYTHONPROFILEIMPORTTIME="1")
    imported = re.findall(r"^import time:.*\| +(\S+)$", (folder / "worker.log").read_text(), flags=re.MULTILINE)
    assert "streamer.scorer" in imported, "Python has not written down what it imports"
    return "torch" in imported


def main(runs: Annotated[int, typer.Option(min=1)] = 5) -> None:
    """Start a worker several times; print each start and the medians."""
    table = Table("ready, s", "resident, MB")
    starts = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            starts.append(asyncio.run(start_once(Path(folder))))
        table.add_row(*(str(value) for value in starts[-1].values()))
    console.print(table)
    with tempfile.TemporaryDirectory() as folder:
        torch = asyncio.run(imports_torch(Path(folder)))
    medians = {name: statistics.median(start[name] for start in starts) for name in ("ready_s", "rss_mb")}
    print(json.dumps({**medians, "runs": runs, "torch": torch}))


if __name__ == "__main__":
    typer.run(main)
