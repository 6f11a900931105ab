"""Hosts that are slow, greedy or false, on real servers: what they cost, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from engines.image import decode
from streamer.fetch import Fetched, Fetcher
from tests.fakes import FakeEngine, png
from tests.fetching import worker
from tests.sites import PICTURE, Site, error_of, settings

if TYPE_CHECKING:
    import socket

    import numpy as np
    from numpy.typing import NDArray


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
