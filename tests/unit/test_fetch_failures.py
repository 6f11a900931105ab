"""The fetcher where a server or the network fails: what is tried again, when, and what is given up."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from math import inf
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver
from structlog.testing import capture_logs

from streamer.answers import MAX_WAIT_S, retry_after_s
from streamer.errors import RejectedEvent, TransientError
from streamer.fetch import Fetched, Fetcher
from tests.sites import DIGEST, PICTURE, FixedResolver, Site, error_of, settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


# -- failures of the network


async def test_get_refused_connection_is_unreachable_after_all_tries(unused_tcp_port: int) -> None:
    """Nobody listens: tried again, then given up."""
    async with Fetcher(settings(attempts=3, allow_hosts=[f"127.0.0.1:{unused_tcp_port}"])) as fetcher:
        error = await error_of(fetcher, f"http://127.0.0.1:{unused_tcp_port}/a.jpg?signature=hidden")
    assert (type(error), error.code, error.attempts) == (TransientError, "image_host_unreachable", 3)
    assert "hidden" not in str(error)


async def test_get_unknown_name_is_unreachable() -> None:
    """A name that does not resolve may resolve later."""
    async with Fetcher(settings(), resolver=FixedResolver()) as fetcher:
        error = await error_of(fetcher, "http://nowhere.test/a.jpg")
    assert (type(error), error.code) == (TransientError, "image_host_unreachable")


async def test_get_connection_lost_in_body_is_unreachable(site: Site) -> None:
    """Half a picture is no picture."""

    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"x" * 10)
        assert request.transport is not None
        request.transport.close()
        return response

    async with Fetcher(settings(site)) as fetcher:
        error = await error_of(fetcher, site.handle(respond))
    assert (type(error), error.code) == (TransientError, "image_host_unreachable")


@pytest.mark.parametrize("when", ["before the headers", "in the body"])
async def test_get_slow_server_times_out(site: Site, when: str) -> None:
    """One try takes no longer than `timeout_s`, wherever the server stalls."""

    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if when == "in the body":
            await response.prepare(request)
            await response.write(b"x")
        await asyncio.sleep(30)
        return response

    async with Fetcher(settings(site, timeout_s=0.2, attempts=2)) as fetcher:
        error = await error_of(fetcher, site.handle(respond) + "?signature=hidden")
    assert (type(error), error.code, error.attempts) == (TransientError, "image_timeout", 2)
    assert "hidden" not in str(error)


async def test_get_slow_redirects_share_one_timeout(site: Site) -> None:
    """A chain of redirects, each within the limit, is not."""

    async def respond(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return web.Response(status=302, headers={"Location": "/a.jpg"})

    async with Fetcher(settings(site, timeout_s=0.5, max_redirects=10)) as fetcher:
        assert (await error_of(fetcher, site.handle(respond))).code == "image_timeout"
    assert len(site.requests) <= 2  # a busy machine may spend the time on the first


async def test_get_server_of_another_protocol_is_malformed() -> None:
    """What does not speak HTTP is told apart from what does not answer."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Fetcher(settings(allow_hosts=[address])) as fetcher:
            assert (await error_of(fetcher, f"http://{address}/a.jpg")).code == "image_http_malformed"


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    """Return the TLS context of a server whose certificate nobody vouches for."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "1", "-subj", "/CN=shop.test", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


async def test_get_certificate_of_nobody_is_rejected(self_signed: ssl.SSLContext) -> None:
    """A certificate that nobody vouches for is not accepted, and not tried again."""
    site = Site()
    await site.server.start_server(ssl=self_signed)
    async with Fetcher(settings(site, attempts=3)) as fetcher:
        error = await error_of(fetcher, f"https://{site.address}/a.jpg")
    await site.server.close()
    assert (error.code, error.attempts) == ("image_tls_invalid", 1)


# -- tries


async def test_get_failure_then_success_returns_with_attempts(site: Site) -> None:
    """A server that recovers costs tries, not the event."""
    url = site.respond({"status": 503}, {"status": 429}, {"body": PICTURE})
    async with Fetcher(settings(site, attempts=3)) as fetcher:
        assert await fetcher.get(url) == Fetched(PICTURE, DIGEST, None, attempts=3)


class Pauses:
    """A sleep that takes no time and is remembered."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


async def pauses_of(site: Site, seed: int, **changes: Any) -> list[float]:  # noqa: ANN401 - fields as pydantic takes them
    """Return the pauses between the tries of a fetch that fails."""
    pauses = Pauses()
    async with Fetcher(settings(site, **changes), rng=random.Random(seed), sleep=pauses) as fetcher:
        await error_of(fetcher, site.url())
    return pauses.seconds


async def test_get_backoff_doubles_with_full_jitter(site: Site) -> None:
    """Pauses are drawn below a bound that doubles, differ by seed, and never exceed the longest one."""
    site.respond({"status": 500})
    pauses = await pauses_of(site, 1, attempts=8, backoff_s=1)
    assert len(pauses) == 7
    assert all(0 <= pause <= min(MAX_WAIT_S, 2**n) for n, pause in enumerate(pauses))
    assert max(pauses) > 4
    assert pauses == await pauses_of(site, 1, attempts=8, backoff_s=1)
    assert pauses != await pauses_of(site, 2, attempts=8, backoff_s=1)


@pytest.mark.parametrize(("asked", "pause"), [("3", 3.0), ("10", MAX_WAIT_S), ("soon", 0.0)])
async def test_get_retry_after_is_the_shortest_pause(site: Site, asked: str, pause: float) -> None:
    """The server's wish counts, whatever the backoff; what is none is ignored."""
    site.respond({"status": 429, "headers": {"Retry-After": asked}})
    assert await pauses_of(site, 1, attempts=2) == [pause]


async def test_get_retry_after_beyond_what_an_event_may_wait_ends_its_tries(site: Site) -> None:
    """The host is not asked before the time that it names: an event that cannot wait that long is rejected at once."""
    url = site.respond({"status": 503, "headers": {"Retry-After": "11"}}, {"body": PICTURE})
    async with Fetcher(settings(site, attempts=3), sleep=Pauses()) as fetcher:
        error = await error_of(fetcher, url)
    assert (error.code, error.attempts, len(site.requests)) == ("image_http_5xx", 1, 1)


def test_retry_after_date_is_seconds_from_now() -> None:
    """Retry-After may be a date; the past means now."""
    now = datetime.now(UTC)
    assert 3590 < (retry_after_s(format_datetime(now + timedelta(hours=1))) or 0) <= 3600
    assert 1 < (retry_after_s(format_datetime(now + timedelta(seconds=5))) or 0) <= 5
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 -0000") == 0
    assert retry_after_s("9" * 400) == inf


# -- what nobody foresaw


@pytest.mark.parametrize("control", sorted({*range(1, 0x20), 0x7F} - set(b"\r\n")))
async def test_get_validator_with_a_control_character_is_never_sent_back(control: int) -> None:
    """Such headers are read by aiohttp, which refuses to write them: the picture counts, its validator does not."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        tag = b'"a' + bytes([control]) + b'b"'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nETag: %s\r\nLast-Modified: %s\r\n\r\nx" % (tag, tag))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Fetcher(settings(allow_hosts=[address])) as fetcher:
            first = await fetcher.get(f"http://{address}/a.jpg")
            assert isinstance(first, Fetched)
            assert first.validator is None
            assert isinstance(await fetcher.get(f"http://{address}/a.jpg", first.validator), Fetched)


class BrokenResolver(AbstractResolver):
    """Raises what no library says that it raises."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> NoReturn:
        raise self._error

    async def close(self) -> None:
        """Nothing to free."""


async def test_get_unforeseen_error_is_a_rejection_and_its_traceback_is_logged() -> None:
    """A library's bug costs the event that meets it, not the worker; what the error quotes stays out of the log."""
    failed: list[str] = []
    broken = BrokenResolver(IndexError("http://shop.test/a.jpg?signature=hidden"))
    async with Fetcher(settings(attempts=3), resolver=broken, failed=failed.append) as fetcher:
        with capture_logs() as logs:
            error = await error_of(fetcher, "http://shop.test/a.jpg?signature=hidden")
    assert (type(error), error.code, failed) == (RejectedEvent, "image_fetch_failed", ["image_fetch_failed"])
    (entry,) = logs
    assert (entry["event"], entry["log_level"], entry["error"]) == ("fetch.failed", "error", "IndexError")
    assert "in resolve" in entry["traceback"]
    assert "hidden" not in str(error) + repr(entry)


async def test_get_unreadable_url_of_an_unforeseen_kind_is_a_rejection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what reading the URL itself raises, before there is a host."""

    def surprised(_: str) -> NoReturn:
        raise RecursionError

    monkeypatch.setattr("streamer.fetch.acceptable_url", surprised)
    async with Fetcher(settings()) as fetcher:
        assert (await error_of(fetcher, "http://shop.test/")).code == "image_fetch_failed"


async def test_get_worker_s_own_failures_and_cancellation_pass() -> None:
    """No memory, and a fetcher that is closed or was never opened, are nobody's bad picture."""
    for error in (MemoryError(), asyncio.CancelledError()):
        async with Fetcher(settings(), resolver=BrokenResolver(error)) as fetcher:
            with pytest.raises(type(error)):
                await fetcher.get("http://shop.test/a.jpg")
    with pytest.raises(RuntimeError):
        await fetcher.get("http://shop.test/a.jpg")
    with pytest.raises(AssertionError):
        await Fetcher(settings()).get("http://shop.test/a.jpg")
