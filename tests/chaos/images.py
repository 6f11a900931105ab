"""An image host with one port for each way in which a host can fail; a process of its own.

    python -m tests.chaos.images       prints {"good": PORT, "slow": PORT, …} when it listens

A picture's name is its colour, `RRGGBB.png`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import socket
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import uvloop
from PIL import Image

from streamer.demo.broker import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

Host = Literal["good", "slow", "refusing", "failing", "limiting", "flaky", "truncating", "circling"]
HOSTS: tuple[Host, ...] = ("good", "slow", "refusing", "failing", "limiting", "flaky", "truncating", "circling")
ANSWERS: tuple[Host, ...] = ("good", "flaky")
"""Hosts whose pictures can be had within a fetch's tries."""

MISSING = "missing.png"
"""A picture that these hosts have not."""

SIDE = 32
ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def image_hosts() -> Iterator[dict[Host, str]]:
    """Yield HOST:PORT of each host while the block runs."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            ports: dict[Host, int] = json.loads(process.stdout.readline())
            yield {host: f"{LOOPBACK}:{port}" for host, port in ports.items()}
        finally:
            process.kill()


@functools.cache
def png(name: str) -> bytes:
    """Return the picture with this name: one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), f"#{name.removesuffix('.png')}").save(buffer, "PNG")
    return buffer.getvalue()


def _answer(status: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def _good(target: str, request: str, writer: asyncio.StreamWriter) -> bool:
    name = target.partition("?")[0].strip("/")
    if name == MISSING:
        writer.write(_answer("404 Not Found"))
        return True
    etag = f'"{name}"'
    current = f"if-none-match: {etag}" in request.lower()
    answer = (
        _answer("304 Not Modified", b"", f"ETag: {etag}")
        if current
        else _answer("200 OK", png(name), f"ETag: {etag}", "Content-Type: image/png")
    )
    writer.write(answer)
    return True


async def _slow(target: str, _: str, writer: asyncio.StreamWriter) -> bool:
    picture = _answer("200 OK", png(target.partition("?")[0].strip("/")))
    head = picture.index(b"\r\n\r\n") + 4
    writer.write(picture[:head])
    for byte in picture[head:]:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(1)
    return False


async def _failing(_: str, __: str, writer: asyncio.StreamWriter) -> bool:
    writer.write(_answer("500 Internal Server Error", b"", "Retry-After: 1"))
    return True


async def _limiting(_: str, __: str, writer: asyncio.StreamWriter) -> bool:
    writer.write(_answer("429 Too Many Requests", b"", "Retry-After: 1"))
    return True


async def _truncating(target: str, _: str, writer: asyncio.StreamWriter) -> bool:
    picture = png(target.partition("?")[0].strip("/"))
    writer.write(_answer("200 OK", picture[: len(picture) // 2], length=len(picture)))
    return False


async def _circling(target: str, _: str, writer: asyncio.StreamWriter) -> bool:
    writer.write(_answer("302 Found", b"", f"Location: {target}"))
    return True


def fails_first(target: str) -> bool:
    """Whether the flaky host fails when it is asked for this the first time."""
    return zlib.crc32(target.encode()) % 4 == 0


class _Flaky:
    """Every fourth URL fails when it is asked for the first time.

    Not every URL: a worker with a backlog asks for many at once, and ten failures in a row are a host to be left alone.
    """

    def __init__(self) -> None:
        self._asked: set[str] = set()

    async def __call__(self, target: str, request: str, writer: asyncio.StreamWriter) -> bool:
        if target in self._asked or not fails_first(target):
            return await _good(target, request, writer)
        self._asked.add(target)
        return await _failing(target, request, writer)


_BEHAVIOURS: dict[Host, Callable[[str, str, asyncio.StreamWriter], Awaitable[bool]]] = {
    "good": _good,
    "slow": _slow,
    "failing": _failing,
    "limiting": _limiting,
    "flaky": _Flaky(),
    "truncating": _truncating,
    "circling": _circling,
}


async def _serve(host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests until a side closes; a behaviour returns whether the connection may go on."""
    with contextlib.suppress(OSError, RuntimeError, asyncio.IncompleteReadError):  # uvloop's, for one that has closed
        goes_on = True
        while goes_on:
            request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            goes_on = await _BEHAVIOURS[host](request.split(" ", 2)[1], request, writer)
            await writer.drain()
    writer.close()


async def _main() -> None:
    refusing = socket.socket()  # bound and never listening: the port stays taken, and connections are refused
    refusing.bind((LOOPBACK, 0))
    ports: dict[Host, int] = {"refusing": refusing.getsockname()[1]}
    for host in _BEHAVIOURS:
        server = await asyncio.start_server(functools.partial(_serve, host), LOOPBACK, 0, backlog=1024)
        ports[host] = server.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    await asyncio.to_thread(sys.stdin.read)  # ends with its parent


if __name__ == "__main__":
    uvloop.run(_main())
