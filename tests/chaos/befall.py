"""A step of a schedule → what it does to the processes and connections of a run."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.chaos.checker import Span

if TYPE_CHECKING:
    from tests import brokers
    from tests.chaos.faults import Step
    from tests.chaos.pace import Pace
    from tests.chaos.place import Place
    from tests.chaos.proxy import Cut
    from tests.chaos.supervisor import Supervisor
    from tests.chaos.watch import Watch

BROKER_STARTS = 3  # a node on a busy machine may fail to register with itself
REBALANCE_WITHIN_S = 30.0
POLL_S = 0.02


class Befalling:
    """Lets steps happen.

    Args:
        place: whose broker and connections they concern.
        supervisor: whose workers.
        watch: tells when the group rebalances.
        pace: the run's time.
    """

    def __init__(self, place: Place, supervisor: Supervisor, watch: Watch, pace: Pace) -> None:
        self._place, self._supervisor, self._watch, self._pace = place, supervisor, watch, pace
        self.hits: Counter[str] = Counter()
        """How many signals met their moment, by its name."""

    async def step(self, step: Step, began: float) -> Span:
        """Let the step happen at its time after `began`; return when that was."""
        await self._pace.until(began + step.at_s)
        met = await self._moment(step)
        begin_ms = _now_ms()
        if await self._act(step) and met:
            self.hits[step.moment] += 1
        return Span(begin_ms, _now_ms())

    async def _moment(self, step: Step) -> bool:
        """Wait for the moment that the step is for; return whether it came."""
        match step.moment:
            case "young":
                await self._supervisor.young(_number(step), step.age_s)
                return True
            case "rebalance":
                return await self._rebalance()
            case "any":
                return True

    async def _rebalance(self) -> bool:
        ends = self._pace.now() + REBALANCE_WITHIN_S
        while self._pace.now() < ends:
            if await self._watch.rebalancing():
                return True
            await asyncio.sleep(POLL_S)
        return False

    async def _act(self, step: Step) -> bool:
        supervisor, target = self._supervisor, _number(step)
        match step.action:
            case "kill":
                return supervisor.signal(target, signal.SIGKILL)
            case "terminate":
                return supervisor.signal(target, signal.SIGTERM)
            case "scale":
                supervisor.scale(target)
            case "broker-stop" | "broker-kill":
                async with self._place.one_outage:
                    await _restart(self._place.kafka, step)
            case "cut":
                what: Cut = step.target  # type: ignore[assignment] # a schedule's cut names a Cut
                with self._place.proxy.cut(what):
                    await asyncio.sleep(step.lasts_s)
            case "pause":
                with supervisor.paused(target):
                    await asyncio.sleep(step.lasts_s)
            case "disk":
                with supervisor.full_disk(target):
                    await asyncio.sleep(step.lasts_s)
            case "clock":
                with supervisor.clock_off_by(target, step.jump_s):
                    await asyncio.sleep(step.lasts_s)
        return True


def _number(step: Step) -> int:
    return step.target if isinstance(step.target, int) else 0


def _now_ms() -> int:
    return time.time_ns() // 10**6


async def _restart(kafka: brokers.Kafka, step: Step) -> None:
    """Stop the broker and start it again."""
    if step.action == "broker-kill":
        kafka.kill()
    else:
        await asyncio.to_thread(kafka.stop)
    await asyncio.sleep(step.lasts_s)
    for _ in range(BROKER_STARTS):
        kafka.launch()  # not in a thread: the broker would end with it
        with contextlib.suppress(pytest.fail.Exception):
            await asyncio.to_thread(kafka.wait_until_it_answers)
            return
    raise RuntimeError("the broker does not start again")
