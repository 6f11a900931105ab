"""The drift watcher on a real Kafka: what workers have written becomes metrics and, when it lasts, a request."""

from __future__ import annotations

import asyncio
import itertools
from io import StringIO
from typing import TYPE_CHECKING

import aiohttp
from rich.console import Console

from streamer import retrain_request
from streamer.blobs import Blobs
from streamer.demo.cluster import run_cluster
from streamer.demo.worker import running_worker, settings_variables
from streamer.outbox import producer
from streamer.settings import DriftSettings, ReleaseSettings, Settings
from streamer.wire import encode
from tests.unit.test_drift import RELEASE, drawn, letter

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import Kafka

WINDOW = 400


async def test_watcher_tells_drift_and_asks_for_a_retraining(kafka: Kafka, tmp_path: Path) -> None:
    """Of what the topics hold and of what comes: failed fetches, a shifted score, a record beside the releases."""
    async with run_cluster(kafka.bootstrap, Console(file=StringIO())) as cluster, aiohttp.ClientSession() as session:
        names = cluster.names
        settings = Settings(
            broker=cluster.broker,
            topics=names,
            releases=ReleaseSettings(store=str(tmp_path / "store")),
            drift=DriftSettings(window=WINDOW, least=WINDOW // 2, patience_s=0.5, check_every_s=0.2),
        )
        sections = {part: getattr(settings, part) for part in Settings.model_fields if part != "telemetry"}
        async with producer(cluster.broker) as sender:

            async def send(*values: tuple[str, bytes]) -> None:
                await asyncio.gather(*[await sender.send(topic, value, key=b"k") for topic, value in values])

            async def flow() -> None:
                for one in itertools.cycle(drawn(WINDOW, 2)):
                    await sender.send_and_wait(names.scores, encode(one), key=b"k")

            await send(*((names.scores, encode(one)) for one in drawn(2 * WINDOW, 0)))
            with running_worker(settings_variables(sections), tmp_path / "drift.log", command="drift") as worker:
                flowing = asyncio.create_task(flow())
                await worker.wait_until_ready(session)  # though there is always a record more
                flowing.cancel()

                async def until(line: str) -> None:
                    async with asyncio.timeout(30):
                        while True:
                            worker.check()
                            async with session.get(f"{worker.url}/metrics") as response:
                                if line in (await response.text()).splitlines():
                                    return
                            await asyncio.sleep(0.05)

                await until(f"streamer_drift_products {WINDOW}.0")
                await until('streamer_drifted{kind="value"} 0.0')
                await send(*((names.dead_letters, encode(letter("image_timeout"))) for _ in range(WINDOW)))
                await until('streamer_drifted{kind="fetches"} 1.0')
                await send(*((names.scores, encode(one)) for one in drawn(WINDOW, 1, mean=1.0)), (names.scores, b"{"))
                await until('streamer_drifted{kind="value"} 1.0')
                await until("streamer_retraining_requested_total 1.0")
                await until("streamer_drift_unreadable_total 1.0")
    asked = retrain_request.pending(Blobs(str(tmp_path / "store"), setting="TEST"))
    assert asked is not None
    assert (asked.release, asked.statistic) == (RELEASE, "value:score")
    assert (tmp_path / "store" / "drift" / f"{RELEASE}.json").exists()
