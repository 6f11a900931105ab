"""An image host for the demo: serves the files of one folder on 127.0.0.1, in a process of its own.

A process of its own, so that the work of serving is not taken for the scorer's. Files stay in memory once they were
asked for: what the demo measures is the scorer, not a disk.

    python -m streamer.demo.images --root DIR       prints {"port": …} when it listens
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mimetypes
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import uvloop
from aiohttp import web
from cachetools import LRUCache

from streamer.errors import FatalError

if TYPE_CHECKING:
    from types import TracebackType

LOOPBACK = "127.0.0.1"
STARTUP_TIMEOUT_S = 15.0

_MAX_CACHE_BYTES = 256 * 2**20


class ImageHost:
    """The image host as a child process that lives as long as its `with` block, or its parent."""

    def __init__(self, root: Path, *, startup_timeout_s: float = STARTUP_TIMEOUT_S) -> None:
        self._root = root
        self._startup_timeout_s = startup_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._port: int | None = None

    @property
    def address(self) -> str:
        """HOST:PORT, as `FetchSettings.allow_hosts` takes it; only inside the `with` block."""
        assert self._port is not None, "the image host is not started: use it as a context manager"
        return f"{LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int:
        """Process id; only inside the `with` block."""
        assert self._process is not None, "the image host is not started: use it as a context manager"
        return self._process.pid

    def url(self, name: str) -> str:
        """Return the URL of the file with this name, relative to the root and with `/` between folders."""
        return f"http://{self.address}/{quote(name)}"

    def __enter__(self) -> Self:
        """Start the host and return once it listens.

        Raises:
            FatalError: image_host_unavailable, when it does not start in time.
        """
        command = [sys.executable, "-m", __name__, "--root", str(self._root), "--end-with-stdin"]
        self._process = subprocess.Popen(  # noqa: S603 - this very module, no shell
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        # A child that says nothing is killed, which ends the wait for its first line.
        watchdog = threading.Timer(self._startup_timeout_s, self._process.kill)
        watchdog.start()
        try:
            self._port = json.loads(self._process.stdout.readline())["port"]
        except BaseException as error:
            self._end()
            if isinstance(error, ValueError):
                message = f"the image host did not start: is {self._root} a folder that can be read?"
                raise FatalError("image_host_unavailable", message) from error
            raise
        finally:
            watchdog.cancel()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process is not None
        with self._process as process:  # closes the pipes and waits
            process.kill()  # it has nothing to save
        self._process = self._port = None


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    state: tuple[int, int]  # modification time in ns, size: what tells that it has changed
    body: bytes
    headers: dict[str, str]

    @property
    def etag(self) -> str:
        return f"{self.state[0]:x}-{self.state[1]:x}"


class Files:
    """Answers requests with the files below `root`, and with 404 for everything else."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve(strict=True)
        self._files: LRUCache[str, _File] = LRUCache(_MAX_CACHE_BYTES, getsizeof=lambda file: len(file.body))

    async def respond(self, request: web.BaseRequest) -> web.Response:
        """Answer GET and HEAD; 304 when the client has the file as it is."""
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        try:
            file = self._file(request.path)
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return web.Response(status=404)
        if _is_current(request, file):
            return web.Response(status=304, headers=file.headers)
        return web.Response(body=file.body, headers=file.headers)

    def _file(self, name: str) -> _File:
        """Return the file, from memory when it has not changed on the disk.

        Raises:
            OSError: there is no such file below the root.
        """
        known = self._files.get(name)
        if known is not None and known.state == _state(known.path):
            return known
        file = self._load(name)
        if len(file.body) <= _MAX_CACHE_BYTES:
            self._files[name] = file
        return file

    def _load(self, name: str) -> _File:
        path = (self._root / name.lstrip("/")).resolve(strict=True)
        if not path.is_relative_to(self._root):  # `..`, or a symbolic link that leads out
            raise FileNotFoundError(name)
        state = _state(path)
        body = path.read_bytes()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        modified = formatdate(state[0] / 1e9, usegmt=True)
        file = _File(path, state, body, {"Content-Type": kind, "Last-Modified": modified})
        file.headers["ETag"] = f'"{file.etag}"'
        return file


def _state(path: Path) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116 - half the cost of Path.stat, for each request
    return found.st_mtime_ns, found.st_size


def _is_current(request: web.BaseRequest, file: _File) -> bool:
    """Return whether the client's conditions say that it has this very file (RFC 9110 §13.1)."""
    if "If-None-Match" in request.headers:
        return any(tag.value in (file.etag, "*") for tag in request.if_none_match or ())
    if "If-Modified-Since" not in request.headers:
        return False
    since = request.if_modified_since
    return since is not None and datetime.fromtimestamp(file.state[0] // 10**9, UTC) <= since


async def serve(root: Path, *, end_with_stdin: bool) -> None:
    """Serve the folder until cancelled, or until stdin is closed."""
    runner = web.ServerRunner(web.Server(Files(root).respond, access_log=None))
    await runner.setup()
    try:
        site = web.TCPSite(runner, LOOPBACK, 0)
        await site.start()
        print(json.dumps({"port": runner.addresses[0][1]}), flush=True)  # noqa: T201 - what the parent reads
        await (_stdin_closed() if end_with_stdin else asyncio.Event().wait())
    finally:
        await runner.cleanup()


async def _stdin_closed() -> None:
    """Return when the other end of stdin is closed: when the parent is gone, however it went."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def main() -> None:
    """Serve the folder that the command line names."""
    parser = argparse.ArgumentParser(description="Serve the images of a folder on 127.0.0.1.")
    parser.add_argument("--root", type=Path, required=True, help="the folder")
    parser.add_argument("--end-with-stdin", action="store_true", help="end when stdin is closed")
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.root, end_with_stdin=arguments.end_with_stdin))


if __name__ == "__main__":
    main()
