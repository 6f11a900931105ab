"""A real worker whose engine never answers: its probe says so, and only once there is something to be done."""

from __future__ import annotations

import asyncio
import os
import sys
from io import StringIO
from typing import TYPE_CHECKING

import aiohttp
import orjson
from rich.console import Console

from streamer.demo.broker import LOOPBACK, free_port, spawn
from streamer.demo.cluster import run_cluster
from streamer.demo.images import ImageHost
from streamer.demo.worker import Worker, settings_variables
from streamer.outbox import producer
from streamer.settings import EngineSettings, FetchSettings
from tests.fakes import png

if TYPE_CHECKING:
    from pathlib import Path

STALLED_AFTER_S = 2
PATIENCE_S = 60.0
PROGRAM = f"""
from streamer import scorer
scorer.stalled_after_s = lambda settings: {STALLED_AFTER_S}
from tests.chaos import worker
worker.main()
"""
HANGS = {"hangs": 1.0, "calm": "/nowhere"}


async def status(session: aiohttp.ClientSession, worker: Worker) -> int:
    """Return what the liveness probe is answered."""
    worker.check()
    async with session.get(f"{worker.url}/healthz") as response:
        return response.status


async def test_worker_whose_offsets_stand_still_fails_its_liveness(tmp_path: Path) -> None:
    """Idle it is alive; with an event that never ends, within the time that an offset may stand still, it is not."""
    (tmp_path / "there.png").write_bytes(png(200))
    port = free_port()
    with ImageHost(tmp_path) as host:
        async with run_cluster(None, Console(file=StringIO())) as cluster, aiohttp.ClientSession() as session:
            sections = {
                "broker": cluster.broker,
                "topics": cluster.names,
                "fetch": FetchSettings(allow_hosts=(host.address,)),
                "engine": EngineSettings(deadline_s=3600.0),
            }
            env = os.environ | settings_variables(sections) | {"PYTHONPATH": os.pathsep.join(sys.path)}
            env |= {"STREAMER_TELEMETRY__PORT": str(port), "CHAOS_ENGINE": orjson.dumps(HANGS).decode()}
            with (tmp_path / "worker.log").open("a+b") as log:
                process = spawn([sys.executable, "-c", PROGRAM], log=log, env=env)
                worker = Worker(process, log, f"http://{LOOPBACK}:{port}")
                try:
                    await worker.wait_until_ready(session)
                    await asyncio.sleep(2 * STALLED_AFTER_S)
                    assert await status(session, worker) == 200
                    async with producer(cluster.broker) as kafka:
                        update = {
                            "id": "a",
                            "version": 1,
                            "title": "a mug",
                            "image_link": f"http://{host.address}/there.png",
                        }
                        await kafka.send_and_wait(cluster.names.updates, orjson.dumps(update), key=b"a")
                    async with asyncio.timeout(PATIENCE_S):
                        while await status(session, worker) != 503:  # noqa: ASYNC110 - a probe is asked, it does not call
                            await asyncio.sleep(0.1)
                finally:
                    process.kill()
                    process.wait()
