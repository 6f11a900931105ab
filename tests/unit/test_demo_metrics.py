"""The worker's metrics as the demo reads them."""

from __future__ import annotations

import pytest
from aiohttp import ClientSession
from prometheus_client import generate_latest

from streamer.demo.broker import free_port
from streamer.demo.metrics import Reading, parse_metrics, rates, read_metrics
from streamer.telemetry import HealthServer, Telemetry


def test_parse_metrics_worker_telemetry_is_read_back() -> None:
    """What the worker's own telemetry writes is what the demo shows: names and labels agree."""
    telemetry = Telemetry()
    telemetry.stage("fetch", 0.25)
    telemetry.stage("fetch", 0.75)
    telemetry.watch_depth("in_flight", lambda: 7)
    reading = parse_metrics(generate_latest(telemetry.registry).decode(), 3.0)
    assert reading.stage_count["fetch"] == 2
    assert reading.stage_sum_s["fetch"] == pytest.approx(1.0)
    assert reading.depth == {"in_flight": 7}
    assert reading.at_s == 3.0


def test_rates_between_readings_are_per_second_and_means() -> None:
    """Ten fetches of 20 ms in two seconds; five batches of four; the engine busy for half of the time."""
    before = Reading(at_s=10.0, stage_count={"fetch": 5}, stage_sum_s={"fetch": 1.0}, batches=1, batched=4, busy_s=3.0)
    after = Reading(at_s=12.0, stage_count={"fetch": 15}, stage_sum_s={"fetch": 1.2}, batches=6, batched=24, busy_s=4.0)
    now = rates(before, after)
    assert now.stage_per_s["fetch"] == pytest.approx(5.0)
    assert now.stage_ms["fetch"] == pytest.approx(20.0)
    assert now.stage_ms["parse"] is None
    assert now.batch_size == pytest.approx(4.0)
    assert now.busy_share == pytest.approx(0.5)


async def test_read_metrics_running_worker_answers() -> None:
    """The reading comes over HTTP from the worker's health server."""
    telemetry, port = Telemetry(), free_port()
    telemetry.stage("parse", 0.001)
    server = HealthServer(telemetry, alive=lambda: (True, "alive"), ready=lambda: (True, "ready"))
    await server.start("127.0.0.1", port)
    try:
        async with ClientSession() as session:
            reading = await read_metrics(session, f"http://127.0.0.1:{port}/metrics")
    finally:
        await server.stop()
    assert reading.stage_count["parse"] == 1
