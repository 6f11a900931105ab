"""What tracing costs an event: off, on and not sampled, on and recorded.

    python benchmarks/tracing.py            microseconds of CPU for one event's hooks, in a loop of nothing else

Counted are the hooks of one scored update that alerts: two records read, seven stages, two records sent. Spans that are
recorded go to an exporter that drops them: encoding and sending them costs a thread of its own, beside this.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

from streamer.events import PRODUCT_SCORES, PRODUCT_UPDATES
from streamer.tracing import OFF, OpenTelemetryTracing
from streamer.wire import SourcePosition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from streamer.tracing import Tracing

EVENTS = 5_000
STAGES = ("fetch", "decode", "tokenise", "queue", "engine", "explain", "publish")
READ, SCORED = (SourcePosition(topic=topic, partition=1, offset=2) for topic in (PRODUCT_UPDATES, PRODUCT_SCORES))


class Dropped(SpanExporter):
    """An exporter that does nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002
        return SpanExportResult.SUCCESS


def one_event(tracing: Tracing) -> None:
    """Run the hooks of an update and of its score."""
    with tracing.processing(READ, (), key=b"mug", value=b"{}") as span:
        for stage in STAGES:
            span.stage(stage, 0.001)
        with tracing.sending(PRODUCT_SCORES, b"mug", b"{}") as carried:
            pass
        span.end_as("scored", release="compact-0123456789ab", probability=0.9)
    with (
        tracing.processing(SCORED, carried, key=b"mug", value=b"{}"),
        tracing.sending("mismatch-alerts", b"mug", b"{}"),
    ):
        pass


def cost_us(tracing: Tracing) -> float:
    """Return microseconds of CPU for one event."""
    started = time.process_time()
    for _ in range(EVENTS):
        one_event(tracing)
    return (time.process_time() - started) / EVENTS * 1e6


def main() -> None:
    """Print the three."""
    made = {"off": OFF}
    for name, sampler in (("on, not sampled", ALWAYS_OFF), ("on, recorded", ALWAYS_ON)):
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(Dropped()))
        made[name] = OpenTelemetryTracing(provider, group="scorers")
    for name, tracing in made.items():
        print(f"{name:16} {cost_us(tracing):7.1f} us")


if __name__ == "__main__":
    main()
