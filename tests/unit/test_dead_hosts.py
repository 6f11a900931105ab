"""Hosts that are dead or come back, on real servers: they are left alone, and others do not pay for them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from structlog.testing import capture_logs

from streamer.errors import StreamerError
from streamer.fetch import WAITING_SHARE, Fetched, Fetcher
from tests.fakes import png
from tests.fetching import worker
from tests.sites import PICTURE, Gate, Site, error_of, serving, settings

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from structlog.typing import EventDict

TRY_S = 1.5  # a good host must answer in it, on a busy machine too


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    """Give what is logged."""
    with capture_logs() as captured:
        yield captured


def stalled(logs: list[EventDict], host: str) -> int:
    """Count the tries that taught nothing of the hosts that end so, as the worker stood still itself."""
    return sum(one["event"] == "fetch.stalled" and one["host"].endswith(host) for one in logs)


async def silence(request: web.Request) -> web.StreamResponse:
    """Accept the request and say nothing."""
    await asyncio.sleep(60)
    return web.Response()


async def test_dead_host_leaves_the_other_hosts_their_speed(site: Site, logs: list[EventDict]) -> None:
    """Of 400 events every second one is of a host that never answers: each has one outcome, the others lose no time."""
    good = site.respond({"body": png(0)})
    async with serving() as dead:
        silent = dead.handle(silence)
        limits = settings(
            site, dead, attempts=3, timeout_s=TRY_S, breaker_pause_s=60, concurrency_per_host=16, backoff_s=0.1
        )
        async with worker(limits, in_flight=64) as alone:
            started = time.perf_counter()
            for _ in range(200):
                await alone.send(good)
            await alone.pipeline.drain()
            alone_s = time.perf_counter() - started
        async with worker(limits, in_flight=64) as mixed:
            started = time.perf_counter()
            for _ in range(200):
                await mixed.send(silent)
                await mixed.send(good)
            while mixed.pipeline.in_flight and mixed.outcomes()["scored"] < 200:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.01)
            scored_s = time.perf_counter() - started
            await mixed.pipeline.drain()
        outcomes = mixed.outcomes()
    assert sorted(mixed.acknowledged) == list(range(400))
    assert outcomes.pop("scored") == 200
    assert outcomes.total() == 200
    assert outcomes.keys() <= {"image_host_unavailable", "image_timeout"}
    assert outcomes["image_host_unavailable"] > 150
    unseen = stalled(logs, "127.0.0.1")
    assert len(dead.requests) - unseen <= 2 * 16  # of 600 tries that its events have
    # Once the time of a try, until it is known to be dead; tries that teach nothing take it once more.
    assert scored_s < alone_s + (3 + -(-unseen // 16)) * TRY_S + 1


class OneAddress(AbstractResolver):
    """Resolves every name to 127.0.0.1."""

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = 0) -> list[ResolveResult]:  # type: ignore[assignment]
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=2, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing to free."""


async def test_dead_domain_of_many_names_leaves_the_other_hosts_their_speed(
    site: Site, logs: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that calls itself by a new name for each picture is one host: it is left alone, others lose no time."""
    monkeypatch.setattr("streamer.fetch.refuse", lambda _: None)
    site.respond({"body": png(0)})
    good = f"http://good.test:{site.server.port}/a.jpg"
    async with serving() as dead:
        dead.handle(silence)
        limits = settings(timeout_s=TRY_S, attempts=3, concurrency=32, concurrency_per_host=16, breaker_pause_s=60)
        async with worker(limits, in_flight=64, resolver=OneAddress()) as alone:
            started = time.perf_counter()
            for _ in range(200):
                await alone.send(good)
            await alone.pipeline.drain()
            alone_s = time.perf_counter() - started
        async with worker(limits, in_flight=64, resolver=OneAddress()) as mixed:
            started = time.perf_counter()
            for number in range(200):
                await mixed.send(f"http://{number}.evil.test:{dead.server.port}/a.jpg")
                await mixed.send(good)
            while mixed.outcomes()["scored"] < 200:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.01)
            scored_s = time.perf_counter() - started
            await mixed.pipeline.drain()
        outcomes = mixed.outcomes()
    assert sorted(mixed.acknowledged) == list(range(400))
    assert outcomes.pop("scored") == 200
    assert outcomes.keys() <= {"image_host_unavailable", "image_timeout"}
    unseen = stalled(logs, "evil.test")
    assert len(dead.requests) - unseen <= 3 * 16  # until ten more tries than it has places have failed
    # Twice the time of a try, until the domain is known to be dead; tries that teach nothing take it once more.
    assert scored_s < alone_s + (3 + -(-unseen // 16)) * TRY_S


async def test_domain_with_a_name_that_answers_is_never_left_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """All places of a dead name end at the same moment: that says nothing of its neighbours, which answer."""
    monkeypatch.setattr("streamer.fetch.refuse", lambda _: None)
    site.respond({"status": 503}, path="/dead.jpg")
    site.respond({"body": PICTURE})
    port = site.server.port
    limits = settings(concurrency=16, concurrency_per_host=8, breaker_failures=2)
    async with Fetcher(limits, resolver=OneAddress()) as fetcher:
        for _ in range(5):
            dead = (fetcher.get(f"http://old.shop.test:{port}/dead.jpg") for _ in range(8))
            assert all(isinstance(one, StreamerError) for one in await asyncio.gather(*dead, return_exceptions=True))
            assert isinstance(await fetcher.get(f"http://new.shop.test:{port}/a.jpg"), Fetched)
    assert len(site.requests) < 5 * 8  # the dead one is left alone


async def test_dead_host_that_comes_back_is_asked_again(site: Site) -> None:
    """After the pause one event probes, and the host's events are scored again."""
    url = site.respond({"status": 500}, {"status": 500}, {"body": PICTURE})
    async with Fetcher(settings(site, breaker_failures=2, breaker_pause_s=0.2)) as fetcher:
        codes = [(await error_of(fetcher, url)).code for _ in range(3)]
        assert codes == ["image_http_5xx", "image_http_5xx", "image_host_unavailable"]
        await asyncio.sleep(0.25)  # the pause itself
        assert isinstance(await fetcher.get(url), Fetched)
        assert isinstance(await fetcher.get(url), Fetched)


async def test_short_outage_costs_waiting_events_nothing(site: Site) -> None:
    """Some events of a host that is left alone wait for it within their tries, instead of being rejected at once."""
    url = site.respond({"status": 500}, {"body": PICTURE})
    async with Fetcher(settings(site, attempts=3, breaker_failures=1, breaker_pause_s=0.1)) as fetcher:
        assert isinstance(await fetcher.get(url), Fetched)


async def test_events_that_wait_for_a_dead_host_are_few(site: Site) -> None:
    """Beyond its share of places a host's events end at once, before their tries are spent."""
    held = asyncio.Event()

    async def wait(seconds: float) -> None:
        if seconds > 1:  # for the breaker
            await held.wait()

    url = site.respond({"status": 500})
    limits = settings(site, attempts=3, breaker_failures=1, breaker_pause_s=10, concurrency_per_host=8)
    async with Fetcher(limits, sleep=wait) as fetcher:
        fetches = [asyncio.create_task(error_of(fetcher, url)) for _ in range(20)]
        while sum(fetch.done() for fetch in fetches) < 20 - 8 // WAITING_SHARE:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0)
        held.set()
        errors = await asyncio.gather(*fetches)
    assert Counter(error.attempts == 3 for error in errors)[True] == 8 // WAITING_SHARE
    assert {error.code for error in errors} <= {"image_host_unavailable", "image_http_5xx"}


async def test_redirect_to_a_host_that_is_left_alone_keeps_few_waiting(site: Site) -> None:
    """What counts is the host that failed, not the one that redirects to it: the others end at once."""
    waiting, on = 0, asyncio.Event()

    async def sleep(_: float) -> None:
        nonlocal waiting
        waiting += 1
        await on.wait()

    async with serving() as dead:
        url = site.respond({"status": 302, "headers": {"Location": dead.respond({"status": 503})}})
        limits = settings(site, dead, attempts=2, breaker_failures=1, concurrency_per_host=4, concurrency=8)
        async with Fetcher(limits, sleep=sleep) as fetcher:
            fetches = [asyncio.create_task(fetcher.get(url)) for _ in range(12)]
            ended, _ = await asyncio.wait(fetches, timeout=2)
            assert waiting <= 8 // WAITING_SHARE + 4  # those of the four first places met the failure itself
            assert len(ended) == len(fetches) - waiting
            on.set()
            await asyncio.gather(*fetches, return_exceptions=True)
        assert len(dead.requests) < len(fetches)


async def test_gate_of_one_host_is_not_the_others(site: Site) -> None:
    """A host that holds all its places, and more events that wait for them, keep no place of another host."""
    gate = Gate(full=4)
    slow = site.handle(gate)
    async with serving() as quick, Fetcher(settings(site, quick, concurrency=64, concurrency_per_host=4)) as fetcher:
        stalled = [asyncio.create_task(fetcher.get(slow)) for _ in range(200)]
        await gate.is_full.wait()
        pictures = await asyncio.gather(*(fetcher.get(quick.respond({"body": PICTURE})) for _ in range(50)))
        assert len(pictures) == 50
        gate.open.set()
        await asyncio.gather(*stalled)
