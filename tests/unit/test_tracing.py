"""What a trace says of a record, and what strangers' headers can do to it."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from streamer import tracing
from streamer.errors import FatalError
from streamer.events import PRODUCT_SCORES, PRODUCT_UPDATES
from streamer.settings import PipelineSettings
from streamer.tracing import OpenTelemetryTracing
from streamer.wire import SourcePosition
from tests.pipeline_bench import RIGHT, build, update

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.pipeline_bench import Bench

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
AT = SourcePosition(topic=PRODUCT_UPDATES, partition=3, offset=41)


class Traced:
    """A tracing whose spans stay in memory."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - the provider's
        self._memory = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False, **options)
        provider.add_span_processor(SimpleSpanProcessor(self._memory))
        self.tracing = OpenTelemetryTracing(provider, group="scorers")

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        """Return the spans that have ended, by their names."""
        return {span.name: span for span in self._memory.get_finished_spans()}

    def process(self, *headers: tuple[str, bytes | None]) -> ReadableSpan:
        with self.tracing.processing(AT, headers, key=b"mug", value=b"{}"):
            pass
        return self._memory.get_finished_spans()[-1]


def facts(span: ReadableSpan) -> dict[str, Any]:
    """Return a span's attributes."""
    return dict(span.attributes or {})


def trace_of(span: ReadableSpan) -> str:
    """Return the id of the trace that it belongs to."""
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    """Tell whether one span is right under another."""
    assert parent.context is not None
    return span.parent is not None and span.parent.span_id == parent.context.span_id


def test_record_that_leads_to_another_is_one_trace_across_the_topics() -> None:
    """From the writer's span over ours to whoever reads what we send, by the header alone."""
    traced = Traced()
    with (
        traced.tracing.processing(AT, [("traceparent", PARENT.encode())], key=b"mug", value=b"{}"),
        traced.tracing.sending(PRODUCT_SCORES, b"mug", b"{...}") as carried,
    ):
        pass
    scored = SourcePosition(topic=PRODUCT_SCORES, partition=1, offset=7)
    with traced.tracing.processing(scored, carried, key=b"mug", value=b"{...}"):
        pass
    spans = traced.spans
    read, sent, next_read = (
        spans[name] for name in ("process product-updates", "send product-scores", "process product-scores")
    )
    assert {trace_of(span) for span in spans.values()} == {TRACE_ID}
    assert read.parent is not None
    assert f"{read.parent.span_id:016x}" == SPAN_ID
    assert is_child(sent, read)
    assert is_child(next_read, sent)
    assert (read.kind, sent.kind) == (SpanKind.CONSUMER, SpanKind.PRODUCER)
    assert [link.context.span_id for link in next_read.links] == [sent.context and sent.context.span_id]


def test_spans_carry_the_attributes_of_the_messaging_conventions() -> None:
    """By the names that back ends know."""
    traced = Traced()
    assert facts(traced.process()) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": PRODUCT_UPDATES,
        "messaging.destination.partition.id": "3",
        "messaging.consumer.group.name": "scorers",
        "messaging.kafka.offset": 41,
        "messaging.kafka.message.key": "mug",
        "messaging.message.body.size": 2,
    }
    with traced.tracing.sending(PRODUCT_SCORES, b"\xff" * 1000, None):
        pass
    assert facts(traced.spans["send product-scores"]) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": PRODUCT_SCORES,
        "messaging.kafka.message.key": "\ufffd" * 256,
        "messaging.kafka.message.tombstone": True,
    }


@pytest.mark.parametrize(
    "header",
    [
        ("traceparent", b""),
        ("traceparent", None),
        ("traceparent", b"\xff\xfe"),
        ("traceparent", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"),
        ("traceparent", PARENT.encode() + b" " * 10_000_000),
        ("Traceparent", PARENT.encode()),
        ("baggage", b"secret=1"),
    ],
)
def test_header_that_names_no_trace_begins_one(header: tuple[str, bytes | None]) -> None:
    """Whatever strangers write: nothing fails, and nothing of it is handed on."""
    traced = Traced()
    span = traced.process(header)
    assert span.parent is None
    assert list(span.links) == []
    with traced.tracing.processing(AT, [header], key=None, value=None), traced.tracing.sending("t", None, b"") as sent:
        assert [name for name, _ in sent] == ["traceparent"]


def test_trace_that_is_not_sampled_is_carried_on_and_not_recorded() -> None:
    """Whoever reads next knows that it is not, and does not begin one in the middle."""
    traced = Traced(sampler=ALWAYS_OFF)
    with traced.tracing.processing(AT, [("traceparent", PARENT.encode())], key=b"", value=b"") as span:
        span.stage("fetch", 0.5)
        with traced.tracing.sending("t", None, b"") as sent:
            assert sent[0][1].decode().split("-")[1:4:2] == [TRACE_ID, "00"]
    assert traced.spans == {}


def test_ids_are_those_of_the_current_span() -> None:
    """For log lines; outside of any span there are none."""
    traced = Traced()
    assert traced.tracing.ids() == {}
    with traced.tracing.processing(AT, [("traceparent", PARENT.encode())], key=None, value=None):
        assert traced.tracing.ids()["trace_id"] == TRACE_ID
    assert traced.tracing.ids() == {}


@pytest.fixture
async def bench() -> AsyncIterator[tuple[Bench, Traced]]:
    """Yield a pipeline on fakes that is traced."""
    traced = Traced()
    async for built in build(PipelineSettings(max_in_flight=8), tracing=traced.tracing):
        yield built, traced


async def test_scored_update_has_its_stages_inside_its_span_in_their_order(bench: tuple[Bench, Traced]) -> None:
    """Each ends before the next one begins, and all say what became of the update."""
    built, traced = bench
    await built.send(update(1), b"p", ("traceparent", PARENT.encode()))
    await built.settle()
    spans = traced.spans
    whole = spans.pop("process product-updates")
    assert trace_of(whole) == TRACE_ID
    stages = sorted(spans.values(), key=lambda span: span.start_time or 0)
    assert [span.name for span in stages] == ["fetch", "decode", "tokenise", "queue", "engine", "publish"]
    assert all(is_child(span, whole) for span in stages)
    assert facts(whole)["streamer.outcome"] == "scored"
    assert facts(whole)["streamer.release"] == built.engine.manifest.release
    assert whole.status.status_code is StatusCode.UNSET


async def test_rejected_update_tells_its_reason_as_the_error(bench: tuple[Bench, Traced]) -> None:
    """The reason code of its dead letter."""
    built, traced = bench
    await built.send(b"{")
    await built.settle()
    span = traced.spans["process product-updates"]
    assert (facts(span)["streamer.outcome"], facts(span)["error.type"]) == ("rejected", "malformed_json")
    assert span.status.status_code is StatusCode.ERROR


async def test_updates_that_are_in_flight_together_keep_their_traces_apart(bench: tuple[Bench, Traced]) -> None:
    """What is current belongs to one event's task."""
    built, traced = bench
    ids = [f"{number:032x}" for number in range(1, 4)]
    for number, trace in enumerate(ids):
        parent = f"00-{trace}-{SPAN_ID}-01".encode()
        await built.send(update(1, RIGHT, product=f"p{number}"), b"p", ("traceparent", parent))
    await built.settle()
    by_trace: dict[str, set[str]] = {}
    for span in traced._memory.get_finished_spans():
        by_trace.setdefault(trace_of(span), set()).add(span.name)
    assert set(by_trace) == set(ids)
    assert all({"process product-updates", "publish"} <= names for names in by_trace.values())


class Hanging(SpanExporter):
    """A collector that never answers."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.released.wait()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.released.wait()


def test_collector_that_hangs_does_not_hold_a_worker_that_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing takes what it may, and goes on."""
    monkeypatch.setattr(tracing, "FLUSH_S", 0.01)
    hanging = Hanging()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(hanging))
    OpenTelemetryTracing(provider, group="g").close()
    hanging.released.set()


def test_start_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that cannot trace and should does not start."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(FatalError, match=r"\[tracing\]") as raised:
        tracing.start(group="g")
    assert raised.value.code == "tracing_not_installed"


@pytest.mark.parametrize(("variable", "name"), [({}, "scorers"), ({"OTEL_SERVICE_NAME": "shop"}, "shop")])
def test_service_is_named_after_its_group_unless_told(
    monkeypatch: pytest.MonkeyPatch, variable: dict[str, str], name: str
) -> None:
    """OpenTelemetry's own variable wins."""
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    for key, value in variable.items():
        monkeypatch.setenv(key, value)
    started = tracing.start(group="scorers")
    assert isinstance(started, OpenTelemetryTracing)
    assert started._provider.resource.attributes["service.name"] == name
    started.close()


def test_nothing_is_traced_where_tracing_is_off() -> None:
    """No header, no id, and a span that takes everything."""
    with tracing.OFF.processing(AT, [("traceparent", PARENT.encode())], key=b"", value=b"") as span:
        span.stage("fetch", 1.0)
        span.end_as("scored", probability=0.5)
        with tracing.OFF.sending("t", b"", b"") as headers:
            assert headers == []
        assert tracing.OFF.ids() == {}
    tracing.OFF.close()
