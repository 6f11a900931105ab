"""A scorer, a label worker and a drift watcher under the demo's traffic, scraped by a real Prometheus.

    python -m tests.deploy.scraped docs/images/prometheus.png      its graphs, photographed by a headless Chromium

The picture needs Debian's packages `prometheus` (its pages) and `chromium`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import aiohttp
from rich.console import Console

from streamer.demo.cluster import run_cluster
from streamer.demo.images import ImageHost
from streamer.demo.pictures import write_pictures
from streamer.demo.products import rendered_catalogue
from streamer.demo.traffic import plan
from streamer.demo.worker import running_worker, settings_variables
from streamer.outbox import producer
from streamer.settings import DriftSettings, EvidenceSettings, FetchSettings, LabelSettings, ReleaseSettings
from tests.deploy.rendering import find
from tests.prometheus import running_prometheus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from streamer.demo.cluster import Cluster
    from streamer.demo.traffic import PlannedEvent
    from streamer.demo.worker import Worker
    from tests.prometheus import Prometheus

GRAPHS = (
    "sum by (outcome) (rate(streamer_events_total[1m]))",
    "histogram_quantile(0.99, sum by (le) (rate(streamer_event_latency_seconds_bucket[1m])))",
    "sum by (topic) (streamer_lag_events)",
)
EVENTS, PRODUCTS, PER_S = 6000, 2000, 40.0


@dataclass(frozen=True)
class Scraped:
    """What runs; `events` are planned, and not published yet."""

    prometheus: Prometheus
    workers: dict[str, Worker]
    session: aiohttp.ClientSession
    cluster: Cluster
    events: Sequence[PlannedEvent]

    async def publish(self, events: Sequence[PlannedEvent], per_s: float | None = None) -> None:
        """Publish some of them, at a rate or at once."""
        async with producer(self.cluster.broker) as kafka:
            for event in events:
                await kafka.send(self.cluster.names.updates, event.value, key=event.key)
                await asyncio.sleep(1 / per_s if per_s else 0)
            await kafka.flush()


@asynccontextmanager
async def scraped(folder: Path, *, events: int, products: int) -> AsyncIterator[Scraped]:
    """Yield a Prometheus that scrapes the workers, which are ready."""
    catalogue = rendered_catalogue(count=products, seed=5)
    async with AsyncExitStack() as stack:
        host = stack.enter_context(ImageHost(folder))
        cluster = await stack.enter_async_context(run_cluster(None, Console(file=StringIO())))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        start = partial(_running, cluster, host, folder)
        workers = {command: stack.enter_context(start(command)) for command in ("score", "labels", "drift")}
        planned = plan(catalogue.products, events=events, seed=5, image_url=host.url)
        await write_pictures(catalogue, planned, folder, Console(file=StringIO()))
        for worker in workers.values():
            await worker.wait_until_ready(session)
        jobs = {command: worker.url.removeprefix("http://") for command, worker in workers.items()}
        rules = find("cpu", "PrometheusRule")["spec"]
        prometheus = stack.enter_context(running_prometheus(jobs, rules, folder, session))
        await prometheus.until_started()
        yield Scraped(prometheus, workers, session, cluster, planned)


def _running(cluster: Cluster, host: ImageHost, folder: Path, command: str) -> Any:  # noqa: ANN401 - a context manager
    sections = {
        "broker": cluster.broker,
        "topics": cluster.names,
        "fetch": FetchSettings(allow_hosts=(host.address,), backoff_s=0.05),
        "evidence": EvidenceSettings(store=str(folder / "evidence"), audit_share=0.2),
        "releases": ReleaseSettings(store=str(folder / "releases")),
        "labels": LabelSettings(dataset=str(folder / "dataset")),
        "drift": DriftSettings(window=40, least=10, check_every_s=0.5),
    }
    return running_worker(settings_variables(sections), folder / f"{command}.log", command=command)


async def _photograph(picture: Path) -> None:
    with TemporaryDirectory() as folder:
        async with scraped(Path(folder), events=EVENTS, products=PRODUCTS) as running:
            await running.publish(running.events, PER_S)
            fields = {f"g{n}.{k}": v for n, expr in enumerate(GRAPHS) for k, v in _graph(expr).items()}
            url = f"{running.prometheus.url}/graph?{urlencode(fields)}"
            command = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1300,2320"]
            command += ["--virtual-time-budget=15000", f"--screenshot={picture}", url]
            await asyncio.to_thread(subprocess.run, command, check=True, timeout=120)


def _graph(expr: str) -> dict[str, str]:
    return {"expr": expr, "tab": "0", "stacked": "0", "range_input": "3m"}


if __name__ == "__main__":
    asyncio.run(_photograph(Path(sys.argv[1]).absolute()))
