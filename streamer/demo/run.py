"""`streamer demo`, top to bottom: broker, image host, worker, catalogue, traffic, outcomes, verdict, report."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
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
from streamer.demo.broker import EmbeddedBroker
from streamer.demo.display import Progress, show
from streamer.demo.evaluation import Evaluation
from streamer.demo.images import ImageHost
from streamer.demo.metrics import read_metrics
from streamer.demo.observe import Ledger, observe
from streamer.demo.pictures import write_pictures
from streamer.demo.products import difference, folder_catalogue, rendered_catalogue
from streamer.demo.publish import MAX_OUTSTANDING, STALL_S, publish
from streamer.demo.report import Report
from streamer.demo.traffic import plan
from streamer.demo.worker import scoring_worker, settings_variables
from streamer.errors import StreamerError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from streamer.demo.evaluation import PublishedEvent
    from streamer.demo.observe import SeenAlert
    from streamer.demo.products import DemoCatalogue
    from streamer.demo.traffic import PlannedEvent
    from streamer.demo.worker import Worker
    from streamer.settings import BrokerSettings, TopicSettings

MAX_RENDERED = 2_000
"""Products drawn at most: a longer demo sends them again, which costs no inference (`unchanged`)."""
PARTITIONS = 4
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
class _Cluster:
    """The broker, and the topics and group that belong to this run alone."""

    broker: BrokerSettings
    names: TopicSettings
    description: str


@dataclass(frozen=True, kw_only=True)
class _Started:
    """What runs once everything has started."""

    console: Console
    cluster: _Cluster
    worker: Worker
    session: aiohttp.ClientSession


def run_demo(options: DemoOptions) -> int:
    """Run the whole demo; return 0 when outcomes add up and alerts are complete, 1 when not, 2 when it cannot start."""
    started_ms = time.time_ns() // 1_000_000
    console = Console(stderr=options.json, highlight=False)
    try:
        return asyncio.run(_demo(options, console, started_ms))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("\nstopped; the broker, the image host and the worker are gone")
        return INTERRUPTED
    except (StreamerError, EngineError, KafkaError, ValueError, OSError) as error:
        console.print(f"[bold red]the demo did not start:[/bold red] {escape(str(error))}")
        return NOT_STARTED


async def _demo(options: DemoOptions, console: Console, started_ms: int) -> int:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _cancel_current())
    async with AsyncExitStack() as stack:
        pictures = Path(stack.enter_context(TemporaryDirectory(prefix="streamer-demo-")))
        options.report.mkdir(parents=True, exist_ok=True)
        cluster = await _cluster(options, stack)
        host = stack.enter_context(ImageHost(pictures))
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)))
        variables = _worker_variables(options, cluster, host.base_url)
        worker = stack.enter_context(scoring_worker(variables, options.report / "worker.log"))

        async def prepare() -> tuple[DemoCatalogue, list[PlannedEvent]]:
            catalogue = await asyncio.to_thread(_catalogue, options)
            planned = plan(catalogue.products, events=options.events, seed=options.seed, base_url=host.base_url)
            await write_pictures(catalogue, planned, pictures, console)
            return catalogue, planned

        (catalogue, planned), ready_s = await asyncio.gather(prepare(), worker.wait_until_ready(session))
        try:
            started = _Started(console=console, cluster=cluster, worker=worker, session=session)
            published, ledger = await _traffic(started, catalogue, planned, options.rate)
        except (StreamerError, KafkaError) as error:
            console.print(f"[bold red]the demo failed:[/bold red] {escape(str(error))}")
            return FAILED
        evaluation = Evaluation(published, ledger)
        facts = summary.RunFacts(
            options=_option_words(options),
            catalogue=catalogue.name,
            broker=cluster.description,
            seed=options.seed,
            ready_s=ready_s,
            started_ms=started_ms,
        )
        products = {product.id: product for product in catalogue.products}
        page = Report(evaluation, products, pictures, facts).write(options.report)
    console.print(summary.tables(evaluation, facts, page))
    if options.json:
        print(orjson.dumps(summary.as_json(evaluation, facts)).decode())  # noqa: T201 - the command's result
    return 0 if evaluation.adds_up and evaluation.alerts_complete else FAILED


# -- the parts, in the order of their start


async def _cluster(options: DemoOptions, stack: AsyncExitStack) -> _Cluster:
    """Return a broker with this run's topics: embedded, or the user's own, where nothing else is touched."""
    if options.bootstrap is None:
        embedded = stack.enter_context(EmbeddedBroker())
        broker = settings.BrokerSettings(bootstrap=embedded.bootstrap, session_timeout_s=3.0, heartbeat_interval_s=0.7)
        cluster = _Cluster(
            broker=broker, names=settings.TopicSettings(partitions=PARTITIONS), description="embedded broker"
        )
    else:
        run = f"demo-{uuid.uuid4().hex[:8]}"
        broker, names = _own_kafka(options.bootstrap, run)
        cluster = _Cluster(broker=broker, names=names, description=f"Kafka at {options.bootstrap}")
        stack.push_async_callback(_delete_topics, broker, run)
    await topics.create(cluster.broker, topics.specs(cluster.names))
    return cluster


def _own_kafka(bootstrap: str, run: str) -> tuple[BrokerSettings, TopicSettings]:
    """Return the user's settings with names that only this run uses."""
    given = settings.load()
    broker = given.broker.model_copy(
        update={
            "bootstrap": bootstrap,
            "group": f"{given.broker.group}-{run}",
            "session_timeout_s": 6.0,  # Kafka's own least
            "heartbeat_interval_s": 1.5,
        }
    )
    roles = ("updates", "scores", "alerts", "dead_letters")
    renamed = {role: f"{getattr(given.topics, role)}-{run}" for role in roles}
    return broker, given.topics.model_copy(update=renamed | {"partitions": PARTITIONS})


async def _delete_topics(broker: BrokerSettings, run: str) -> None:
    async with topics.admin(broker) as client:
        await client.delete_topics([name for name in await topics.describe(client) if run in name])


def _worker_variables(options: DemoOptions, cluster: _Cluster, base_url: str) -> dict[str, str]:
    return settings_variables(
        {
            "broker": cluster.broker,
            "topics": cluster.names,
            "fetch": settings.FetchSettings(allow_hosts=(base_url.removeprefix("http://"),)),
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
        explain=_explainer(catalogue, planned),
    )
    names, client = started.cluster.names, topics.client_kwargs(started.cluster.broker)
    async with _background(observe(ledger, names, client), _watch(started, progress), show(progress, started.console)):
        progress.phase = "publishing"
        published = await publish(
            planned, topic=names.updates, client=client, rate=rate, room=room, on_published=progress.add_published
        )
        progress.phase = "all published; waiting for the last outcomes"
        await _until(lambda: len(ledger.outcomes) >= len(planned), progress=lambda: len(ledger.outcomes))
        progress.phase = "every event has its outcome; waiting for the last alerts"
        await _until(lambda: not ledger.awaited_alerts, progress=lambda: len(ledger.alerts))
        await asyncio.sleep(ALERT_QUIET_S)
        progress.phase = "done"
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


def _explainer(catalogue: DemoCatalogue, planned: list[PlannedEvent]) -> Callable[[SeenAlert], str]:
    """Return a function that says what is really the case with the event behind an alert."""
    products = {product.id: product for product in catalogue.products}
    truths = {(e.truth.product_id, e.truth.order): e.truth for e in reversed(planned)}

    def explain(alert: SeenAlert) -> str:
        if alert.transition == "resolved":
            return "the product was deleted" if alert.reason == "deleted" else "the picture was put right"
        truth = truths.get((alert.product_id, alert.order))
        if truth is None or not truth.swapped or truth.shown_id is None:
            return "false alarm: the picture is right"
        wrong = difference(products[truth.product_id], products[truth.shown_id])
        return f"{wrong.attribute}: says {wrong.says}, shows {wrong.shows}"

    return explain


@asynccontextmanager
async def _background(*work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Run endless work beside the block; the first error of either ends both and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
            yield
            for task in tasks:
                task.cancel()
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
