"""Traces of what becomes of an update, across topics: OpenTelemetry, by its conventions for messaging. Off by default.

    process product-updates ─► fetch, decode, queue, engine … ─► send product-scores ─┐ header `traceparent`
    ┌──────────────────────────────────────────────────────────────────────────────────┘
    └► process product-scores ─► send mismatch-alerts ─► whatever reads alerts

An update that carries a `traceparent` goes on with its writer's trace; another one begins a trace. What is current is
kept by context variables, so whoever sends needs not know what it is about. Where tracing is off nothing of
OpenTelemetry is imported. Exporter, sampler and resource are set by OpenTelemetry's own variables (OTEL_…).

Source: https://opentelemetry.io/docs/specs/semconv/messaging/kafka/ (in development when this was written), and
https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from threading import Thread
from typing import TYPE_CHECKING, Any

from streamer import __version__
from streamer.errors import FatalError
from streamer.updates import MAX_ID_CHARS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from contextlib import AbstractContextManager

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OpenTelemetrySpan

    from streamer.wire import SourcePosition

Headers = list[tuple[str, bytes]]

CARRIED = ("traceparent", "tracestate")
"""Headers that are read and written. Not `baggage`: what strangers write would be handed on to everybody."""

MAX_CARRIED_BYTES = 512
"""Of a header that is read. Source: W3C Trace Context, 3.3.1.5, at least as much must be passed on."""

FLUSH_S = 2.0
"""For the last spans when a worker leaves: less than what it has to leave in (`leaving.LEAVE_S`)."""

_NS = 1_000_000_000


class Span:
    """What a trace says of one record; this one says nothing."""

    def stage(self, name: str, seconds: float, *, ended_s_ago: float = 0.0) -> None:
        """Add a stage of the way that took so long and ended now, or a while ago."""

    def end_as(self, outcome: str, *, error: str | None = None, **facts: object) -> None:
        """Say what became of the record; `error` is the stable code of what was wrong with it."""


class Tracing:
    """Traces nothing: what a worker has where tracing is off."""

    def processing(
        self,
        position: SourcePosition,  # noqa: ARG002 - for those that trace
        headers: Iterable[tuple[str, bytes | None]],  # noqa: ARG002
        *,
        key: bytes | None,  # noqa: ARG002
        value: bytes | None,  # noqa: ARG002
    ) -> AbstractContextManager[Span]:
        """Trace what the block does with a record that was read."""
        return _SILENT

    def sending(self, topic: str, key: bytes | None, value: bytes | None) -> AbstractContextManager[Headers]:  # noqa: ARG002
        """Trace the block that sends a record, and give the headers that it must carry."""
        return _NO_HEADERS

    def ids(self) -> dict[str, str]:
        """Return the ids of the current trace and span, for a log line."""
        return {}

    def close(self) -> None:
        """Send what is left; takes no longer than `FLUSH_S`."""


_SILENT = nullcontext(Span())
_NO_HEADERS: AbstractContextManager[Headers] = nullcontext([])
OFF = Tracing()


def start(*, group: str) -> Tracing:
    """Return what traces a worker of this consumer group, to where OTEL_EXPORTER_OTLP_ENDPOINT says.

    Raises:
        FatalError: tracing_not_installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise FatalError("tracing_not_installed", "tracing needs: pip install 'mismatch-streamer[tracing]'") from error
    # The variables OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
    resource = Resource.create({"service.version": __version__}).merge(Resource.create())
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": group}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OpenTelemetryTracing(provider, group=group)


class OpenTelemetryTracing(Tracing):
    """Traces by OpenTelemetry.

    Args:
        provider: makes the spans and sends them.
        group: the consumer group that reads.
    """

    def __init__(self, provider: TracerProvider, *, group: str) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - an extra
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._api = trace
        self._propagator = TraceContextTextMapPropagator()
        self._provider = provider
        self._tracer = provider.get_tracer("streamer", __version__)
        self._group = group

    @contextmanager
    def processing(
        self,
        position: SourcePosition,
        headers: Iterable[tuple[str, bytes | None]],
        *,
        key: bytes | None,
        value: bytes | None,
    ) -> Generator[Span]:
        context = self._propagator.extract(_carried(headers), context=_nowhere())
        written = self._api.get_current_span(context).get_span_context()
        attributes = _attributes("process", position.topic, key, value) | {
            "messaging.consumer.group.name": self._group,
            "messaging.destination.partition.id": str(position.partition),
            "messaging.kafka.offset": position.offset,
        }
        with self._tracer.start_as_current_span(
            f"process {position.topic}",
            context,
            kind=self._api.SpanKind.CONSUMER,
            attributes=attributes,
            links=[self._api.Link(written)] if written.is_valid else (),
        ) as span:
            yield _Traced(self, span)

    @contextmanager
    def sending(self, topic: str, key: bytes | None, value: bytes | None) -> Generator[Headers]:
        with self._tracer.start_as_current_span(
            f"send {topic}", kind=self._api.SpanKind.PRODUCER, attributes=_attributes("send", topic, key, value)
        ):
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier)
            yield [(name, text.encode()) for name, text in carrier.items()]

    def ids(self) -> dict[str, str]:
        current = self._api.get_current_span().get_span_context()
        if not current.is_valid:
            return {}
        return {"trace_id": f"{current.trace_id:032x}", "span_id": f"{current.span_id:016x}"}

    def close(self) -> None:
        # An exporter that waits for its collector must not hold a worker that leaves.
        closing = Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        closing.join(FLUSH_S)

    def add_stage(self, span: OpenTelemetrySpan, name: str, started_ns: int, ended_ns: int) -> None:
        """Add a span inside of another one that has been."""
        stage = self._tracer.start_span(name, self._api.set_span_in_context(span), start_time=started_ns)
        stage.end(ended_ns)


class _Traced(Span):
    def __init__(self, tracing: OpenTelemetryTracing, span: OpenTelemetrySpan) -> None:
        self._tracing = tracing
        self._span = span

    def stage(self, name: str, seconds: float, *, ended_s_ago: float = 0.0) -> None:
        if self._span.is_recording():
            ended_ns = time.time_ns() - int(ended_s_ago * _NS)
            self._tracing.add_stage(self._span, name, ended_ns - int(seconds * _NS), ended_ns)

    def end_as(self, outcome: str, *, error: str | None = None, **facts: object) -> None:
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - an extra

        said: dict[str, Any] = {f"streamer.{name}": value for name, value in facts.items() if value is not None}
        self._span.set_attributes(said | {"streamer.outcome": outcome})
        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR, error))


def _attributes(operation: str, topic: str, key: bytes | None, value: bytes | None) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": topic,
    }
    if key is not None:
        attributes["messaging.kafka.message.key"] = key.decode("utf-8", "replace")[:MAX_ID_CHARS]
    if value is None:
        attributes["messaging.kafka.message.tombstone"] = True
    else:
        attributes["messaging.message.body.size"] = len(value)
    return attributes


def _carried(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """Return the headers of a trace, the first of each name; anybody may write anything into them."""
    carried: dict[str, str] = {}
    for name, value in headers:
        if name in CARRIED and name not in carried and value is not None and len(value) <= MAX_CARRIED_BYTES:
            carried[name] = value.decode("ascii", "replace")
    return carried


def _nowhere() -> Context:
    """Return the context of nothing: a record has its own, whatever the task that reads it does."""
    from opentelemetry.context import Context  # noqa: PLC0415 - an extra

    return Context()
