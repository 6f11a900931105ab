"""Whose bytes wait for memory: those of one greedy site are not the others'."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from streamer import bodies
from streamer.fetch import Fetched, Fetcher
from tests.sites import PICTURE, error_of, serving, settings

if TYPE_CHECKING:
    from tests.sites import Site

KIB = 1024


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an answer without a length begin with little, as a picture of 20 MiB begins with 1."""
    monkeypatch.setattr(bodies, "UNDECLARED_BYTES", 2 * len(PICTURE))


@pytest.mark.parametrize("declared", [True, False], ids=["declares too much", "declares nothing"])
async def test_site_that_drips_large_pictures_keeps_no_memory_from_others(site: Site, declared: bool) -> None:
    """It has more answers under way than there is memory for; each of another site comes at once."""
    begun = 0

    async def drip(request: web.Request) -> web.StreamResponse:
        nonlocal begun
        begun += 1
        response = web.StreamResponse(headers={"Content-Length": str(64 * KIB)} if declared else None)
        await response.prepare(request)
        await response.write(bytes(3 * len(PICTURE)))
        await asyncio.sleep(60)
        return response

    quick = site.handle(lambda _: _chunked())
    async with serving() as greedy:
        slow = greedy.handle(drip)
        limits = settings(site, greedy, max_held_bytes=256 * KIB, max_image_bytes=64 * KIB, timeout_s=30)
        async with Fetcher(limits) as fetcher:
            hogs = [asyncio.create_task(fetcher.get(slow)) for _ in range(16)]
            while begun < 16:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.01)
            started = time.perf_counter()
            for _ in range(8):
                fetched = await asyncio.wait_for(fetcher.get(quick), 10)
                assert isinstance(fetched, Fetched)
                fetched.release()
            assert time.perf_counter() - started < 5
            for hog in hogs:
                hog.cancel()
            await asyncio.gather(*hogs, return_exceptions=True)
            assert fetcher._bodies.free_bytes == limits.max_held_bytes


async def _chunked() -> web.Response:
    response = web.Response(body=PICTURE)
    response.enable_chunked_encoding()
    return response


async def test_pictures_that_grow_beyond_their_beginning_all_come(site: Site) -> None:
    """More of them than memory at once: each waits for the rest of its own, none for ever; all is given back."""
    body = bytes(40 * KIB)

    async def large(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(body), 8 * KIB):
            await response.write(body[start : start + 8 * KIB])
        return response

    limits = settings(site, max_held_bytes=128 * KIB, max_image_bytes=64 * KIB, timeout_s=30)
    async with Fetcher(limits) as fetcher:

        async def one() -> int:
            fetched = await fetcher.get(url)
            assert isinstance(fetched, Fetched)
            await asyncio.sleep(0)
            fetched.release()
            return len(fetched.body)

        url = site.handle(large)
        assert await asyncio.wait_for(asyncio.gather(*(one() for _ in range(24))), 20) == [len(body)] * 24
        assert fetcher._bodies.free_bytes == limits.max_held_bytes


async def test_picture_that_never_ends_is_refused_and_gives_all_back(site: Site) -> None:
    """It declares no length, and sends more than a picture may have."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(bytes(8 * KIB))
        return response

    limits = settings(site, max_held_bytes=256 * KIB, max_image_bytes=64 * KIB)
    async with Fetcher(limits) as fetcher:
        assert (await error_of(fetcher, site.handle(endless))).code == "image_too_large_bytes"
        assert fetcher._bodies.free_bytes == limits.max_held_bytes
