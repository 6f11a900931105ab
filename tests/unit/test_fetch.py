"""The fetcher against a real HTTP server on 127.0.0.1."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from streamer.answers import Validator
from streamer.errors import FatalError, RejectedEvent, StreamerError, TransientError
from streamer.fetch import Fetched, Fetcher, NotModified
from tests.sites import DIGEST, PICTURE, FixedResolver, Gate, Site, error_of, serving, settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LIMIT = 4096


# -- what comes back


async def test_get_picture_returns_its_bytes_and_validator(site: Site) -> None:
    """A plain 200 gives the body and what to ask with next time."""
    url = site.respond({"body": PICTURE, "headers": {"ETag": '"v1"', "Last-Modified": "Wed, 21 Oct 2026 07:28:00 GMT"}})
    async with Fetcher(settings(site)) as fetcher:
        fetched = await fetcher.get(url)
    assert fetched == Fetched(PICTURE, DIGEST, Validator('"v1"', "Wed, 21 Oct 2026 07:28:00 GMT"), attempts=1)


async def test_get_request_shows_who_asks_and_takes_no_encoding(site: Site) -> None:
    """The server sees our name, no wish for compression and no cookie, also after it has set one."""
    url = site.respond({"body": PICTURE, "headers": {"Set-Cookie": "id=1"}})
    async with Fetcher(settings(site, user_agent="tester/1")) as fetcher:
        await fetcher.get(url)
        await fetcher.get(url)
    headers = site.requests[1].headers
    assert headers["User-Agent"] == "tester/1"
    assert headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in headers
    assert "If-None-Match" not in headers


async def test_get_unchanged_picture_is_not_modified(site: Site) -> None:
    """The validator goes out as conditions, and 304 comes back as NotModified."""
    url = site.respond({"status": 304})
    async with Fetcher(settings(site)) as fetcher:
        assert await fetcher.get(url, Validator('"v1"', "Wed, 21 Oct 2026 07:28:00 GMT")) == NotModified(attempts=1)
    assert site.requests[0].headers["If-None-Match"] == '"v1"'
    assert site.requests[0].headers["If-Modified-Since"] == "Wed, 21 Oct 2026 07:28:00 GMT"


async def test_get_not_modified_unasked_is_rejected(site: Site) -> None:
    """304 without a condition gives no picture to score."""
    url = site.respond({"status": 304})
    async with Fetcher(settings(site)) as fetcher:
        assert (await error_of(fetcher, url)).code == "image_http_unexpected"


@pytest.mark.parametrize("headers", [{}, {"ETag": f'"{"x" * 1000}"'}, {"ETag": '"é"'}, {"Last-Modified": "1\t2"}])
async def test_get_no_usable_validator_is_none(site: Site, headers: dict[str, str]) -> None:
    """A server without a validator, or with one too long to remember or not plain ASCII, gives None."""
    url = site.respond({"body": PICTURE, "headers": headers})
    async with Fetcher(settings(site)) as fetcher:
        fetched = await fetcher.get(url)
    assert isinstance(fetched, Fetched)
    assert fetched.validator is None


# -- statuses


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (204, RejectedEvent, "image_http_unexpected"),
        (300, RejectedEvent, "image_http_unexpected"),
        (302, RejectedEvent, "image_http_unexpected"),  # a redirect to nowhere
        (400, RejectedEvent, "image_http_4xx"),
        (401, RejectedEvent, "image_forbidden"),
        (403, RejectedEvent, "image_forbidden"),
        (404, RejectedEvent, "image_not_found"),
        (408, TransientError, "image_timeout"),
        (410, RejectedEvent, "image_not_found"),
        (418, RejectedEvent, "image_http_4xx"),
        (425, TransientError, "image_rate_limited"),
        (429, TransientError, "image_rate_limited"),
        (500, TransientError, "image_http_5xx"),
        (503, TransientError, "image_http_5xx"),
    ],
)
async def test_get_status_says_what_to_do(site: Site, status: int, kind: type[StreamerError], code: str) -> None:
    """Each status is rejected at once or tried again as often as allowed, under a stable code; each try is told."""
    url, failed = site.respond({"status": status}), []
    async with Fetcher(settings(site, attempts=3), failed=failed.append) as fetcher:
        error = await error_of(fetcher, url)
    tries = 3 if kind is TransientError else 1
    assert (type(error), error.code, error.attempts, len(site.requests)) == (kind, code, tries, tries)
    assert failed == [code] * tries


async def test_get_empty_body_is_rejected(site: Site) -> None:
    """200 with nothing in it is no picture."""
    async with Fetcher(settings(site)) as fetcher:
        assert (await error_of(fetcher, site.respond({"body": b""}))).code == "image_empty"


async def test_get_encoded_body_is_rejected(site: Site) -> None:
    """A body that would have to be decompressed may be a bomb, and nobody asked for it."""
    url = site.respond({"body": PICTURE, "headers": {"Content-Encoding": "gzip"}})
    async with Fetcher(settings(site)) as fetcher:
        assert (await error_of(fetcher, url)).code == "image_encoding_refused"


# -- byte limits


def chunked(body: bytes) -> Handler:
    """Return a handler that sends the body in chunks, without its length."""

    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):  # the fetcher may have left
            for start in range(0, len(body), 1000):
                await response.write(body[start : start + 1000])
        return response

    return respond


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
@pytest.mark.parametrize("declared", [True, False])
async def test_get_body_at_limit_passes_beyond_is_rejected(site: Site, size: int, declared: bool) -> None:
    """The limit holds for the declared length and for what really comes."""
    body = PICTURE[:size]
    url = site.respond({"body": body}) if declared else site.handle(chunked(body))
    async with Fetcher(settings(site, max_image_bytes=LIMIT)) as fetcher:
        if size <= LIMIT:
            fetched = await fetcher.get(url)
            assert isinstance(fetched, Fetched)
            assert fetched.body == body
        else:
            assert (await error_of(fetcher, url)).code == "image_too_large_bytes"


async def test_get_body_that_never_ends_is_cut_at_limit(site: Site) -> None:
    """A server that keeps sending does not fill the memory."""
    sent = 0

    async def respond(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while sent < 10**9:
            await response.write(PICTURE)
            sent += len(PICTURE)
        return response

    async with Fetcher(settings(site, max_image_bytes=LIMIT)) as fetcher:
        assert (await error_of(fetcher, site.handle(respond))).code == "image_too_large_bytes"
    assert sent < 10**8


# -- addresses and redirects


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "shop.test"])
async def test_get_local_address_is_refused(site: Site, host: str) -> None:
    """A service of this machine is out of reach however it is named, and tried once only."""
    async with Fetcher(settings(attempts=3), resolver=FixedResolver("10.0.0.1", "127.0.0.1")) as fetcher:
        error = await error_of(fetcher, f"http://{host}:{site.server.port}/a.jpg")
    assert (error.code, error.attempts, site.requests) == ("image_address_refused", 1, [])


async def test_get_allowed_host_is_exempt_with_its_port_only(site: Site) -> None:
    """`allow_hosts` opens one name and port; the same address under another name stays closed."""
    site.respond({"body": PICTURE})
    allowed = settings(allow_hosts=[f"cdn.test:{site.server.port}"])
    async with Fetcher(allowed, resolver=FixedResolver("127.0.0.1")) as fetcher:
        assert isinstance(await fetcher.get(f"http://cdn.test:{site.server.port}/a.jpg"), Fetched)
        for other in (f"http://www.test:{site.server.port}/a.jpg", site.url(), "http://cdn.test/a.jpg"):
            assert (await error_of(fetcher, other)).code == "image_address_refused"
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    "entry",
    ["cdn.test", "cdn.test:", "cdn.test:99999", "http://cdn.test:80", "a@cdn.test:80", "cdn.test:80?", "0x7f.1:80", ""],
)
def test_fetcher_allow_hosts_wrong_is_fatal(entry: str) -> None:
    """A setting that would allow something else than what it seems to is refused at the start."""
    with pytest.raises(FatalError, match="ALLOW_HOSTS"):
        Fetcher(settings(allow_hosts=[entry]))


def redirect(location: str, status: int = 302) -> dict[str, Any]:
    """Return a redirecting answer."""
    return {"status": status, "headers": {"Location": location}}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_get_redirect_is_followed_and_gives_no_validator(site: Site, status: int) -> None:
    """The target's bytes come back; its validator does not belong to the URL that was asked."""
    url = site.respond(redirect("/sized/b.jpg?w=1", status))
    site.respond({"body": PICTURE, "headers": {"ETag": '"b"'}}, path="/sized/b.jpg")
    async with Fetcher(settings(site)) as fetcher:
        assert await fetcher.get(url, Validator('"a"', None)) == Fetched(PICTURE, DIGEST, None)
    first, second = site.requests
    assert first.headers["If-None-Match"] == '"a"'
    assert "If-None-Match" not in second.headers


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://127.0.0.1:{port}/secret", "image_address_refused"),
        ("http://[::1]:{port}/secret", "image_address_refused"),
        ("http://2130706433:{port}/secret", "image_address_refused"),
        ("//localhost:{port}/secret", "image_address_refused"),
        ("http://169.254.169.254/latest/meta-data/", "image_address_refused"),
        ("http://user:hidden@shop.test/", "image_url_invalid"),
        ("ftp://shop.test/a.jpg", "image_url_invalid"),
        ("file:///etc/passwd", "image_url_invalid"),
        ("http://shop.test:99999/", "image_url_invalid"),
        ("http://[]@", "image_url_invalid"),
        ("//[]@", "image_url_invalid"),
    ],
)
async def test_get_redirect_to_refused_target_is_refused(site: Site, location: str, code: str) -> None:
    """A redirect opens nothing that the URL itself could not have named."""
    async with serving() as private:
        url = site.respond(redirect(location.format(port=private.server.port)))
        async with Fetcher(settings(site, attempts=3)) as fetcher:
            error = await error_of(fetcher, url)
        assert (error.code, error.attempts, private.requests) == (code, 1, [])
        assert "hidden" not in str(error)


async def test_get_redirect_loop_ends_at_limit(site: Site) -> None:
    """`max_redirects` bounds a loop: that many are followed, the next one is refused."""
    url = site.respond(redirect("/a.jpg"))
    async with Fetcher(settings(site, max_redirects=2)) as fetcher:
        assert (await error_of(fetcher, url)).code == "image_redirects_exceeded"
    assert len(site.requests) == 3


# -- places


async def test_get_slow_host_leaves_places_to_others(site: Site) -> None:
    """A host that stalls holds its own places only; another is served meanwhile."""
    gate = Gate(full=2)
    slow = site.handle(gate)
    async with serving() as quick, Fetcher(settings(site, quick, concurrency=3, concurrency_per_host=2)) as fetcher:
        stalled = [asyncio.create_task(fetcher.get(slow)) for _ in range(6)]
        await gate.is_full.wait()
        assert isinstance(await fetcher.get(quick.respond({"body": PICTURE})), Fetched)
        assert gate.waiting == 2
        gate.open.set()
        await asyncio.gather(*stalled)
    assert gate.most == 2


async def test_get_all_hosts_together_keep_the_total(site: Site) -> None:
    """`concurrency` bounds the sum over hosts."""
    gate = Gate(full=3)
    async with serving() as other, Fetcher(settings(site, other, concurrency=3, concurrency_per_host=2)) as fetcher:
        urls = [site.handle(gate), other.handle(gate)] * 4
        fetches = [asyncio.create_task(fetcher.get(url)) for url in urls]
        await gate.is_full.wait()
        gate.open.set()
        await asyncio.gather(*fetches)
    assert gate.most == 3


async def test_get_waiting_for_a_place_takes_no_time_of_the_try(site: Site) -> None:
    """Five fetches of 0.2 s, one after the other, stay within a limit of 0.9 s each."""

    async def respond(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.2)
        return web.Response(body=PICTURE)

    url = site.handle(respond)
    async with Fetcher(settings(site, timeout_s=0.9, concurrency_per_host=1)) as fetcher:
        fetched = await asyncio.gather(*(fetcher.get(url) for _ in range(5)))
    assert fetched == [Fetched(PICTURE, DIGEST, None)] * 5


async def test_get_cancelled_gives_its_place_back(site: Site) -> None:
    """A fetch that nobody waits for any more frees its place and its connection."""
    gate = Gate(full=1)
    async with Fetcher(settings(site, concurrency=1)) as fetcher:
        superseded = asyncio.create_task(fetcher.get(site.handle(gate)))
        await gate.is_full.wait()
        superseded.cancel()
        with pytest.raises(asyncio.CancelledError):
            await superseded
        assert isinstance(await fetcher.get(site.respond({"body": PICTURE}, path="/b.jpg")), Fetched)


async def test_get_other_host_done_its_places_are_forgotten(site: Site) -> None:
    """A feed of a million hosts does not leave a million semaphores."""
    async with Fetcher(settings(site)) as fetcher:
        await fetcher.get(site.respond({"body": PICTURE}))
        assert not fetcher._site_places
