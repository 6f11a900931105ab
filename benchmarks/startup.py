"""How long until a worker is ready, and how much memory it holds then.

    python benchmarks/startup.py [--runs N]

Starts the embedded broker and a real worker, as `make demo` does, waits for `/readyz` (engine warm, partitions
assigned, state recovered), and reads the process's resident memory and whether it has mapped torch.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer
from rich.console import Console
from rich.table import Table

from streamer.demo.cluster import run_cluster
from streamer.demo.worker import running_worker, settings_variables

console = Console(stderr=True)


async def start_once(folder: Path) -> dict[str, Any]:
    """Return seconds until ready, resident MB, and whether torch is in the process."""
    async with run_cluster(None, console) as cluster, aiohttp.ClientSession() as session:
        variables = settings_variables({"broker": cluster.broker, "topics": cluster.names})
        with running_worker(variables, folder / "worker.log") as worker:
            ready_s = await worker.wait_until_ready(session)
            process = Path("/proc", str(worker.pid))
            status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            maps = (process / "maps").read_text()
    rss_mb = int(status["VmRSS"].split()[0]) / 1024
    return {"ready_s": round(ready_s, 2), "rss_mb": round(rss_mb), "torch": "libtorch" in maps}


def main(runs: Annotated[int, typer.Option(min=1)] = 5) -> None:
    """Start a worker several times; print each start and the medians."""
    table = Table("ready, s", "resident, MB", "torch loaded")
    starts = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            starts.append(asyncio.run(start_once(Path(folder))))
        table.add_row(*(str(value) for value in starts[-1].values()))
    console.print(table)
    medians = {name: statistics.median(start[name] for start in starts) for name in ("ready_s", "rss_mb")}
    print(json.dumps({**medians, "runs": runs, "torch": any(start["torch"] for start in starts)}))


if __name__ == "__main__":
    typer.run(main)
