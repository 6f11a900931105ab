"""A real worker that is told to leave while another's leaving makes the group rebalance: it leaves in order, too."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING

import aiohttp
import pytest
from rich.console import Console

from streamer import topics
from streamer.demo.broker import LOOPBACK, free_port, spawn
from streamer.demo.cluster import run_cluster
from streamer.demo.worker import Worker, settings_variables

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.brokers import Kafka

STATE = 2  # its place in a description of a group
PATIENCE_S = 15.0  # less than after which a worker that hangs is ended
SCORE = """
import sys
from streamer.cli import app
sys.argv = ["streamer", "score"]
app()
"""
SLOW = f"""
import asyncio
from streamer import application

flush = application.WorkerApp._producer_flush


async def flush_slowly(self, logger):
    if self.should_stop:  # it has finished and committed; what it holds is still to be closed
        print("LEAVING", flush=True)
        await asyncio.sleep(3)
    await flush(self, logger)


application.WorkerApp._producer_flush = flush_slowly
{SCORE}"""


@contextmanager
def running(
    program: list[str], variables: dict[str, str], file: Path
) -> Iterator[tuple[Worker, subprocess.Popen[bytes]]]:
    """Run a worker; it is ended with the block."""
    port = free_port()
    env = os.environ | variables | {"PYTHONPATH": os.pathsep.join(sys.path), "STREAMER_TELEMETRY__PORT": str(port)}
    with file.open("a+b") as log:
        process = spawn([sys.executable, "-c", program], log=log, env=env)
        try:
            yield Worker(process, log, f"http://{LOOPBACK}:{port}"), process
        finally:
            process.kill()
            process.wait()


@pytest.mark.kafka
async def test_worker_leaves_in_order_while_another_leaves(kafka: Kafka, tmp_path: Path) -> None:
    """Neither waits for what the other does, and the broker is told by both: the group is empty at once."""
    async with run_cluster(kafka.bootstrap, Console(file=StringIO())) as cluster, aiohttp.ClientSession() as session:
        broker = cluster.broker.model_copy(update={"heartbeat_interval_s": 0.1, "session_timeout_s": 30.0})
        variables = settings_variables({"broker": broker, "topics": cluster.names})
        variables["STREAMER_STATE__DIRECTORY"] = str(tmp_path / "slow")
        slow_log = tmp_path / "slow.log"
        with (
            running(SLOW, variables, slow_log) as (slow, slow_process),
            running(
                SCORE,
                variables | {"STREAMER_STATE__DIRECTORY": str(tmp_path / "other")},
                tmp_path / "other.log",
            ) as (other, other_process),
        ):
            await slow.wait_until_ready(session)
            await other.wait_until_ready(session)
            slow_process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_S):
                while b"LEAVING" not in slow_log.read_bytes():
                    slow.check()
                    await asyncio.sleep(0.05)
            other_process.send_signal(signal.SIGTERM)
            exits = [await asyncio.to_thread(process.wait, PATIENCE_S) for process in (other_process, slow_process)]
            assert exits == [0, 0]
        async with topics.admin(broker) as admin:
            (described,) = await admin.describe_consumer_groups([broker.group])
        assert described.groups[0][STATE] in {"Empty", "Dead"}, (
            "the broker waits for one that has not said that it leaves"
        )
