"""Does the engine ever wait for the host? The engine alone against the whole pipeline, from Kafka to Kafka.

    python benchmarks/pipeline.py                       the shipped CPU engine, a simulated accelerator, costs by stage
    python benchmarks/pipeline.py --only accelerator --bootstrap HOST:PORT    on a Kafka of yours

(a) is the engine on ready batches of its largest size; (b) is a real worker in this process: updates wait in Kafka, it
fetches their pictures over HTTP, scores them and publishes scores and alerts. Both run in this one process, one after
the other, repeated in turn; the ratio (b)/(a) of each turn is what counts, since machines drift. Both are pairs that
the engine answered a second: (b) has more of them than events, since an alert is explained by further pairs. Broker
and image host are child processes on the same cores. Throughput is taken between the first and the last tenth of the
events.

The simulated accelerator takes 100 ms for up to 64 pairs and waits off the GIL, as a GPU does: it shows whether the
host could feed one, and says nothing of a real GPU's numbers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import numpy as np
import orjson
import structlog
import typer
import uvloop
from rich.console import Console
from rich.progress import track
from rich.table import Table

from engines.catalogs.rendered import jpeg, render_catalog
from engines.contract import Batch
from engines.image import decode
from engines.inference import infer_all
from engines.runtime import loader
from engines.text import compose
from streamer import topics
from streamer.demo.broker import EmbeddedBroker
from streamer.demo.images import ImageHost
from streamer.fetch import Fetched, Fetcher
from streamer.outbox import Outbox
from streamer.scorer import Scorer
from streamer.settings import Settings
from streamer.updates import parse_update, text_digest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from numpy.typing import NDArray

    from engines.contract import Engine, Manifest

T = TypeVar("T")

console = Console(stderr=True)

ACCELERATOR_BATCH, ACCELERATOR_S = 64, 0.1
TARGETS = {"cpu": 0.85, "accelerator": 0.95}
ALONE_S = 6.0
WARM_UP_SHARE = 0.1
DISTURBED, MAX_DISTURBED = 1.15, 6


class SimulatedAccelerator:
    """Takes a batch's time off the GIL, as a GPU does; every pair is a match.

    Like a GPU's stream it computes one batch after the other, and begins a batch that was handed to it in time at the
    moment when the one before it ends.
    """

    device = "simulated accelerator"
    concurrency = 2

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = msgspec.structs.replace(manifest, max_batch=ACCELERATOR_BATCH)
        self._free_at = 0.0
        self._handing = threading.Lock()

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        with self._handing:
            self._free_at = max(self._free_at, time.perf_counter()) + ACCELERATOR_S
            done_at = self._free_at
        time.sleep(max(0.0, done_at - time.perf_counter()))
        return np.full(len(batch), -5.0, np.float32)

    def close(self) -> None:
        pass


@dataclass
class Site:
    """What both ways share: a broker, an image host, products with pictures of their own."""

    release: Path | None
    bootstrap: str
    host: ImageHost
    manifest: Manifest
    updates: list[bytes]
    pictures: list[bytes]
    pace_s: float  # of a fixed piece of work, when nothing disturbs the machine


@dataclass
class Turn:
    """One (a) and one (b).

    alone, pipeline: pairs/s. events: events/s of (b). cpu_ms: CPU of this process per event of (b). batch_size: of (b),
    the mean.
    """

    alone: float
    pipeline: float
    events: float
    cpu_ms: float
    batch_size: float

    @property
    def ratio(self) -> float:
        return self.pipeline / self.alone


def alone(engine: Engine, site: Site, seconds: float) -> float:
    """Return pairs/s of the engine on ready batches, as many at the same time as it runs best."""
    manifest = engine.manifest
    pictures = [site.pictures[i % len(site.pictures)] for i in range(manifest.max_batch)]
    pixels = np.stack([decode(picture, manifest.image, max_pixels=10**8) for picture in pictures])
    fields = parse_update(None, site.updates[0]).text_fields()
    ids, mask = loader.load_tokenizer(site.release).encode([compose(fields, manifest.text)] * manifest.max_batch)
    batch = Batch(pixels, ids, mask)
    engine.infer(batch)
    started = time.perf_counter()
    ready = iter(lambda: batch if time.perf_counter() - started < seconds else None, None)
    pairs = sum(map(len, infer_all(engine, ready)))
    return pairs / (time.perf_counter() - started)


async def whole(engine: Engine, site: Site, run: str) -> tuple[float, float, float, float]:
    """Return (pairs/s, events/s, this process's CPU milliseconds per event, mean batch) of a worker on a full topic."""
    settings = _settings(site, run)
    await topics.create(settings.broker, topics.specs(settings.topics))
    await _publish(settings, site.updates)
    scorer = Scorer(settings, engine=engine)
    worker = asyncio.create_task(scorer.run())
    total = len(site.updates)
    first, last = int(total * WARM_UP_SHARE), int(total * (1 - WARM_UP_SHARE))
    at_first = await _reached(scorer, first, worker)
    at_last = await _reached(scorer, last, worker)
    done = at_last.outcomes - at_first.outcomes
    scorer.stop()
    await worker
    pairs, seconds = at_last.pairs - at_first.pairs, at_last.clock - at_first.clock
    cpu_ms = 1e3 * (at_last.cpu - at_first.cpu) / done
    return pairs / seconds, done / seconds, cpu_ms, pairs / (at_last.batches - at_first.batches)


@dataclass
class Mark:
    """Clocks and counters at one moment of a run, in seconds and events."""

    clock: float
    cpu: float
    outcomes: float
    batches: float
    pairs: float


async def _reached(scorer: Scorer, outcomes: int, worker: asyncio.Task[int]) -> Mark:
    """Return the clocks when the worker has recorded that many outcomes."""
    while True:
        samples = _samples(scorer)
        done = samples["streamer_events_total"]
        if done >= outcomes:
            pairs, batches = samples["streamer_batch_size_sum"], samples["streamer_batch_size_count"]
            return Mark(time.perf_counter(), time.process_time(), done, batches, pairs)
        if worker.done():
            worker.result()
            raise RuntimeError("the worker stopped early")
        await asyncio.sleep(0.5)  # reading the counters costs as much as a few events


def _samples(scorer: Scorer) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    for metric in scorer.telemetry.registry.collect():
        for sample in metric.samples:
            totals[sample.name] += sample.value
    return totals


def _settings(site: Site, run: str) -> Settings:
    names = {name: f"{run}-{name}" for name in ("updates", "scores", "alerts", "dead_letters")}
    return Settings.model_validate(
        {
            "broker": {"bootstrap": site.bootstrap, "group": run, "session_timeout_s": 3, "heartbeat_interval_s": 0.7},
            "topics": {**names, "partitions": 4},
            "fetch": {"allow_hosts": (site.host.address,)},
            "pipeline": {"max_in_flight": 512},
            "engine": {"release": site.release},
            "telemetry": {"port": 0, "log_level": "error"},
        }
    )


async def _publish(settings: Settings, updates: list[bytes]) -> None:
    async with Outbox(settings.broker) as outbox:
        for start in range(0, len(updates), 500):
            chunk = updates[start : start + 500]
            await asyncio.gather(
                *(outbox.send(settings.topics.updates, b"p%d" % (start + i), update) for i, update in enumerate(chunk))
            )


def _run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def turns(load: Callable[[], Engine], site: Site, count: int, name: str) -> Iterator[Turn]:
    """Run (a) and (b) in turn; the worker closes its engine, so each turn loads one.

    A machine that others use runs slower for minutes. A turn that it slowed is said and run again, up to
    `MAX_DISTURBED` times.
    """
    done = disturbed = 0
    while done < count:
        before = pace()
        engine = load()
        lone = alone(engine, site, ALONE_S)
        between = pace()
        turn = Turn(lone, *_run(whole(engine, site, f"{name}-{done + disturbed}")))
        slowest = max(before, between, pace()) / site.pace_s
        console.print(
            f"{name}: alone {lone:.0f} pairs/s, pipeline {turn.pipeline:.0f} pairs/s in {turn.events:.0f} events/s, "
            f"ratio {turn.ratio:.3f}, pace {slowest:.2f}"
        )
        if slowest > DISTURBED and disturbed < MAX_DISTURBED:
            disturbed += 1
            console.print(f"the machine ran {slowest:.2f} times slower than it can: this turn does not count")
            continue
        done += 1
        yield turn


def pace() -> float:
    """Return the seconds of a fixed piece of work: the best of three."""
    return min(_timed_loop() for _ in range(3))


def _timed_loop() -> float:
    started, total = time.perf_counter(), 0
    for number in range(1_000_000):
        total += number * number
    return time.perf_counter() - started


def stage_costs(site: Site, side: int, count: int, seed: int) -> dict[str, float]:
    """Return CPU milliseconds per event of each stage, run alone on this thread with pictures of `side` pixels."""
    manifest = site.manifest
    products = render_catalog(count, seed)
    pictures = [jpeg(product, side) for product in products]
    updates = site.updates[:count]
    tokenizer = loader.load_tokenizer(site.release)

    def text(i: int) -> str:
        return compose(parse_update(None, updates[i]).text_fields(), manifest.text)

    return {
        "parse": _cpu_ms(lambda i: text_digest(text(i)), count),
        "fetch": _fetch_cost(pictures),
        "decode": _cpu_ms(lambda i: decode(pictures[i], manifest.image, max_pixels=10**8), count),
        "parse + tokenise": _cpu_ms(lambda i: tokenizer.encode([text(i)]), count),
        "publish": _run(_publish_ms(site, updates)),
    }


def _cpu_ms(work: Callable[[int], object], count: int) -> float:
    started = time.process_time()
    for i in range(count):
        work(i)
    return 1e3 * (time.process_time() - started) / count


def _fetch_cost(pictures: list[bytes]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        for i, picture in enumerate(pictures):
            Path(folder, f"{i}.jpg").write_bytes(picture)
        with ImageHost(Path(folder)) as host:
            return _run(_fetch_ms(host, len(pictures)))


async def _fetch_ms(host: ImageHost, count: int) -> float:
    settings = Settings.model_validate({"fetch": {"allow_hosts": (host.address,)}}).fetch
    async with Fetcher(settings) as fetcher:
        return await _gathered_ms([partial(_fetched, fetcher, host.url(f"{i}.jpg")) for i in range(count)])


async def _fetched(fetcher: Fetcher, url: str) -> None:
    fetched = await fetcher.get(url)
    assert isinstance(fetched, Fetched)
    fetched.release()


async def _publish_ms(site: Site, updates: list[bytes]) -> float:
    settings = _settings(site, "stages")
    await topics.create(settings.broker, topics.specs(settings.topics))
    async with Outbox(settings.broker) as outbox:
        return await _gathered_ms([partial(outbox.send, "stages-scores", b"k", update) for update in updates])


async def _gathered_ms(work: list[Callable[[], Awaitable[Any]]]) -> float:
    await work[0]()
    started = time.process_time()
    await asyncio.gather(*(one() for one in work))
    return 1e3 * (time.process_time() - started) / len(work)


def _site(  # noqa: PLR0917 - the options as they come
    stack: ExitStack, release: Path | None, bootstrap: str | None, count: int, side: int, seed: int
) -> Site:
    root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    products = render_catalog(count, seed)
    pictures = [jpeg(product, side) for product in track(products, "drawing pictures", console=console)]
    for product, picture in zip(products, pictures, strict=True):
        (root / f"{product.id}.jpg").write_bytes(picture)
    host = stack.enter_context(ImageHost(root))
    broker = bootstrap or stack.enter_context(EmbeddedBroker()).bootstrap
    updates = [
        orjson.dumps({**product.fields, "id": product.id, "version": 1, "image_link": host.url(f"{product.id}.jpg")})
        for product in products
    ]
    engine = loader.load(release)
    return Site(release, broker, host, engine.manifest, updates, pictures, min(pace() for _ in range(10)))


def main(  # noqa: PLR0917 - typer's options
    events_count: Annotated[int, typer.Option("--events", help="Updates in the topic, each with a picture.")] = 4000,
    repeat: Annotated[int, typer.Option(help="Turns of each engine.")] = 3,
    side: Annotated[int, typer.Option(help="Pixels of the pictures.")] = 224,
    release: Annotated[Path | None, typer.Option(help="The one that ships when unset.")] = None,
    only: Annotated[str, typer.Option(help="cpu, accelerator or stages; all when empty.")] = "",
    bootstrap: Annotated[str | None, typer.Option(help="A Kafka of yours; the embedded broker when unset.")] = None,
    seed: Annotated[int, typer.Option()] = 77,
) -> None:
    """Measure how much of the engine's own speed the whole pipeline reaches, and what the host costs per event."""
    logging.getLogger().setLevel(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        site = _site(stack, release, bootstrap, events_count, side, seed)
        for name, target in TARGETS.items():
            if only in ("", name):
                load = partial(loader.load, release) if name == "cpu" else partial(SimulatedAccelerator, site.manifest)
                results[name] = _summary(list(turns(load, site, repeat, name)), target)
        if only in ("", "stages"):
            results["stages_ms"] = {pixels: stage_costs(site, pixels, 200, seed) for pixels in (224, 1200)}
    _print(results)
    print(json.dumps(results))


def _summary(measured: list[Turn], target: float) -> dict[str, Any]:
    def median(of: Callable[[Turn], float]) -> float:
        return round(statistics.median(of(turn) for turn in measured), 3)

    return {
        "alone_per_s": median(lambda turn: turn.alone),
        "pipeline_per_s": median(lambda turn: turn.pipeline),
        "events_per_s": median(lambda turn: turn.events),
        "ratio": median(lambda turn: turn.ratio),
        "ratios": [round(turn.ratio, 3) for turn in measured],
        "target": target,
        "process_cpu_ms_per_event": median(lambda turn: turn.cpu_ms),
        "mean_batch": median(lambda turn: turn.batch_size),
    }


def _print(results: dict[str, Any]) -> None:
    table = Table("pairs/s", "alone", "pipeline", "ratio", "target", "events/s", "CPU ms/event", "batch")
    for name in TARGETS:
        if one := results.get(name):
            rates = ("alone_per_s", "pipeline_per_s", "ratio", "target", "events_per_s")
            table.add_row(name, *(str(one[cell]) for cell in (*rates, "process_cpu_ms_per_event", "mean_batch")))
    console.print(table)
    if stages := results.get("stages_ms"):
        costs = Table(
            "picture", *next(iter(stages.values())), "sum", title="host CPU, milliseconds per event, by stage"
        )
        for pixels, stage in stages.items():
            costs.add_row(f"{pixels} px", *(f"{ms:.3f}" for ms in stage.values()), f"{sum(stage.values()):.3f}")
        console.print(costs)


if __name__ == "__main__":
    typer.run(main)
