"""Thresholds change while workers run on a real Kafka, and one is killed in the middle: alerts are decided anew."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import ExitStack
from io import StringIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
from rich.console import Console

from engines import releases
from engines.store import ReleaseStore
from streamer.demo.cluster import Cluster, run_cluster
from streamer.demo.images import ImageHost
from streamer.demo.worker import Worker, running_worker, settings_variables
from streamer.outbox import producer
from streamer.promotion import Checked, promote
from streamer.settings import EngineSettings, FetchSettings, ReleaseSettings, Settings, StateSettings
from tests import tiny_release
from tests.brokers import committed, end_offsets, read_all
from tests.fakes import png

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Literal

    from tests.brokers import Kafka

PRODUCTS = 450
PATIENCE_S = 60.0
TITLES = ("mug", "red mug", "blue shoe red")  # logits -1.5, -0.25 and 1 with this bias, and up to 1/3 of the picture
BIAS = -2.5
LENIENT, STRICT = 0.7, 0.4  # between them stand all products of the second title, and none of the others


async def until(workers: list[Worker], so: Callable[[], Any]) -> None:
    """Return when that is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not await so():
            for worker in workers:
                worker.check()
            await asyncio.sleep(0.1)


async def caught_up(cluster: Cluster) -> bool:
    """Whether every record has been taken and acknowledged."""
    bootstrap, group, names = cluster.broker.bootstrap, cluster.broker.group, cluster.names
    for topic in (names.updates, names.scores, names.redecisions):
        ends, done = await end_offsets(bootstrap, topic), await committed(bootstrap, group, topic)
        if {n: done[n] or 0 for n in ends} != ends:
            return False
    return True


def title(number: int) -> str:
    """Return a text that no other product has; words that the tokenizer does not know count nothing."""
    return f"{TITLES[number % 3]} number{number}"


def lasting(alerts: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the alerts of each product in order, as a consumer has them that drops ids it has seen."""
    seen: set[str] = set()
    by_product: dict[str, list[dict[str, Any]]] = {}
    for alert in alerts:
        if alert["id"] not in seen:
            seen.add(alert["id"])
            by_product.setdefault(alert["subject"], []).append(alert)
    return by_product


async def test_thresholds_change_while_a_worker_is_killed(kafka: Kafka, tmp_path: Path) -> None:
    """One of two is killed while alerts are decided anew, a third joins: nothing is missing, and nothing is scored."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.png").write_bytes(png(100))
    lenient = tiny_release.write(tmp_path / "made", bias=BIAS, threshold=LENIENT)
    strict = tiny_release.write(tmp_path / "made", bias=BIAS, threshold=STRICT)
    kept = ReleaseStore(str(tmp_path / "store"))
    with ImageHost(tmp_path / "pictures") as host, ExitStack() as stack:
        async with (
            run_cluster(kafka.bootstrap, Console(file=StringIO())) as cluster,
            aiohttp.ClientSession() as session,
        ):
            names = cluster.names
            settings = Settings(
                broker=cluster.broker.model_copy(update={"session_timeout_s": 6.0, "heartbeat_interval_s": 1.0}),
                topics=names,
                fetch=FetchSettings(allow_hosts=(host.address,)),
                engine=EngineSettings(release=lenient),
                releases=ReleaseSettings(store=str(tmp_path / "store"), retry_s=0.2),
            )

            async def worker(name: str, store: Literal["memory", "rocksdb"]) -> Worker:
                own = settings.model_copy(
                    update={"state": StateSettings(store=store, directory=tmp_path / f"state-{name}")}
                )
                sections = {part: getattr(own, part) for part in Settings.model_fields if part != "telemetry"}
                started = stack.enter_context(running_worker(settings_variables(sections), tmp_path / f"{name}.log"))
                await started.wait_until_ready(session)
                return started

            async def alerts() -> list[dict[str, Any]]:
                return [orjson.loads(one.value or b"") for one in await read_all(kafka.bootstrap, names.alerts)]

            first, second = await asyncio.gather(worker("first", "rocksdb"), worker("second", "memory"))
            async with producer(cluster.broker) as sender:
                for number in range(PRODUCTS):
                    update = {"id": f"p{number}", "version": 1, "title": title(number)}
                    update["image_link"] = f"http://{host.address}/one.png"
                    await sender.send(names.updates, orjson.dumps(update), key=f"p{number}".encode())

            async def scored() -> bool:
                return sum((await end_offsets(kafka.bootstrap, names.scores)).values()) == PRODUCTS

            await until([first, second], scored)
            await until([first, second], lambda: caught_up(cluster))
            opened = lasting(await alerts())
            assert opened.keys() == {f"p{number}" for number in range(2, PRODUCTS, 3)}

            await promote(settings, Checked(kept.publish(strict), 0), by="test", reason="fewer misses")

            async def begun() -> bool:
                return sum((await end_offsets(kafka.bootstrap, names.alerts)).values()) > PRODUCTS // 3 + 20

            await until([first, second], begun)
            os.kill(first.pid, signal.SIGKILL)
            third = await worker("third", "rocksdb")

            async def decided() -> bool:
                strictly = [
                    one for one in lasting(await alerts()).values() if one[-1]["data"]["release"] == strict.name
                ]
                return len(strictly) == 2 * PRODUCTS // 3

            await until([second, third], decided)
            await until([second, third], lambda: caught_up(cluster))
            by_product = lasting(await alerts())
            assert sum((await end_offsets(kafka.bootstrap, names.scores)).values()) == PRODUCTS

            await promote(settings, Checked(kept.publish(lenient), 0), by="test", reason="too many")

            async def back() -> bool:
                last = [one[-1]["type"] for one in lasting(await alerts()).values()]
                return sum(one.endswith("resolved") for one in last) == PRODUCTS // 3

            await until([second, third], back)
            await until([second, third], lambda: caught_up(cluster))
            finally_ = lasting(await alerts())
    for number in range(PRODUCTS):
        told = [one["type"].rpartition(".")[2] for one in by_product.get(f"p{number}", [])]
        assert told == (["opened"] if number % 3 == 1 else ["opened", "updated"] if number % 3 == 2 else [])
    for product, history in finally_.items():
        assert history[: len(by_product[product])] == by_product[product]
        told = [one["type"].rpartition(".")[2] for one in history[len(by_product[product]) :]]
        assert told == (["resolved"] if int(product[1:]) % 3 == 1 else ["updated"])
        assert all(after["time"] >= before["time"] for before, after in pairwise(history))
    assert releases.read_manifest(lenient).threshold == LENIENT
