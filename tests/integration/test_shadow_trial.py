"""A challenger is tried by a real worker on a real Kafka, compared by the command, and promoted."""

from __future__ import annotations

import asyncio
import os
import sys
from io import StringIO
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest
from rich.console import Console

from engines.store import ReleaseStore
from streamer.demo.cluster import run_cluster
from streamer.demo.images import ImageHost
from streamer.demo.worker import running_worker, settings_variables
from streamer.outbox import producer
from streamer.promotion import Checked, promote
from streamer.settings import EngineSettings, FetchSettings, ReleaseSettings, Settings, StateSettings
from streamer.shadow_events import is_shadowed
from tests import tiny_release
from tests.brokers import read_all, read_count
from tests.fakes import png

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import Kafka

PRODUCTS = 200
SHARE = 0.25
TITLES = ("mug", "blue shoe red")
CHAMPION, CHALLENGER = -2.5, -0.5  # biases: the champion alerts on the second title, the challenger on both


async def run(environment: dict[str, str], *arguments: str) -> bytes:
    """Run `streamer releases …`; return what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamer.cli", "releases", *arguments),
        env={**os.environ, **environment, "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    return out


async def line_of(session: aiohttp.ClientSession, url: str, line: str) -> None:
    """Return when the worker's metrics have a line that begins so."""
    async with asyncio.timeout(60):
        while True:
            async with session.get(f"{url}/metrics") as response:
                if any(one.startswith(line) for one in (await response.text()).splitlines()):
                    return
            await asyncio.sleep(0.05)


async def test_challenger_is_tried_compared_and_promoted(kafka: Kafka, tmp_path: Path) -> None:
    """It scores its share and alerts nobody; the command says which alerts would open; once it runs, the trial ends."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.png").write_bytes(png(0))
    champion = tiny_release.write(tmp_path / "made", bias=CHAMPION)
    challenger = tiny_release.write(tmp_path / "made", bias=CHALLENGER, size=6)
    store = ReleaseStore(str(tmp_path / "store"))
    with ImageHost(tmp_path / "pictures") as host:
        async with (
            run_cluster(kafka.bootstrap, Console(file=StringIO())) as cluster,
            aiohttp.ClientSession() as session,
        ):
            names = cluster.names
            settings = Settings(
                broker=cluster.broker,
                topics=names,
                fetch=FetchSettings(allow_hosts=(host.address,)),
                engine=EngineSettings(release=champion),
                releases=ReleaseSettings(store=str(tmp_path / "store"), retry_s=0.2),
                state=StateSettings(directory=tmp_path / "state"),
            )
            environment = settings_variables(
                {part: getattr(settings, part) for part in Settings.model_fields if part != "telemetry"}
            )
            with running_worker(environment, tmp_path / "worker.log") as worker:
                await worker.wait_until_ready(session)
                await run(environment, "shadow", str(challenger), "--share", str(SHARE), "--reason", "new readers")
                await line_of(session, worker.url, f'streamer_shadow_info{{release="{challenger.name}"')
                async with producer(cluster.broker) as sender:
                    for number in range(PRODUCTS):
                        update = {"id": f"p{number}", "version": 1, "title": f"{TITLES[number % 2]} number{number}"}
                        update |= {"image_link": f"http://{host.address}/one.png", "product_type": f"C{number % 2}"}
                        await sender.send(names.updates, orjson.dumps(update), key=f"p{number}".encode())
                        await asyncio.sleep(0.005)  # slower than the challenger, which has room for few
                chosen = {f"p{number}" for number in range(PRODUCTS) if is_shadowed(f"p{number}", SHARE)}
                scores = await read_count(kafka.bootstrap, names.scores, PRODUCTS)
                assert {orjson.loads(one.value or b"")["release"] for one in scores} == {champion.name}
                compared = await read_count(kafka.bootstrap, names.shadow_scores, len(chosen))
                assert {(one.key or b"").decode() for one in compared} == chosen

                (table,) = [orjson.loads(await run(environment, "compare", "--json"))]
                _check(table, champion.name, challenger.name, chosen)
                await run(environment, "compare", challenger.name, "--plot", str(tmp_path / "shadow.png"))
                assert (tmp_path / "shadow.png").read_bytes().startswith(b"\x89PNG")
                assert b"tried on 0.25" in await run(environment, "list")
                alerts = [orjson.loads(one.value or b"") for one in await read_all(kafka.bootstrap, names.alerts)]
                assert {alert["subject"] for alert in alerts} == {f"p{number}" for number in range(1, PRODUCTS, 2)}

                await promote(settings, Checked(store.read(challenger.name), 3), by="test", reason=None)
                await line_of(session, worker.url, "streamer_engine_swaps_total 1.0")
                assert b"ended the trial" in await run(environment, "shadow", "--end")
    log = (tmp_path / "worker.log").read_text()
    assert log.count('"shadow.began"') == log.count('"shadow.ended"') == 1
    assert log.index('"shadow.ended"') < log.index('"engine.swapped"')


def _check(told: dict[str, Any], champion: str, challenger: str, chosen: set[str]) -> None:
    odd = sum(int(product[1:]) % 2 for product in chosen)
    assert (told["champion"], told["challenger"], told["products"]) == (champion, challenger, len(chosen))
    assert (told["both"], told["opens"], told["closes"], told["neither"]) == (odd, len(chosen) - odd, 0, 0)
    assert told["spearman"] == pytest.approx(1.0)
    assert told["categories"]["C1"]["both"] == odd
