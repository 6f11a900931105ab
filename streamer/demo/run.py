"""`streamer demo`, top to bottom: broker, image host, worker, catalogue, traffic, outcomes, verdict, report."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.markup import escape

from engines.errors import EngineError
from streamer import settings, topics
from streamer.demo import summary
from streamer.demo.attribution import heat_maps
from streamer.demo.cluster import run_cluster
from streamer.demo.display import Progress, explainer, show
from streamer.demo.evaluation import Evaluation
from streamer.demo.images import ImageHost
from streamer.demo.metrics import read_metrics
from streamer.demo.observe import Ledger, observe
from streamer.demo.pictures import write_pictures
from streamer.demo.products import folder_catalogue, rendered_catalogue
from streamer.demo.publish import MAX_OUTSTANDING, STALL_S, publish
from streamer.demo.report import Report
from streamer.demo.traffic import plan
from streamer.demo.worker import running_worker, settings_variables
from streamer.errors import StreamerError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from streamer.demo.cluster import Cluster
    from streamer.demo.evaluation import PublishedEvent
    from streamer.demo.products import DemoCatalogue
    from streamer.demo.traffic import PlannedEvent
    from streamer.demo.worker import Worker

MAX_RENDERED = 2_000
"""Products drawn at most: a longer demo sends them again, which costs no inference (`unchanged`)."""
ALERT_QUIET_S = 0.5
"""After the last expected alert, how long to listen for ones that nobody expects."""
READ_INTERVAL_S = 0.25
_POLL_S = 0.05

FAILED, NOT_STARTED, INTERRUPTED = 1, 2, 130


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the command line says. `rate` in events per second; None is as fast as the worker takes them."""

    events: int = 1000
    rate: float | None = None
    seed: int = 1
    json: bool = False
    catalog: Path | None = None
    release: Path | None = None
    bootstrap: str | None = None
    report: Path = Path("demo-report")


@dataclass(frozen=True, kw_only=True)
class _Started:
    """What runs once everything has started."""

    console: Console
    cluster: Cluster
    worker: Worker
    session: aiohttp.ClientSession


def run_demo(options: DemoOptions) -> int:
    """Run the whole demo; return 0 when outcomes add up and alerts are complete, 1 when not, 2 when it cannot start."""
    started_ms = time.time_ns() // 1_000_000
    console = Console(stderr=options.json, highlight=False)
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())  # its warnings would tear the live screen
    try:
        return asyncio.run(_demo(options, console, started_ms))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("\nstopped; the broker, the image host and the worker are gone")
        return INTERRUPTED
    except (StreamerError, EngineError, KafkaError, ValueError, OSError) as error:
        console.print(f"[bold red]the demo cannot run:[/bold red] {escape(str(error))}")
        return NOT_STARTED


async def _demo(options: DemoOptions, console: Console, started_ms: int) -> int:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _cancel_current())
    async with AsyncExitStack() as stack:
        pictures = Path(stack.enter_context(TemporaryDirectory(prefix="streamer-demo-")))
        options.report.mkdir(parents=True, exist_ok=True)
        cluster = await stack.enter_async_context(run_cluster(options.bootstrap, console))
        host = stack.enter_context(ImageHost(pictures))
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)))
        variables = _worker_variables(options, cluster, host.address)
        worker = stack.enter_context(running_worker(variables, options.report / "worker.log"))

        async with _together() as group:
            starting = group.create_task(worker.wait_until_ready(session))
            catalogue = await asyncio.to_thread(_catalogue, options)
            planned = plan(catalogue.products, events=options.events, seed=options.seed, image_url=host.url)
            await write_pictures(catalogue, planned, pictures, console)
        ready_s = starting.result()
        try:
            started = _Started(console=console, cluster=cluster, worker=worker, session=session)
            published, ledger = await _traffic(started, catalogue, planned, options.rate)
        except (StreamerError, KafkaError) as error:
            console.print(f"[bold red]the demo failed:[/bold red] {escape(str(error))}")
            return FAILED
        facts = summary.RunFacts(
            options=_option_words(options),
            catalogue=catalogue.name,
            broker=cluster.description,
            seed=options.seed,
            ready_s=ready_s,
            started_ms=started_ms,
        )
        evaluation = Evaluation(published, ledger)
        products = {product.id: product for product in catalogue.products}
        heat = await asyncio.to_thread(
            heat_maps, evaluation, products, pictures, release=options.release, console=console
        )
        page = Report(evaluation, products, pictures, facts, heat).write(options.report)
        console.print(summary.tables(evaluation, facts, page))
        if options.json:
            print(orjson.dumps(summary.as_json(evaluation, facts)).decode(), flush=True)  # noqa: T201 - the result
        return 0 if evaluation.adds_up and evaluation.alerts_complete else FAILED


# -- the parts, in the order of their start


def _worker_variables(options: DemoOptions, cluster: Cluster, image_host: str) -> dict[str, str]:
    return settings_variables(
        {
            "broker": cluster.broker,
            "topics": cluster.names,
            "fetch": settings.FetchSettings(allow_hosts=(image_host,)),
            "engine": settings.EngineSettings(release=options.release and options.release.resolve()),
            "pipeline": settings.PipelineSettings(),
            "state": settings.StateSettings(),
            "telemetry": settings.TelemetrySettings(),
        }
    )


def _catalogue(options: DemoOptions) -> DemoCatalogue:
    if options.catalog is not None:
        return folder_catalogue(options.catalog, count=options.events, seed=options.seed)
    return rendered_catalogue(count=min(max(options.events, 2), MAX_RENDERED), seed=options.seed)


async def _traffic(
    started: _Started, catalogue: DemoCatalogue, planned: list[PlannedEvent], rate: float | None
) -> tuple[list[PublishedEvent], Ledger]:
    """Publish everything and wait for all that it leads to, on the screen meanwhile."""
    room = asyncio.Semaphore(MAX_OUTSTANDING)
    ledger = Ledger(on_outcome=room.release)
    progress = Progress(
        headline=f"{catalogue.name} · {started.cluster.description}",
        events=len(planned),
        ledger=ledger,
        explain=explainer(catalogue.products, planned),
    )
    names, client = started.cluster.names, topics.client_kwargs(started.cluster.broker)
    async with _background(observe(ledger, names, client), _watch(started, progress), show(progress, started.console)):
        progress.phase = "publishing"
        published = await publish(
            planned,
            topic=names.updates,
            client=client,
            idempotent=started.cluster.has_producer_ids,
            rate=rate,
            room=room,
            on_published=progress.add_published,
        )
        progress.phase = "all published; waiting for the last outcomes"
        await _until(lambda: len(ledger.outcomes) >= len(planned), progress=lambda: len(ledger.outcomes))
        progress.finish()
        await _until(lambda: not ledger.awaited_alerts, progress=lambda: len(ledger.alerts))
        await asyncio.sleep(ALERT_QUIET_S)
    return published, ledger


async def _watch(started: _Started, progress: Progress) -> None:
    """Read the worker's metrics a few times a second; raise when it has ended."""
    while True:
        started.worker.check()
        # A busy worker may answer late; the next reading makes up for it.
        with suppress(aiohttp.ClientError, TimeoutError):
            progress.add_reading(await read_metrics(started.session, f"{started.worker.url}/metrics"))
        await asyncio.sleep(READ_INTERVAL_S)


async def _until(done: Callable[[], bool], *, progress: Callable[[], int]) -> None:
    """Return when `done`, or when `progress` has not changed for `STALL_S`: the summary then says what is missing."""
    last, changed_s = progress(), time.monotonic()
    while not done() and time.monotonic() - changed_s < STALL_S:
        await asyncio.sleep(_POLL_S)
        if progress() != last:
            last, changed_s = progress(), time.monotonic()


@asynccontextmanager
async def _background(*work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Run endless work beside the block."""
    async with _together() as group:
        tasks = [group.create_task(coroutine) for coroutine in work]
        yield
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def _together() -> AsyncGenerator[asyncio.TaskGroup]:
    """Give a task group whose first error ends all of it and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise _first(errors) from errors


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _cancel_current() -> Callable[[], Any]:
    task = asyncio.current_task()
    assert task is not None
    return task.cancel


def _option_words(options: DemoOptions) -> list[str]:
    """Return the options that repeat this run."""
    words = ["--events", str(options.events), "--seed", str(options.seed)]
    for name, value in (("--rate", options.rate), ("--catalog", options.catalog), ("--release", options.release)):
        words += [name, str(value)] if value is not None else []
    return words
