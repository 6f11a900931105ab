"""Workers that are killed while they swap engines: the next one runs what was announced, and nothing is lost."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
from contextlib import AsyncExitStack, contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest
from rich.console import Console

from engines.store import ReleaseStore
from streamer.demo.broker import free_port, spawn
from streamer.demo.cluster import run_cluster
from streamer.demo.images import ImageHost
from streamer.demo.worker import Worker, running_worker, settings_variables
from streamer.outbox import producer
from streamer.promotion import Checked, promote
from streamer.settings import EngineSettings, FetchSettings, ReleaseSettings, Settings, StateSettings
from tests import tiny_release
from tests.brokers import read_all
from tests.fakes import png
from tests.killed import Point

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from streamer.demo.cluster import Cluster
    from tests.brokers import Kafka

PATIENCE_S = 60.0
BIAS = (-2.0, 0.5)
TURN = 80  # products that are published at a time
FETCHED = 3  # of the four files of a release

POINTS = (
    Point("engines.store.ReleaseStore", "_get", FETCHED),  # half of it is here
    Point("streamer.rotation.Rotation", "adopt"),  # loaded beside the engine that runs
    Point("streamer.pipeline.Pipeline", "swap"),  # its decoders have begun
    Point("streamer.rotation._Part", "close"),  # it judges, the old one is still in memory
)


@contextmanager
def dying(point: Point, variables: dict[str, str], folder: Path) -> Generator[tuple[Worker, Any]]:
    """Run a worker that ends there."""
    port = free_port()
    command = [sys.executable, "-m", "tests.killed", point.owner, point.function, str(point.call), "score"]
    others = {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}
    environment = {**others, **variables, "STREAMER_TELEMETRY__PORT": str(port)}
    with (folder / f"{point.function}.log").open("a+b") as log:
        process = spawn(command, log=log, env=environment)
        try:
            yield Worker(process, log, f"http://127.0.0.1:{port}"), process
        finally:
            process.kill()
            process.wait()


async def test_workers_killed_at_each_step_of_a_swap_lose_nothing(kafka: Kafka, tmp_path: Path) -> None:
    """Four of them, under load; the one that takes over runs the new release, and clears away what they left."""
    (tmp_path / "0.png").write_bytes(png(90))
    first, second = (tiny_release.write(tmp_path / "made", bias=bias) for bias in BIAS)
    store = ReleaseStore(str(tmp_path / "store"))

    def left() -> list[Path]:
        return list((tmp_path / POINTS[0].function).glob("release-*"))

    async with AsyncExitStack() as stack:
        host = stack.enter_context(ImageHost(tmp_path))
        cluster = await stack.enter_async_context(run_cluster(kafka.bootstrap, Console(file=StringIO())))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        settings = Settings(
            broker=cluster.broker.model_copy(update={"session_timeout_s": 2.0, "heartbeat_interval_s": 0.5}),
            topics=cluster.names,
            fetch=FetchSettings(allow_hosts=(host.address,)),
            engine=EngineSettings(release=first),
            releases=ReleaseSettings(store=store.url),
        )
        killed = [stack.enter_context(dying(point, variables(settings, tmp_path, point), tmp_path)) for point in POINTS]
        await asyncio.gather(*(worker.wait_until_ready(session) for worker, _ in killed))
        await _publish(cluster, host.address, range(TURN))
        await promote(settings, Checked(store.publish(second), 0), by="test", reason=None)
        await _publish(cluster, host.address, range(TURN, 2 * TURN))
        for point, (_, process) in zip(POINTS, killed, strict=True):
            assert await asyncio.to_thread(process.wait, PATIENCE_S) == -signal.SIGKILL, point
        assert left()
        with running_worker(variables(settings, tmp_path, POINTS[0]), tmp_path / "next.log") as worker:
            await worker.wait_until_ready(session)
            await _publish(cluster, host.address, range(2 * TURN, 3 * TURN))
            seen = await _outcomes(cluster, 3 * TURN)
    assert not left()
    last = {f"p{number}" for number in range(2 * TURN, 3 * TURN)}
    assert {one["release"] for one in seen if one["product_id"] in last} == {second.name}
    for one in seen:
        directory, bias = (first, BIAS[0]) if one["release"] == first.name else (second, BIAS[1])
        logit = tiny_release.logit(directory, 90, title(one["product_id"]), bias=bias)
        assert one["probability"] == pytest.approx(1 / (1 + math.exp(-logit)), abs=2e-3)


def variables(settings: Settings, folder: Path, point: Point) -> dict[str, str]:
    """Return the environment of a worker that is killed there, and of the one that takes its place."""
    own = settings.model_copy(update={"state": StateSettings(directory=folder / point.function)})
    return settings_variables({name: getattr(own, name) for name in Settings.model_fields})


def title(product: str) -> str:
    """Return a text of its own."""
    return f"red mug {product}"


async def _publish(cluster: Cluster, address: str, numbers: range) -> None:
    async with producer(cluster.broker) as kafka:
        for number in numbers:
            update = {"id": f"p{number}", "version": 1, "title": title(f"p{number}")}
            update["image_link"] = f"http://{address}/0.png"
            await kafka.send(cluster.names.updates, orjson.dumps(update), key=f"p{number}".encode())
        await kafka.flush()


async def _outcomes(cluster: Cluster, products: int) -> list[dict[str, Any]]:
    """Return what was made of all products, once each has an outcome; after a kill one may have two."""
    topics = (cluster.names.scores, cluster.names.dead_letters)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            read = [await read_all(cluster.broker.bootstrap, topic) for topic in topics]
            seen = [orjson.loads(record.value or b"") for records in read for record in records]
            if len({one["product_id"] for one in seen}) == products:
                return seen
            await asyncio.sleep(0.2)
