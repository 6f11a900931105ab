"""The worker's own metrics as the demo shows them: one reading of /metrics, and the rates between two."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aiohttp

STAGES = ("parse", "fetch", "decode", "tokenise", "queue", "engine", "explain", "publish")
QUEUES = ("in_flight", "fetch", "preprocess", "engine")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What /metrics said at one moment (`at_s`: monotonic seconds). Counters only grow; depths are of that moment."""

    at_s: float
    stage_count: Mapping[str, float] = field(default_factory=dict)
    stage_sum_s: Mapping[str, float] = field(default_factory=dict)
    depth: Mapping[str, float] = field(default_factory=dict)
    batches: float = 0.0
    batched: float = 0.0
    busy_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What happened between two readings; a mean is None where nothing happened."""

    stage_per_s: Mapping[str, float]
    stage_ms: Mapping[str, float | None]
    batch_size: float | None
    busy_share: float


def parse_metrics(text: str, at_s: float) -> Reading:
    """Return the reading that stands in this Prometheus text; series that are not there yet are left out."""
    by_label: dict[str, dict[str, float]] = defaultdict(dict)
    totals: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            label = sample.labels.get("stage") or sample.labels.get("queue")
            if label is not None:
                by_label[sample.name][label] = by_label[sample.name].get(label, 0.0) + sample.value
            totals[sample.name] += sample.value
    return Reading(
        at_s=at_s,
        stage_count=by_label["streamer_stage_seconds_count"],
        stage_sum_s=by_label["streamer_stage_seconds_sum"],
        depth=by_label["streamer_queue_depth"],
        batches=totals["streamer_batch_size_count"],
        batched=totals["streamer_batch_size_sum"],
        busy_s=totals["streamer_engine_busy_seconds_total"],
    )


def rates(before: Reading, after: Reading) -> Rates:
    """Return the rates and means between two readings of one process."""
    seconds = max(after.at_s - before.at_s, 1e-9)
    counts = {s: after.stage_count.get(s, 0.0) - before.stage_count.get(s, 0.0) for s in STAGES}
    sums = {s: after.stage_sum_s.get(s, 0.0) - before.stage_sum_s.get(s, 0.0) for s in STAGES}
    batches = after.batches - before.batches
    return Rates(
        stage_per_s={s: counts[s] / seconds for s in STAGES},
        stage_ms={s: 1000 * sums[s] / counts[s] if counts[s] else None for s in STAGES},
        batch_size=(after.batched - before.batched) / batches if batches else None,
        busy_share=min(1.0, (after.busy_s - before.busy_s) / seconds),
    )


async def read_metrics(session: aiohttp.ClientSession, url: str) -> Reading:
    """Return a reading of the worker at `url` (…/metrics).

    Raises:
        aiohttp.ClientError, TimeoutError: the worker did not answer.
    """
    async with session.get(url) as response:
        response.raise_for_status()
        return parse_metrics(await response.text(), time.monotonic())
