"""Hosts that are dead, slow or greedy, on real servers: what they cost, and that others do not pay for it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from engines.image import decode
from streamer.batch import Batcher
from streamer.errors import StreamerError
from streamer.events import DEAD_LETTERS, PRODUCT_SCORES
from streamer.fetch import WAITING_SHARE, Fetched, Fetcher
from streamer.incoming import Incoming
from streamer.pipeline import Pipeline
from streamer.settings import PipelineSettings, TopicSettings
from streamer.telemetry import Telemetry
from streamer.wire import SourcePosition
from tests.fakes import FakeEngine, Published, fake_serving, png
from tests.sites import PICTURE, Gate, Site, error_of, serving, settings

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

    import numpy as np
    from numpy.typing import NDArray

    from streamer.serving import Decode
    from streamer.settings import FetchSettings


class Worker:
    """A pipeline with a real fetcher, an engine that answers at once, and a partition of updates."""

    def __init__(self, pipeline: Pipeline, published: Published) -> None:
        self.pipeline = pipeline
        self.published = published
        self.acknowledged: list[int] = []
        self.offset = 0

    async def send(self, url: str, product: str | None = None) -> None:
        offset, self.offset = self.offset, self.offset + 1
        update = {"id": product or f"p{offset}", "version": 1 + offset, "title": "a mug", "image_link": url}
        await self.pipeline.admit(
            Incoming(
                key=b"p",
                value=orjson.dumps(update),
                headers=[],
                position=SourcePosition(topic="product-updates", partition=0, offset=offset),
                published_at=datetime.now(UTC),
                acknowledge=lambda: self.acknowledged.append(offset),
            )
        )

    def outcomes(self) -> Counter[str]:
        scores = self.published.topic(PRODUCT_SCORES)
        letters = self.published.topic(DEAD_LETTERS)
        return Counter([str(one["outcome"]) for one in scores] + [str(one["reason"]) for one in letters])


@asynccontextmanager
async def worker(
    fetch: FetchSettings, *, in_flight: int, decoded: Decode | None = None, resolver: AbstractResolver | None = None
) -> AsyncIterator[Worker]:
    """Yield a worker that holds so many events in flight; `decoded` stands for its decoders."""
    engine, published, telemetry = FakeEngine(), Published(), Telemetry()
    batcher = Batcher(engine, max_batch=8, report=telemetry.batch)
    batcher.pairs_per_s = 1e6
    pipeline_settings = PipelineSettings(max_in_flight=in_flight, score_cache_entries=0)
    with ThreadPoolExecutor(1) as executor:
        async with Fetcher(fetch, resolver=resolver) as fetcher:
            pipeline = Pipeline(
                fetcher=fetcher,
                serving=fake_serving(batcher.lane, executor, decoded=decoded),
                batcher=batcher,
                executor=executor,
                publish=published,
                topics=TopicSettings(),
                settings=pipeline_settings,
                telemetry=telemetry,
            )
            yield Worker(pipeline, published)
        await batcher.close()


TRY_S = 1.5  # a good host must answer in it, on a busy machine too


async def silence(request: web.Request) -> web.StreamResponse:
    """Accept the request and say nothing."""
    await asyncio.sleep(60)
    return web.Response()


async def test_dead_host_leaves_the_other_hosts_their_speed(site: Site) -> None:
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
    assert len(dead.requests) <= 2 * 16  # of 600 tries that its events have
    assert scored_s < alone_s + 3 * TRY_S + 1  # once the time of a try, until it is known to be dead


class OneAddress(AbstractResolver):
    """Resolves every name to 127.0.0.1."""

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = 0) -> list[ResolveResult]:  # type: ignore[assignment]
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=2, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing to free."""


async def test_dead_domain_of_many_names_leaves_the_other_hosts_their_speed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that calls itself by a new name for each picture is one host: it is left alone, others lose no time."""
    monkeypatch.setattr("streamer.fetch.refuse", lambda _: None)
    site.respond({"body": png(0)})
    good = f"http://good.test:{site.server.port}/a.jpg"
    async with serving() as dead:
        dead.handle(silence)
        limits = settings(timeout_s=TRY_S, attempts=3, concurrency=32, concurrency_per_host=16, breaker_pause_s=60)
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
    # Until ten more tries than it has places have failed; a round that a stall of this machine ends counts for nothing.
    assert len(dead.requests) <= 5 * 16
    assert scored_s < 2 * TRY_S + TRY_S + 1


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


async def test_body_of_a_byte_a_second_is_too_slow(site: Site) -> None:
    """A host that drips is given up long before the deadline, as a failure of the host."""

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.02)

    async with Fetcher(settings(site, slow_after_s=0.2, min_bytes_per_s=1000)) as fetcher:
        started = time.perf_counter()
        assert (await error_of(fetcher, site.handle(drip))).code == "image_too_slow"
        assert time.perf_counter() - started < 5


async def test_bodies_in_memory_keep_to_the_budget(site: Site) -> None:
    """A body is read when its site has room for it, a quarter; its bytes are free again when it has been released."""
    url = site.respond({"body": PICTURE})
    async with Fetcher(settings(site, max_held_bytes=4 * len(PICTURE), timeout_s=0.3)) as fetcher:
        first = await fetcher.get(url)
        second = asyncio.create_task(fetcher.get(url))
        while len(site.requests) < 2:  # noqa: ASYNC110 - the server signals nothing
            await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):  # longer than a try may take: waiting for memory is not the host's fault
            await asyncio.wait_for(asyncio.shield(second), 0.5)
        assert isinstance(first, Fetched)
        first.release()
        late = await second
        assert isinstance(late, Fetched)
        late.release()
        assert fetcher._bodies.free_bytes == 4 * len(PICTURE)


async def test_body_larger_than_the_budget_gives_back_what_it_took(site: Site) -> None:
    """The budget stays what it is."""
    async with Fetcher(settings(site, max_held_bytes=1024)) as fetcher:
        fetched = await fetcher.get(site.respond({"body": PICTURE}))
        assert isinstance(fetched, Fetched)
        assert fetcher._bodies.free_bytes == 1024 - 256
        fetched.release()
        assert fetcher._bodies.free_bytes == 1024


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


@pytest.mark.parametrize(
    "failure", [{"body": b""}, {"status": 404}, {"body": PICTURE, "headers": {"Content-Encoding": "br"}}]
)
async def test_body_that_fails_gives_its_bytes_back(site: Site, failure: dict[str, Any]) -> None:
    """No refusal leaks memory from the budget."""
    async with Fetcher(settings(site, max_held_bytes=2048)) as fetcher:
        for _ in range(5):
            await error_of(fetcher, site.respond(failure))
        assert fetcher._bodies.free_bytes == 2048


async def test_cancelled_fetch_gives_its_bytes_back(site: Site) -> None:
    """An event that is superseded in the middle of its body frees what it had taken."""
    begun = asyncio.Event()

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"x")
        begun.set()
        await asyncio.sleep(60)
        return response

    async with Fetcher(settings(site, max_held_bytes=2048)) as fetcher:
        fetch = asyncio.create_task(fetcher.get(site.handle(half)))
        await begun.wait()
        while fetcher._bodies.free_bytes == 2048:  # noqa: ASYNC110 - the fetcher signals nothing
            await asyncio.sleep(0)
        fetch.cancel()
        await asyncio.gather(fetch, return_exceptions=True)
        assert fetcher._bodies.free_bytes == 2048


class RebindingResolver(AbstractResolver):
    """Resolves a name to another address each time."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = list(addresses)

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = 0) -> list[ResolveResult]:  # type: ignore[assignment]
        address = self._addresses.pop(0)
        return [ResolveResult(hostname=host, host=address, port=port, family=2, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing to free."""


async def test_name_that_turns_to_a_local_address_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that was public a moment ago is judged again by the address that the connection really goes to."""
    monkeypatch.setattr("streamer.fetch.refuse", lambda address: None if str(address) == "127.0.0.1" else "private")
    site.respond({"body": PICTURE, "headers": {"Connection": "close"}})
    url = f"http://shop.test:{site.server.port}/a.jpg"
    resolver = RebindingResolver("127.0.0.1", "127.0.0.2")
    async with Fetcher(settings(), resolver=resolver) as fetcher:
        assert isinstance(await fetcher.get(url), Fetched)
        fetcher._public._connector.clear_dns_cache()  # type: ignore[union-attr]
        assert (await error_of(fetcher, url)).code == "image_address_refused"
    assert len(site.requests) == 1


async def test_host_without_a_server_is_found_by_the_system_s_names(site: Site) -> None:
    """`/etc/hosts` counts as before: localhost is this machine."""
    site.respond({"body": PICTURE})
    async with Fetcher(settings(allow_hosts=[f"localhost:{site.server.port}"])) as fetcher:
        assert isinstance(await fetcher.get(f"http://localhost:{site.server.port}/a.jpg"), Fetched)


@pytest.mark.parametrize("url", ["http://[]@", "http://][@", "https://x[]y@", "http://[::1"])
async def test_url_that_no_parser_reads_is_a_dead_letter(url: str) -> None:
    """The worker goes on, and the event is acknowledged."""
    async with worker(settings(), in_flight=4) as one:
        await one.send(url)
        await one.pipeline.drain()
        assert (one.outcomes(), one.acknowledged) == ({"image_url_invalid": 1}, [0])
        assert not one.pipeline.fatal.done()


HEADER_FLOOD = b"".join(b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(1000))


OK, CHUNKED = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
MALFORMED, TIMEOUT, LARGE = "image_http_malformed", "image_timeout", "image_too_large_bytes"
CUT = "image_host_unreachable"


@pytest.mark.parametrize(
    ("answer", "repeated", "codes"),
    [
        (OK, HEADER_FLOOD, {MALFORMED}),
        (OK + b"X: ", b"y" * 65536, {MALFORMED}),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", {TIMEOUT, MALFORMED}),
        (CHUNKED, b"1;" + b"z" * 65536, {MALFORMED, TIMEOUT, CUT, LARGE}),
        (CHUNKED, b"1\r\nx\r\n", {LARGE, TIMEOUT, "image_too_slow"}),
        (CHUNKED + b"0\r\n", HEADER_FLOOD, {MALFORMED, "image_empty", CUT}),
        (OK + b"Content-Length: -1\r\n\r\n", b"x" * 65536, {MALFORMED}),
        (OK + b"Content-Length: 99999999999999999999999\r\n\r\n", b"x", {LARGE, MALFORMED}),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n", b"", {"image_url_invalid"}),
        (b"HTTP/1.1 302 Found\r\nLocation: http://\xff/\r\nContent-Length: 0\r\n\r\n", b"", {"image_url_invalid"}),
        (b"\x16\x03\x01\x02\x00" + bytes(1000), b"", {MALFORMED}),
    ],
)
async def test_hostile_server_costs_a_rejection_and_no_memory(answer: bytes, repeated: bytes, codes: set[str]) -> None:
    """A server that never ends what it has begun is cut off: by size, by syntax, or by time."""
    sent = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            while repeated:
                writer.write(repeated)
                sent += len(repeated)
                await writer.drain()
                await asyncio.sleep(0)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        limits = settings(allow_hosts=[address], timeout_s=1, max_image_bytes=2**20)
        async with Fetcher(limits) as fetcher:
            assert (await error_of(fetcher, f"http://{address}/a.jpg")).code in codes
            assert fetcher._bodies.free_bytes == limits.max_held_bytes
    assert sent < 2**31


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


async def test_refused_picture_holds_no_memory_while_it_waits_for_the_older_one(site: Site) -> None:
    """The older update's picture wants the bytes that the newer one's had: both end."""
    decoding = asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        await decoding.wait()
        return web.Response(body=png(0) + bytes(2000))

    async def decoded(data: bytes) -> NDArray[np.uint8]:
        decoding.set()
        return decode(data, FakeEngine().manifest.image, max_pixels=10**6)

    broken = site.respond({"body": bytes(2000)}, path="/broken.png")
    async with worker(settings(site, max_held_bytes=2500), in_flight=4, decoded=decoded) as one:
        await one.send(site.handle(slow, path="/slow.png"), "p")
        await one.send(broken, "p")
        await asyncio.wait_for(one.pipeline.drain(), 10)
        assert one.outcomes() == {"image_unsupported": 1, "scored": 1}
