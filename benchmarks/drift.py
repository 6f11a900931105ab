"""What watching for drift costs a scorer and the watcher, what it takes for chance, and what it finds.

    python benchmarks/drift.py [--repetitions 100]

Costs: CPU time of a product's features in a preprocessing thread, of a record taken in by the watcher, of a comparison
with a full window, and the watcher's memory. Chance: catalogues that have not changed, drawn again and again; what is
found there is a false alarm. Finds: how large a share of the products must be of another kind (their scores two
standard deviations higher), and how many more must alert in a category, until it is called drift in most repetitions.
Prints one JSON object for each line.
"""

from __future__ import annotations

import json
import resource
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.progress import track

from streamer.drift import KEPT, VALUES, Limits, Seen, Window
from streamer.drift_telemetry import DriftTelemetry
from streamer.drift_watch import DriftWatch
from streamer.events import Features, ProductScore
from streamer.features import features_of
from streamer.pairs import Pair
from streamer.settings import DriftSettings
from streamer.wire import SourcePosition, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

DRIFT = DriftSettings()
CATEGORIES = 20
PREVALENCE = 0.05
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def say(**facts: object) -> None:
    """Print a line."""
    print(json.dumps(facts), flush=True)


def cpu_s(work: Callable[[], object], times: int = 1) -> float:
    """Return the CPU time of the work, in seconds."""
    started = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - started) / times


def all_of(take: Callable[[bytes], None], records: Sequence[bytes]) -> None:
    """Give the records, one after the other."""
    for one in records:
        take(one)


def pair(side: int) -> Pair:
    """Return a product as an engine takes it."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8)
    return Pair(pixels, np.ones(64, np.int32), np.ones(64, np.int32))


def record(number: int) -> bytes:
    """Return a record of product-scores."""
    features = Features(brightness=0.5, contrast=0.2, saturation=0.3, tokens=12, unknown_share=0.0)
    score = ProductScore(
        product_id=f"p{number}",
        order=1,
        outcome="scored",
        source=SourcePosition(topic="product-updates", partition=0, offset=number),
        published_at=NOW,
        scored_at=NOW,
        title="Blue stoneware mug",
        category=f"Category {number % CATEGORIES}",
        image_url=f"https://cdn{number % CATEGORIES}.example/{number}.jpg",
        probability=0.1,
        threshold=0.5,
        release="small-000000000000",
        logit=float(number % 97),
        model="0123456789abcdef",
        features=features,
    )
    return encode(score)


def costs() -> None:
    """Print what watching costs."""
    for side in (224, 384):
        taken_s = cpu_s(partial(features_of, pair(side), 1), 2000)
        say(what="features of a product", side=side, cpu_us=round(1e6 * taken_s, 1))
    watch = DriftWatch(
        limits=Limits(),
        size=DRIFT.window,
        least=DRIFT.least,
        patience=timedelta(hours=1),
        blobs=None,
        telemetry=DriftTelemetry(),
        clock=lambda: datetime.now(UTC),
    )
    records = [record(number) for number in range(2 * DRIFT.window)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken_s = cpu_s(partial(all_of, watch.score, records)) / len(records)
    compared_s = cpu_s(watch.check, 5)
    say(
        what="the watcher",
        record_us=round(1e6 * taken_s, 1),
        comparison_ms=round(1e3 * compared_s, 1),
        window_mib=round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10),
    )


def products(rng: np.random.Generator, *, moved: float = 0.0, times: float = 1.0) -> Iterable[Seen]:
    """Yield a window of products.

    Args:
        rng: draws them.
        moved: the share whose values are two standard deviations higher.
        times: how many times as often the first category alerts.
    """
    count = DRIFT.window
    values = rng.normal(size=(count, len(VALUES))) + 2 * (rng.random(count) < moved)[:, None]
    category = rng.integers(0, CATEGORIES, count)
    alerts = rng.random(count) < PREVALENCE * np.where(category == 0, times, 1.0)
    for row, alert, group in zip(values.tolist(), alerts.tolist(), category.tolist(), strict=True):
        yield Seen(tuple(row), alert, f"Category {group}", f"cdn{group}.example")


def compare(rng: np.random.Generator, **changes: float) -> tuple[float, set[str]]:
    """Return the largest distance of a value, and what has drifted."""
    window = Window("release", DRIFT.window, DRIFT.least)
    for seen in products(rng):
        window.take(seen)
    for seen in products(rng, **changes):
        window.take(seen)
    found = list(window.statistics(Limits()))
    return max(one.value for one in found if one.kind == "value"), {one.name for one in found if one.drifted}


def chance(rng: np.random.Generator, repetitions: int) -> None:
    """Print what is found where nothing has changed."""
    found = [compare(rng) for _ in track(range(repetitions), "unchanged catalogues")]
    say(
        what="unchanged catalogues",
        repetitions=repetitions,
        kept=KEPT,
        largest_distance=round(max(distance for distance, _ in found), 3),
        false_alarms=sum(bool(drifted) for _, drifted in found),
    )


def finds(rng: np.random.Generator, repetitions: int) -> None:
    """Print in how many repetitions a change is called drift."""
    for moved in (0.1, 0.2, 0.25, 0.3, 0.4):
        found = sum(bool(compare(rng, moved=moved)[1] & set(VALUES)) for _ in range(repetitions))
        say(what="products of another kind", share=moved, called_drift=round(found / repetitions, 2))
    for times in (1.5, 2.0, 3.0, 4.0):
        found = sum("Category 0" in compare(rng, times=times)[1] for _ in range(repetitions))
        say(what="alerts in one category of 20", times=times, called_drift=round(found / repetitions, 2))


def main(
    repetitions: Annotated[int, typer.Option(help="Catalogues drawn for chance; a tenth of it for each change.")] = 100,
    seed: int = 0,
) -> None:
    """Measure."""
    rng = np.random.default_rng(seed)
    costs()
    chance(rng, repetitions)
    finds(rng, max(1, repetitions // 10))


if __name__ == "__main__":
    typer.run(main)
