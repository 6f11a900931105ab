"""URL → bytes of a picture: limits, retries, conditional GET. Nothing here decodes or remembers a picture.

Every connection is judged by `addresses.refuse` when its socket is made, with the address that it will really go to:
names, literal addresses and the targets of redirects all pass there. Messages name the host only, since paths and
queries may be signed.
"""

from __future__ import annotations

import asyncio
import random
import socket
import traceback
from collections import Counter
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakValueDictionary

import aiohttp
import structlog
from yarl import URL

from streamer.addresses import acceptable_url, refuse
from streamer.answers import MAX_WAIT_S, AddressRefused, Validator, conditions, location, translated, validator_of
from streamer.bodies import BodyReader
from streamer.breaker import CircuitBreakers, HostUnavailable, NothingLearned
from streamer.errors import FatalError, RejectedEvent, StreamerError, TransientError
from streamer.loop_lag import LoopLag
from streamer.sites import site_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from aiohttp.abc import AbstractResolver

    from streamer.bodies import Body
    from streamer.breaker import Host
    from streamer.settings import FetchSettings

log = structlog.get_logger(__name__)

WAITING_SHARE: Final = 4
"""Events that wait for hosts that are left alone are a quarter of the connections at most: others need the places."""

_ACCEPT = "image/jpeg, image/png, image/webp, image/*;q=0.5"
# A feed of a thousand hosts reuses its connections within seconds; one of many thousands must not keep them all open.
_KEEPALIVE_S = 5.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """A picture's bytes and their digest; `validator` is None where the server gave none, or the URL redirects.

    Its bytes count against the fetcher's budget until `release` is called, once. Whoever fetches calls it: an error's
    traceback may keep the picture itself alive for as long as somebody waits.
    """

    body: bytes
    sha256: str
    validator: Validator | None
    attempts: int = 1
    release: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)


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
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take the limits; `rng` draws the jitter, `sleep` waits between tries, `resolver` overrides the system's.

        `failed` is told the code of each try that failed.

        Raises:
            FatalError: settings_invalid, when an entry of `allow_hosts` is not HOST:PORT.
        """
        self._settings = settings
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._sleep = sleep
        self._resolver = resolver
        self._failed = failed
        self._allowed = frozenset(_allowed_host(entry) for entry in settings.allow_hosts)
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout_s)
        self._places = asyncio.Semaphore(settings.concurrency)
        # A site's places vanish with the last fetch that uses or awaits them.
        self._site_places: WeakValueDictionary[Host, asyncio.Semaphore] = WeakValueDictionary()
        failures, pause_s = settings.breaker_failures, settings.breaker_pause_s
        self._breakers = CircuitBreakers(failures=failures, pause_s=pause_s)
        # More failures than a site has places: those of one dead host, all at once, say nothing of its neighbours.
        self._site_breakers = CircuitBreakers(failures=settings.concurrency_per_host + failures, pause_s=pause_s)
        self._waiting: Counter[Host] = Counter()  # by site, for hosts that are left alone
        self._bodies = BodyReader(settings)
        self._lag = LoopLag()
        self._shortest_s = min(settings.timeout_s, settings.connect_timeout_s, settings.slow_after_s)
        self._stack = AsyncExitStack()
        self._public: aiohttp.ClientSession | None = None
        self._exempt: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        if self._resolver is None:  # not the system's: it blocks a thread for each name, and there are few
            self._resolver = aiohttp.AsyncResolver(timeout=self._settings.connect_timeout_s, tries=2)
            self._stack.push_async_callback(self._resolver.close)
        self._lag.start()
        self._stack.callback(self._lag.stop)
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
                image_rate_limited, image_too_slow, after the last try; image_host_unavailable, where the host is left
                alone after many failures.
            RejectedEvent: image_fetch_failed, where anything else went wrong: some library's bug, not the worker's end.
        """
        try:
            return await self._get(url, validator)
        except (StreamerError, MemoryError):
            raise
        except Exception as error:
            if self._public is None or self._public.closed:
                raise  # whoever asks is to blame
            raise self._unforeseen(error) from None

    def _unforeseen(self, error: Exception) -> RejectedEvent:
        """Log where it happened; the error's own words stay out, as they may quote the URL."""
        name = type(error).__name__
        log.error("fetch.failed", error=name, traceback="".join(traceback.format_tb(error.__traceback__)))
        self._failed("image_fetch_failed")
        return RejectedEvent("image_fetch_failed", f"fetching failed by {name}: the worker's log says where")

    async def _get(self, url: str, validator: Validator | None) -> Fetched | NotModified:
        target = acceptable_url(url)
        for attempt in range(1, self._settings.attempts + 1):
            try:
                return await self._follow(target, validator, attempt)
            except TransientError as error:
                error.attempts = attempt
                self._failed(error.code)
                if attempt == self._settings.attempts or (error.retry_after_s or 0.0) > MAX_WAIT_S:
                    raise
                await self._pause(target, attempt, error)
            except StreamerError as error:
                error.attempts = attempt
                self._failed(error.code)
                raise
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    async def _pause(self, url: URL, attempt: int, error: TransientError) -> None:
        """Wait before the next try; for a host that is left alone only a few events wait, the others end here."""
        pause_s = self._pause_s(attempt, error.retry_after_s)
        host = error.host if isinstance(error, HostUnavailable) else _host_of(url)  # one may redirect to the other
        site = self._site_of(host)
        if not self._breakers.is_open(host) and not self._site_breakers.is_open(site):
            await self._sleep(pause_s)
            return
        settings = self._settings
        most, most_of_site = settings.concurrency // WAITING_SHARE, settings.concurrency_per_host // WAITING_SHARE
        if self._waiting.total() >= most or self._waiting[site] >= most_of_site:
            raise error
        self._waiting[site] += 1
        try:
            await self._sleep(pause_s)
        finally:
            self._waiting[site] -= 1
            self._waiting += Counter()  # lets go of sites for which nobody waits

    async def _follow(self, url: URL, validator: Validator | None, attempt: int) -> Fetched | NotModified:
        """One try: the URL, and what it redirects to. Waiting for a place takes nothing of its time."""
        clock = asyncio.get_running_loop().time
        left_s = self._settings.timeout_s
        redirected = False
        for _ in range(self._settings.max_redirects + 1):
            host = _host_of(url)
            site = self._site_of(host)
            async with self._places_of(site), self._places:
                started = clock()
                with self._breakers.attempt(host), self._site_breakers.attempt(site), self._unless_stalled(host):
                    answer = await self._ask(url, host, validator, max(0.0, left_s))
                left_s -= clock() - started
            match answer:
                case URL():
                    url = answer
                case Fetched():
                    return replace(answer, attempts=attempt, validator=None if redirected else answer.validator)
                case NotModified():
                    return NotModified(attempt)
            # Another resource may carry the same validator: only the URL that gave it is asked.
            redirected, validator = True, None
        raise RejectedEvent("image_redirects_exceeded", f"more than {self._settings.max_redirects} redirects")

    @contextmanager
    def _unless_stalled(self, host: Host) -> Generator[None]:
        """Hold no failure against a host while this worker stood still itself for half of its shortest limit."""
        before_s = self._lag.lost_s()
        try:
            yield
        except TransientError as error:
            stalled_s = self._lag.lost_s() - before_s
            if stalled_s < self._shortest_s / 2:
                raise
            log.warning("fetch.stalled", host=host[0], stalled_s=round(stalled_s, 2), reason=error.code)
            message = f"this worker stood still for {stalled_s:.1f} s while {host[0]} was to answer"
            raise NothingLearned(error.code, message, retry_after_s=error.retry_after_s) from None

    async def _ask(
        self, url: URL, host: Host, validator: Validator | None, left_s: float
    ) -> Fetched | NotModified | URL:
        """Return what one request brings, within its time: a picture, that it has not changed, or where it is."""
        body: Body | None = None
        try:
            async with asyncio.timeout(left_s) as limit, self._request(url, host, validator) as response:
                if response.status == 200:  # noqa: PLR2004 - OK
                    body = await self._bodies.read(response, self._site_of(host), limit)
                    return Fetched(body.data, body.sha256, validator_of(response.headers), release=body.release)
                if response.status == 304 and validator is not None:  # noqa: PLR2004 - Not Modified
                    return NotModified()
                return location(url, response)
        except BaseException as error:
            if body is not None:  # it came, and then its time was up, or nobody wants it any more
                body.release()
            if isinstance(error, (aiohttp.ClientError, TimeoutError)):
                raise translated(error, host[0]) from None  # aiohttp's words may quote the whole URL
            raise

    def _request(
        self, url: URL, host: Host, validator: Validator | None
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        session = self._exempt if host in self._allowed else self._public
        assert session is not None, "use the fetcher as an async context manager"
        headers = None if validator is None else conditions(validator)
        return session.get(url, headers=headers, allow_redirects=False, timeout=self._timeout)

    def _site_of(self, host: Host) -> Host:
        """Return what stands for the host and all other names and ports of its owner; an exempt host stands alone."""
        return host if host in self._allowed else (site_of(host[0]), 0)

    def _places_of(self, site: Host) -> asyncio.Semaphore:
        """Return the site's own places: taken before one of all, so that a slow one cannot hold those it waits for."""
        places = self._site_places.get(site)
        if places is None:
            places = self._site_places[site] = asyncio.Semaphore(self._settings.concurrency_per_host)
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


def _public_socket(address_info: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
    family, kind, protocol, _, address = address_info
    reason = refuse(ip_address(address[0]))
    if reason is not None:
        raise AddressRefused(reason)
    return socket.socket(family, kind, protocol)


def _allowed_host(entry: str) -> Host:
    try:
        url = acceptable_url(f"http://{entry}")
    except RejectedEvent:
        url = None
    if url is None or not url.raw_host or not url.explicit_port or set(entry) & set("/?#@"):
        raise FatalError("settings_invalid", "STREAMER_FETCH__ALLOW_HOSTS: each entry is HOST:PORT and nothing else")
    return url.raw_host, url.explicit_port


def _host_of(url: URL) -> Host:
    return url.raw_host or "", url.port or 0
