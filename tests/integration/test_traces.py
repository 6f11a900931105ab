"""A real worker on a broker, traced into a collector: one trace from the update's writer to the alert."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from io import StringIO
from typing import TYPE_CHECKING

import aiohttp
import orjson
from aiohttp import web
from aiokafka import AIOKafkaConsumer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rich.console import Console

from streamer import topics
from streamer.demo.broker import LOOPBACK
from streamer.demo.cluster import run_cluster
from streamer.demo.images import ImageHost
from streamer.demo.worker import running_worker, settings_variables
from streamer.outbox import producer
from streamer.settings import EngineSettings, FetchSettings, TelemetrySettings
from tests import tiny_release
from tests.fakes import png

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

PATIENCE_S = 30.0
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
EXPECTED = {
    "process product-updates",
    *("fetch", "decode", "tokenise", "queue", "engine", "explain", "publish"),
    "send product-scores",
    "process product-scores",
    "send mismatch-alerts",
}


class Collector:
    """Takes spans by OTLP over HTTP, as any back end does; `services` are who sent them."""

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self.services: set[str] = set()

    async def take(self, request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            named = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.services.add(named["service.name"])
            self.spans |= {span.name: span for scope in resource.scope_spans for span in scope.spans}
        return web.Response(content_type="application/x-protobuf")

    def above(self, name: str) -> str | None:
        """Return the name of the span that another one is right under."""
        return {span.span_id: span.name for span in self.spans.values()}.get(self.spans[name].parent_span_id)


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    """Yield a collector, and where it is."""
    collector, app = Collector(), web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, 0).start()
        yield collector, f"http://{LOOPBACK}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_alert_is_in_the_trace_of_the_update_that_led_to_it(tmp_path: Path) -> None:
    """Both agents' spans are under the writer's, and the alert's headers say so, and that it is a CloudEvent."""
    (tmp_path / "light.png").write_bytes(png(255))
    release = tiny_release.write(tmp_path / "made", bias=-2.5)  # alerts on words whose ids add up to 10 and more
    with ImageHost(tmp_path) as host:
        async with run_cluster(None, Console(file=StringIO())) as cluster, collecting() as (collector, endpoint):
            sections = {
                "broker": cluster.broker,
                "topics": cluster.names,
                "engine": EngineSettings(release=release),
                "fetch": FetchSettings(allow_hosts=(host.address,)),
                "telemetry": TelemetrySettings(tracing=True),
            }
            variables = settings_variables(sections) | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
            consumer = AIOKafkaConsumer(
                cluster.names.alerts, **topics.client_kwargs(cluster.broker), auto_offset_reset="earliest"
            )
            await consumer.start()
            async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE_S):
                with running_worker(variables, tmp_path / "worker.log") as worker:
                    await worker.wait_until_ready(session)
                    update = {"id": "a", "version": 1, "title": "blue shoe red"}
                    update["image_link"] = f"http://{host.address}/light.png"
                    carried = [("traceparent", f"00-{TRACE_ID}-{SPAN_ID}-01".encode())]
                    async with producer(cluster.broker) as kafka:
                        await kafka.send_and_wait(
                            cluster.names.updates, orjson.dumps(update), key=b"a", headers=carried
                        )
                    alert = await consumer.getone()
                    await asyncio.to_thread(worker.stop)  # sends what is left
                await consumer.stop()
    assert set(collector.spans) == EXPECTED
    assert {span.trace_id.hex() for span in collector.spans.values()} == {TRACE_ID}
    assert collector.spans["process product-updates"].parent_span_id.hex() == SPAN_ID
    assert collector.above("send product-scores") == "process product-updates"
    assert collector.above("process product-scores") == "send product-scores"
    assert collector.above("send mismatch-alerts") == "process product-scores"
    headers = dict(alert.headers)
    assert headers["content-type"].startswith(b"application/cloudevents+json")
    assert headers["traceparent"].split(b"-")[2] == collector.spans["send mismatch-alerts"].span_id.hex().encode()
    assert collector.services == {cluster.broker.group}
    logged = [orjson.loads(line) for line in (tmp_path / "worker.log").read_bytes().splitlines() if line[:1] == b"{"]
    assert [line["trace_id"] for line in logged if line["event"] == "catalogue.mismatch.opened"] == [TRACE_ID]
