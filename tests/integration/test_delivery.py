"""Nothing is lost when workers die, leave and join: real Kafka, real worker processes, every topic checked."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.delivery import Run, patience

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import Broker

# A loss shows in one run of ten: `make delivery` runs each ten times.
SEEDS = range(1, 1 + int(os.environ.get("DELIVERY_RUNS", "1")))
EVENTS = 20_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize("seed", SEEDS)
async def test_worker_killed_and_another_joining_lose_nothing(kafka: Broker, tmp_path: Path, seed: int) -> None:
    """SIGKILL of one of two workers in the middle, a third joins: every outcome is there, every alert is right."""
    async with Run(kafka, tmp_path, events=EVENTS, seed=seed) as run:
        victim, _ = run.start_worker(), run.start_worker()
        publishing = asyncio.create_task(run.publish())
        await run.reached(run.rng.uniform(0.02, 0.6))
        victim.kill()
        await run.reached(run.rng.uniform(0.6, 0.8))
        run.start_worker()
        await publishing
        result = await run.settle()
        print(f"kill and join, seed {seed}: {result}")
        with patience(run):
            assert (result.lost, result.wrong_alerts, result.rejected, result.uncommitted) == (0, [], 0, {})


@pytest.mark.parametrize("seed", SEEDS)
async def test_worker_told_to_stop_drains_and_repeats_nothing(kafka: Broker, tmp_path: Path, seed: int) -> None:
    """SIGTERM of one of two workers: it exits 0, nothing is lost, and under 2 % of the outcomes are redelivered."""
    async with Run(kafka, tmp_path, events=EVENTS // 4, seed=seed) as run:
        leaving, _ = run.start_worker(), run.start_worker()
        publishing = asyncio.create_task(run.publish())
        await run.reached(run.rng.uniform(0.1, 0.7))
        leaving.send_signal(signal.SIGTERM)
        await publishing
        result = await run.settle()
        print(f"stop, seed {seed}: {result}")
        with patience(run):
            assert leaving.wait(30) == 0
            assert (result.lost, result.wrong_alerts, result.rejected, result.uncommitted) == (0, [], 0, {})
            assert result.redelivered <= 0.02 * result.events
