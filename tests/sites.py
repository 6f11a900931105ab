"""Image hosts on 127.0.0.1 whose answers a test writes down, and settings that let the fetcher reach them."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections import defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import TestServer

from streamer.errors import StreamerError
from streamer.settings import FetchSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from streamer.fetch import Fetcher

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PICTURE = bytes(range(256)) * 40
DIGEST = hashlib.sha256(PICTURE).hexdigest()


class Site:
    """A server whose answers the test writes down; it keeps the requests that it saw."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Handler]] = defaultdict(list)
        self.requests: list[web.Request] = []
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self.server = TestServer(app, host="127.0.0.1")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def url(self, path: str = "/a.jpg") -> str:
        return f"http://{self.address}{path}"

    def respond(self, *answers: dict[str, Any], path: str = "/a.jpg") -> str:
        """Answer with these responses in turn, the last one again and again; return the URL."""

        def handler(answer: dict[str, Any]) -> Handler:
            async def respond(request: web.Request) -> web.Response:
                return web.Response(**answer)

            return respond

        self.answers[path] = [handler(answer) for answer in answers]
        return self.url(path)

    def handle(self, handler: Handler, path: str = "/a.jpg") -> str:
        """Answer by this handler; return the URL."""
        self.answers[path] = [handler]
        return self.url(path)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        handlers = self.answers[request.path]
        return await (handlers.pop(0) if len(handlers) > 1 else handlers[0])(request)


class FixedResolver(AbstractResolver):
    """Resolves every name to the given addresses; none at all is a DNS failure."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if not self._addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            ResolveResult(hostname=host, host=a, port=port, family=socket.AF_INET, proto=0, flags=0)
            for a in self._addresses
        ]

    async def close(self) -> None:
        """Nothing to free."""


@asynccontextmanager
async def serving() -> AsyncIterator[Site]:
    """Run a site for the length of the block."""
    site = Site()
    await site.server.start_server()
    try:
        yield site
    finally:
        await site.server.close()


class Gate:
    """A handler that holds its requests until it is opened, and counts those that wait at once."""

    def __init__(self, full: int) -> None:
        self._full = full
        self.waiting = self.most = 0
        self.is_full = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        if self.waiting == self._full:
            self.is_full.set()
        await self.open.wait()
        self.waiting -= 1
        return web.Response(body=PICTURE)


async def error_of(fetcher: Fetcher, url: str) -> StreamerError:
    """Return the error that fetching this URL raises."""
    with pytest.raises(StreamerError) as caught:
        await fetcher.get(url)
    return caught.value


def settings(*sites: Site, **changes: Any) -> FetchSettings:  # noqa: ANN401 - fields as pydantic takes them
    """Return settings that allow the sites, try once and wait for nothing, unless changed."""
    defaults: dict[str, Any] = {"allow_hosts": [s.address for s in sites], "backoff_s": 0, "attempts": 1}
    return FetchSettings(**{**defaults, **changes})
