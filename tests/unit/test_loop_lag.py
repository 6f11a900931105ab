"""An event loop that stood still, and that hosts are not blamed for it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from streamer.fetch import Fetched, Fetcher
from streamer.loop_lag import STALL_S, LoopLag
from tests.sites import PICTURE, settings

if TYPE_CHECKING:
    from tests.sites import Site


async def test_stalls_are_counted_and_a_busy_loop_is_none() -> None:
    """A stall counts from its end, before any beat has noticed it; slices of work do not count."""
    lag = LoopLag()
    lag.start()
    try:
        for _ in range(30):
            time.sleep(0.01)  # noqa: ASYNC251 - a loop at work
            await asyncio.sleep(0)
        assert lag.lost_s() == 0
        for stalls in (1, 2):
            await asyncio.sleep(0.06)
            time.sleep(2 * STALL_S)  # noqa: ASYNC251 - a loop that stands still
            at_once = lag.lost_s()
            await asyncio.sleep(0.06)
            assert lag.lost_s() >= at_once >= stalls * STALL_S * 1.5
    finally:
        lag.stop()
    stopped = lag.lost_s()
    time.sleep(2 * STALL_S)  # noqa: ASYNC251 - as above
    assert lag.lost_s() == stopped


@pytest.mark.parametrize("limits", [{"timeout_s": 1.0}, {"timeout_s": 4.0, "slow_after_s": 1.0}], ids=["try", "body"])
async def test_hosts_are_not_left_alone_for_a_worker_that_stood_still(site: Site, limits: dict[str, float]) -> None:
    """All tries in flight run out of time at once: they are made again, and no circuit has opened."""

    async def in_a_while(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(PICTURE[:10])
        await asyncio.sleep(0.2)
        await response.write(PICTURE[10:])
        return response

    url, failures = site.handle(in_a_while), Counter[str]()
    patient = settings(site, attempts=2, breaker_failures=3, breaker_pause_s=60, backoff_s=0.01, **limits)
    async with Fetcher(patient, failed=lambda code: failures.update([code])) as fetcher:
        fetching = [asyncio.create_task(fetcher.get(url)) for _ in range(12)]
        while len(site.requests) < 12:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # their heads have come
        time.sleep(1.2)  # noqa: ASYNC251 - as a process that is stopped
        fetched = await asyncio.gather(*fetching)
    assert all(isinstance(one, Fetched) and one.attempts == 2 for one in fetched)
    assert failures == {"image_timeout" if "slow_after_s" not in limits else "image_too_slow": 12}
