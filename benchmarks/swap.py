"""What a swap, and a challenger in the shadow, cost the engine that runs: waits, pace and memory of a real worker.

    python benchmarks/swap.py --events 6000
    python benchmarks/swap.py --events 2000 --release DIR      another engine than the one that ships

A worker in this process takes a full topic; meanwhile releases are announced, whose only difference is a threshold, so
that loading and warming take what they take for any other. Then the last of them is tried as a challenger on a share of
the products. Printed, and as JSON on the last line: pairs/s without and with a shadow; how long pairs waited for the
engine, in batches, around swaps and otherwise; the longest time without a batch; memory. The worker, the image host and
the broker share the machine, so run it while nothing else does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import orjson
import structlog
import typer
import uvloop
from rich.console import Console
from rich.progress import track

from engines import releases
from engines.catalogs.rendered import jpeg, render_catalog
from engines.store import ReleaseStore
from streamer import topics
from streamer.announcements import announce, announce_shadow
from streamer.demo.broker import EmbeddedBroker
from streamer.demo.images import ImageHost
from streamer.events import EngineRelease
from streamer.outbox import Outbox
from streamer.scorer import Scorer
from streamer.settings import Settings
from streamer.shadow_events import ShadowRelease

if TYPE_CHECKING:
    from collections.abc import Callable

    from engines.store import Stored
    from streamer.batch import BatchReport

AROUND_S = 1.0
"""Before and after a swap: what is measured there is compared with the rest."""

SIDE = 224
PICTURES = 400

console = Console(stderr=True)


@dataclass
class Watched:
    """What a worker's telemetry is told, with the time of it, and when swaps happened."""

    batches: list[tuple[float, BatchReport]] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)
    swaps: list[float] = field(default_factory=list)

    def attach(self, scorer: Scorer) -> None:
        """Listen beside the worker's own telemetry."""
        telemetry: Any = scorer.telemetry
        batch, stage, swapped = telemetry.batch, telemetry.stage, telemetry.engine_swapped

        def heard_batch(report: BatchReport) -> None:
            self.batches.append((time.perf_counter(), report))
            batch(report)

        def heard_stage(name: str, seconds: float) -> None:
            if name == "queue":
                self.waits.append((time.perf_counter(), seconds))
            stage(name, seconds)

        def heard_swap() -> None:
            self.swaps.append(time.perf_counter())
            swapped()

        telemetry.batch, telemetry.stage, telemetry.engine_swapped = heard_batch, heard_stage, heard_swap

    def near(self, moment: float) -> bool:
        """Whether a swap is near."""
        return any(abs(moment - swap) < AROUND_S for swap in self.swaps)

    def pairs_per_s(self, since: float, until: float) -> float:
        """Return the engine's pace in that time."""
        return sum(report.size for at, report in self.batches if since <= at < until) / (until - since)


def resident_mb() -> float:
    """Return the memory of this process that is resident."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def variants(release: Path, folder: Path, count: int) -> list[Path]:
    """Write releases of one model that differ in their threshold."""
    manifest = releases.read_manifest(release)
    files = {name: release / name for name in manifest.files}
    return [
        releases.write_release(folder, msgspec.structs.replace(manifest, threshold=0.5 + 0.01 * number), files)
        for number in range(count)
    ]


async def until(so: Callable[[], bool], worker: asyncio.Task[int]) -> None:
    """Return when that is so; raise what ended the worker."""
    while not so():
        if worker.done():
            worker.result()
            raise RuntimeError("the worker stopped early")
        await asyncio.sleep(0.02)


async def measure(settings: Settings, updates: list[bytes], stored: list[Stored], share: float) -> dict[str, Any]:
    """Swap to each release but the first while the worker is busy, then try the first one in the shadow."""
    await topics.create(settings.broker, topics.specs(settings.topics))
    async with Outbox(settings.broker) as outbox:
        names = settings.topics
        for start in range(0, len(updates), 500):
            chunk = updates[start : start + 500]
            await asyncio.gather(
                *(outbox.send(names.updates, b"p%d" % (start + i), update) for i, update in enumerate(chunk))
            )
    scorer, watched = Scorer(settings), Watched()
    watched.attach(scorer)
    worker = asyncio.create_task(scorer.run())
    await until(lambda: len(watched.batches) > 50, worker)  # warm
    memory = {"before_mb": resident_mb(), "during_mb": 0.0}
    began = time.perf_counter()
    for one in stored[1:]:
        done = len(watched.swaps)
        await announce(settings.broker, names.releases, _announcement(one))
        while len(watched.swaps) == done:
            memory["during_mb"] = max(memory["during_mb"], resident_mb())
            await until(lambda: True, worker)
            await asyncio.sleep(0.02)
        await asyncio.sleep(2 * AROUND_S)
    swapping = watched.pairs_per_s(began, time.perf_counter())
    memory["after_mb"] = resident_mb()
    calm_since = time.perf_counter()
    await asyncio.sleep(5 * AROUND_S)
    calm = watched.pairs_per_s(calm_since, time.perf_counter())
    await announce_shadow(settings.broker, names.releases, _trial(stored[0], share))
    await until(lambda: _shadowed(scorer) > 0, worker)  # what was in flight has no picture held for the challenger
    shadow_since = time.perf_counter()
    await asyncio.sleep(5 * AROUND_S)
    shadowed = watched.pairs_per_s(shadow_since, time.perf_counter())
    result = (
        _summary(watched)
        | memory
        | {
            "pairs_per_s": {"around swaps": swapping, "calm": calm, "with a shadow": shadowed},
            "shadow_compared": _sample(scorer, "streamer_shadow_compared_total"),
            "shadow_skipped": _sample(scorer, "streamer_shadow_skipped_total"),
            "left_in_topic": len(updates) - _sample(scorer, "streamer_events_total"),
        }
    )
    scorer.stop()
    await worker
    return result


def _summary(watched: Watched) -> dict[str, Any]:
    batch_s = statistics.median(report.infer_s for _, report in watched.batches)
    ends = [at for at, _ in watched.batches]
    silences = {True: [0.0], False: [0.0]}
    for before, after in pairwise(ends):
        silences[watched.near(after)].append(after - before)
    waits = {near: np.array([s for at, s in watched.waits if watched.near(at) is near]) for near in (True, False)}
    return {
        "swaps": len(watched.swaps),
        "batch_ms": 1e3 * batch_s,
        "wait_in_batches": {
            name: {
                "median": float(np.median(waits[near]) / batch_s),
                "p99": float(np.quantile(waits[near], 0.99) / batch_s),
            }
            for name, near in (("around swaps", True), ("otherwise", False))
        },
        "longest_silence_in_batches": {
            name: max(silences[near]) / batch_s for name, near in (("around swaps", True), ("otherwise", False))
        },
    }


def _shadowed(scorer: Scorer) -> float:
    """Return how many products the challenger was offered, and is done with."""
    return sum(_sample(scorer, f"streamer_shadow_{what}_total") for what in ("compared", "skipped"))


def _sample(scorer: Scorer, name: str) -> float:
    found = (sample for metric in scorer.telemetry.registry.collect() for sample in metric.samples)
    return sum(sample.value for sample in found if sample.name == name)


def _announcement(stored: Stored) -> EngineRelease:
    return EngineRelease(
        release=stored.manifest.release,
        manifest_sha256=stored.manifest_sha256,
        action="promoted",
        replaces=None,
        previous=None,
        announced_at=datetime.now(UTC),
        announced_by="benchmark",
    )


def _trial(stored: Stored, share: float) -> ShadowRelease:
    return ShadowRelease(
        release=stored.manifest.release,
        manifest_sha256=stored.manifest_sha256,
        share=share,
        announced_at=datetime.now(UTC),
        announced_by="benchmark",
    )


def main(
    events: Annotated[int, typer.Option(help="Updates in the topic; enough for some 30 s of work.")] = 6000,
    swaps: Annotated[int, typer.Option(help="Releases that are announced one after the other.")] = 4,
    share: Annotated[float, typer.Option(help="Of the products, for the challenger.")] = 0.1,
    seed: Annotated[int, typer.Option()] = 77,
    release: Annotated[Path | None, typer.Option(help="Directory; the one that ships if left out.")] = None,
) -> None:
    """Measure what swaps and a shadow cost the engine that runs."""
    logging.getLogger().setLevel(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (root / "pictures").mkdir()
        products = render_catalog(PICTURES, seed)
        for product in track(products, "drawing pictures", console=console):
            (root / "pictures" / f"{product.id}.jpg").write_bytes(jpeg(product, SIDE))
        host = stack.enter_context(ImageHost(root / "pictures"))
        broker = stack.enter_context(EmbeddedBroker())
        updates = [
            orjson.dumps(
                {
                    **products[number % PICTURES].fields,
                    "id": f"p{number}",
                    "version": 1,
                    "description": f"number {number}",  # no text twice: each is scored
                    "image_link": host.url(f"{products[number % PICTURES].id}.jpg"),
                }
            )
            for number in range(events)
        ]
        store = ReleaseStore(str(root / "store"))
        made = variants(release or releases.shipped(), root / "made", swaps + 1)
        settings = Settings.model_validate(
            {
                "broker": {"bootstrap": broker.bootstrap, "session_timeout_s": 3, "heartbeat_interval_s": 0.7},
                "topics": {"partitions": 4},
                "fetch": {"allow_hosts": (host.address,)},
                "engine": {"release": made[0]},
                "releases": {"store": str(root / "store")},
                "state": {"directory": root / "state"},
                "telemetry": {"port": 0, "log_level": "error"},
            }
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(measure(settings, updates, [store.publish(one) for one in made], share))
    console.print(result)
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
