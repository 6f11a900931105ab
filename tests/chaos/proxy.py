"""A TCP proxy that stands between workers and the broker, and cuts their connections on demand."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Literal, Self

from streamer.demo.broker import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator

Way = Literal["requests", "answers"]
Cut = Literal["requests", "answers", "both", "refused"]

_CHUNK = 2**16


class Proxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`upstream`; an async context manager.

    A cut withholds the bytes of a way, as a network that drops every packet does: the connections stay, and what was
    sent arrives when the cut ends. `refused` closes every connection and takes no new one.
    """

    def __init__(self, port: int, upstream: int) -> None:
        self._port, self._upstream = port, upstream
        self._open: dict[Way, asyncio.Event] = {"requests": asyncio.Event(), "answers": asyncio.Event()}
        for gate in self._open.values():
            gate.set()
        self._refuses = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextlib.contextmanager
    def cut(self, what: Cut) -> Iterator[None]:
        """Cut the connections for the length of the block."""
        ways: list[Way] = [way for way in self._open if what in (way, "both")]
        for way in ways:
            self._open[way].clear()
        if what == "refused":
            self._refuses = True
            self._abort()
        try:
            yield
        finally:
            self._refuses = False
            for way in ways:
                self._open[way].set()

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(LOOPBACK, self._upstream)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, upstream_writer}
        self._writers |= pair
        task = asyncio.ensure_future(
            self._forward_both((reader, upstream_writer, "requests"), (upstream_reader, writer, "answers"))
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({task})
        for one in pair:
            one.transport.abort()
        self._writers -= pair

    async def _forward_both(self, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter, Way]) -> None:
        """Forward both ways until one ends: a connection that is closed on one side is closed on the other."""
        tasks = {asyncio.ensure_future(self._forward(*way)) for way in ways}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._open[way].wait()
                writer.write(data)
                await writer.drain()
