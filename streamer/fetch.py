"""URL → bytes of a picture: limits, retries, conditional GET. Nothing here decodes or remembers a picture.

Every connection is judged by `addresses.refuse` when its socket is made, with the address that it will really go to:
names, literal addresses and the targets of redirects all pass there. Messages name the host only, since paths and
queries may be signed.
"""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

import aiohttp
from yarl import URL

from streamer.addresses import acceptable_url, refuse
from streamer.errors import FatalError, RejectedEvent, StreamerError, TransientError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from aiohttp.abc import AbstractResolver
    from aiohttp.typedefs import LooseHeaders

    from streamer.settings import FetchSettings

MAX_WAIT_S = 10.0
"""The longest pause before another try, whatever the backoff or a Retry-After says: the event holds its place."""

_ACCEPT = "image/jpeg, image/png, image/webp, image/*;q=0.5"
_MAX_VALIDATOR_CHARS = 256  # it is kept for each URL; a longer one is not worth its memory
# A feed of a thousand hosts reuses its connections within seconds; one of many thousands must not keep them all open.
_KEEPALIVE_S = 5.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REJECTED_STATUS = {401: "image_forbidden", 403: "image_forbidden", 404: "image_not_found", 410: "image_not_found"}
_TRANSIENT_STATUS = {408: "image_timeout", 425: "image_rate_limited", 429: "image_rate_limited"}

_Host = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Validator:
    """What a server gave with a picture, to be asked later whether it still is the same (RFC 9110 §8.8)."""

    etag: str | None
    last_modified: str | None


@dataclass(frozen=True, slots=True)
class Fetched:
    """A picture's bytes; `validator` is None where the server gave none, or the URL redirects."""

    body: bytes
    validator: Validator | None
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class NotModified:
    """The picture is the one that came with the validator."""

    attempts: int = 1


class Fetcher:
    """Fetches pictures; an async context manager that belongs to one event loop."""

    def __init__(
        self,
        settings: FetchSettings,
        *,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        resolver: AbstractResolver | None = None,
    ) -> None:
        """Take the limits; `rng` draws the jitter, `sleep` waits between tries, `resolver` overrides the system's.

        Raises:
            FatalError: settings_invalid, when an entry of `allow_hosts` is not HOST:PORT.
        """
        self._settings = settings
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._sleep = sleep
        self._resolver = resolver
        self._allowed = frozenset(_allowed_host(entry) for entry in settings.allow_hosts)
        self._timeout = self._timeout_of(settings.timeout_s)
        self._places = asyncio.Semaphore(settings.concurrency)
        # A host's places vanish with the last fetch that uses or awaits them.
        self._host_places: WeakValueDictionary[_Host, asyncio.Semaphore] = WeakValueDictionary()
        self._stack = AsyncExitStack()
        self._public: aiohttp.ClientSession | None = None
        self._exempt: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._public = await self._stack.enter_async_context(self._open_session(_public_socket))
        if self._allowed:
            self._exempt = await self._stack.enter_async_context(self._open_session(None))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def get(self, url: str, validator: Validator | None = None) -> Fetched | NotModified:
        """Return the picture, or that it is still the one that `validator` came with.

        Raises:
            RejectedEvent: image_url_invalid, image_address_refused, image_not_found, image_forbidden, image_http_4xx,
                image_http_unexpected, image_redirects_exceeded, image_too_large_bytes, image_encoding_refused,
                image_tls_invalid, image_empty.
            TransientError: image_timeout, image_host_unreachable, image_http_5xx, image_http_malformed,
                image_rate_limited; after the last try.
        """
        target = acceptable_url(url)
        for attempt in range(1, self._settings.attempts + 1):
            try:
                return await self._follow(target, validator, attempt)
            except StreamerError as error:
                error.attempts = attempt
                if attempt == self._settings.attempts or not isinstance(error, TransientError):
                    raise
                pause_s = self._pause_s(attempt, error.retry_after_s)
            await self._sleep(pause_s)
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    async def _follow(self, url: URL, validator: Validator | None, attempt: int) -> Fetched | NotModified:
        """One try: the URL, and what it redirects to. Waiting for a place takes nothing of its time."""
        clock = asyncio.get_running_loop().time
        left_s, timeout = self._settings.timeout_s, self._timeout
        redirected = False
        for _ in range(self._settings.max_redirects + 1):
            host = (url.raw_host or "", url.port or 0)
            async with self._places_of(host), self._places:
                started = clock()
                try:
                    async with self._request(url, host, validator, timeout) as response:
                        if response.status == 200:  # noqa: PLR2004 - OK
                            body = await self._read(response)
                            return Fetched(body, None if redirected else _validator_of(response), attempt)
                        if response.status == 304 and validator is not None:  # noqa: PLR2004 - Not Modified
                            return NotModified(attempt)
                        url = _location(url, response)
                except (aiohttp.ClientError, TimeoutError) as error:
                    raise _translated(error, host[0]) from None  # aiohttp's words may quote the whole URL
                left_s -= clock() - started
            # Another resource may carry the same validator: only the URL that gave it is asked.
            redirected, validator, timeout = True, None, self._timeout_of(left_s)
        raise RejectedEvent("image_redirects_exceeded", f"more than {self._settings.max_redirects} redirects")

    def _request(
        self, url: URL, host: _Host, validator: Validator | None, timeout: aiohttp.ClientTimeout
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        session = self._exempt if host in self._allowed else self._public
        assert session is not None, "use the fetcher as an async context manager"
        headers = None if validator is None else _conditions(validator)
        return session.get(url, headers=headers, allow_redirects=False, timeout=timeout)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.strip().lower() != "identity":
            raise RejectedEvent("image_encoding_refused", f"{response.url.raw_host} sent a content encoding unasked")
        limit = self._settings.max_image_bytes
        # What is declared may be a lie: it only saves reading what is too large by its own account.
        size = response.content_length or 0
        chunks: list[bytes] = []
        received = 0
        while size <= limit and (chunk := await response.content.readany()):
            chunks.append(chunk)
            received += len(chunk)
            size = max(size, received)
        if size > limit:
            raise RejectedEvent("image_too_large_bytes", f"the image has more than {limit} bytes")
        if not received:
            raise RejectedEvent("image_empty", f"{response.url.raw_host} sent no bytes")
        return b"".join(chunks)

    def _timeout_of(self, left_s: float) -> aiohttp.ClientTimeout:
        total = max(0.001, left_s)  # never 0: aiohttp takes that for "no limit"
        return aiohttp.ClientTimeout(total=total, sock_connect=self._settings.connect_timeout_s)

    def _places_of(self, host: _Host) -> asyncio.Semaphore:
        """Return the host's own places: taken before one of all, so that a slow host cannot hold those it waits for."""
        places = self._host_places.get(host)
        if places is None:
            places = self._host_places[host] = asyncio.Semaphore(self._settings.concurrency_per_host)
        return places

    def _pause_s(self, attempt: int, retry_after_s: float | None) -> float:
        """Exponential backoff with full jitter, never before the server's Retry-After.

        Source: Brooker 2015, "Exponential Backoff And Jitter", AWS Architecture Blog.
        """
        jitter_s = self._rng.uniform(0, self._settings.backoff_s * 2 ** (attempt - 1))
        return min(MAX_WAIT_S, max(jitter_s, retry_after_s or 0.0))

    def _open_session(self, make_socket: Callable[..., socket.socket] | None) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,  # places are given by semaphores, outside the timeout
            keepalive_timeout=_KEEPALIVE_S,
            socket_factory=make_socket,
            resolver=self._resolver,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": self._settings.user_agent, "Accept": _ACCEPT, "Accept-Encoding": "identity"},
        )


class _AddressRefused(OSError):
    """An OSError, so that the other addresses of the host are tried."""


def _public_socket(address_info: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
    family, kind, protocol, _, address = address_info
    reason = refuse(ip_address(address[0]))
    if reason is not None:
        raise _AddressRefused(reason)
    return socket.socket(family, kind, protocol)


def _allowed_host(entry: str) -> _Host:
    try:
        url = acceptable_url(f"http://{entry}")
    except RejectedEvent:
        url = None
    if url is None or not url.raw_host or not url.explicit_port or set(entry) & set("/?#@"):
        raise FatalError("settings_invalid", "STREAMER_FETCH__ALLOW_HOSTS: each entry is HOST:PORT and nothing else")
    return url.raw_host, url.explicit_port


def _conditions(validator: Validator) -> LooseHeaders:
    headers = {"If-None-Match": validator.etag, "If-Modified-Since": validator.last_modified}
    return {name: value for name, value in headers.items() if value is not None}


def _validator_of(response: aiohttp.ClientResponse) -> Validator | None:
    given = (response.headers.get("ETag"), response.headers.get("Last-Modified"))
    etag, last_modified = (value if value and len(value) <= _MAX_VALIDATOR_CHARS else None for value in given)
    return Validator(etag, last_modified) if etag or last_modified else None


def _location(url: URL, response: aiohttp.ClientResponse) -> URL:
    """Return where a redirect leads; any other status ends the try."""
    location = response.headers.get("Location")
    if response.status not in _REDIRECTS or not location:
        raise _status_error(response.status, response.headers, url.raw_host)
    try:
        return acceptable_url(str(url.join(URL(location))))
    except ValueError:
        raise RejectedEvent("image_url_invalid", f"{url.raw_host} redirects to what is no URL") from None
    except RejectedEvent as error:
        raise RejectedEvent(error.code, f"redirected by {url.raw_host}: {error}") from error


def _status_error(status: int, headers: Mapping[str, str], host: str | None) -> StreamerError:
    message = f"{host} answered with status {status}"
    if status in _TRANSIENT_STATUS or 500 <= status <= 599:  # noqa: PLR2004 - server errors
        code = _TRANSIENT_STATUS.get(status, "image_http_5xx")
        return TransientError(code, message, retry_after_s=_retry_after_s(headers.get("Retry-After")))
    if 400 <= status <= 499:  # noqa: PLR2004 - client errors
        return RejectedEvent(_REJECTED_STATUS.get(status, "image_http_4xx"), message)
    return RejectedEvent("image_http_unexpected", message)


def _retry_after_s(value: str | None) -> float | None:
    """Return the seconds that Retry-After asks for, as a number or as a date (RFC 9110 §10.2.3), up to MAX_WAIT_S."""
    if value is None:
        return None
    try:
        seconds = float(value) if value.isdecimal() else _seconds_until(parsedate_to_datetime(value))
    except ValueError:
        return None
    return min(max(seconds, 0.0), MAX_WAIT_S)


def _seconds_until(moment: datetime) -> float:
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


def _translated(error: aiohttp.ClientError | TimeoutError, host: str) -> StreamerError:
    match error:
        case TimeoutError():
            return TransientError("image_timeout", f"{host} did not answer in time")
        case aiohttp.ClientConnectorError(os_error=_AddressRefused() as refused):
            return RejectedEvent("image_address_refused", f"the address of {host} is refused: {refused}")
        case aiohttp.ClientConnectorCertificateError():
            return RejectedEvent("image_tls_invalid", f"{host} has no valid certificate for its name")
        case aiohttp.ClientResponseError():
            return TransientError("image_http_malformed", f"{host} does not speak HTTP")
        case aiohttp.ClientConnectorError(os_error=cause):
            return TransientError("image_host_unreachable", f"{host} cannot be reached: {cause.strerror or cause}")
        case _:
            return TransientError("image_host_unreachable", f"{host} broke off: {type(error).__name__}")
