"""A worker as a child process, `streamer score` or `streamer labels`, its settings in its environment as anywhere."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import aiohttp
import orjson
from pydantic import SecretStr

from streamer.demo.broker import free_port, log_tail, spawn
from streamer.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path
    from typing import IO

    from pydantic import BaseModel

READY_TIMEOUT_S = 60.0
"""Far above the seconds that a start takes, for a machine that is busy with something else."""
STOP_TIMEOUT_S = 30.0
"""Above `STREAMER_PIPELINE__DRAIN_TIMEOUT_S`, within which a worker finishes what is in flight."""
_POLL_S = 0.05


class Worker:
    """A running worker. `url` is where its metrics and health are."""

    def __init__(self, process: subprocess.Popen[bytes], log: IO[bytes], url: str) -> None:
        self._process = process
        self._log = log
        self._started_s = time.monotonic()
        self.url = url

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise when the worker has ended.

        Raises:
            FatalError: worker_died, with the end of its log.
        """
        if self._process.poll() is not None:
            raise FatalError(
                "worker_died",
                f"the worker ended with status {self._process.returncode}; its last words:\n{log_tail(self._log)}",
            )

    async def wait_until_ready(self, session: aiohttp.ClientSession) -> float:
        """Return the seconds from its start until it says that it is ready.

        Raises:
            FatalError: worker_died, worker_not_ready.
        """
        while not await _ready(session, f"{self.url}/readyz"):
            self.check()
            if time.monotonic() - self._started_s > READY_TIMEOUT_S:
                raise FatalError(
                    "worker_not_ready",
                    f"the worker is not ready after {READY_TIMEOUT_S:.0f} s; its last words:\n{log_tail(self._log)}",
                )
            await asyncio.sleep(_POLL_S)
        return time.monotonic() - self._started_s

    def stop(self) -> None:
        """Let it finish what is in flight and leave its group; end it when it does not."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def running_worker(variables: Mapping[str, str], log_file: Path, *, command: str = "score") -> Generator[Worker]:
    """Run a worker with these settings while the block runs; what it logs goes to `log_file`.

    Args:
        variables: its settings.
        log_file: is written anew.
        command: `score`, `labels` or `drift`.
    """
    port = free_port()
    others = {name: value for name, value in os.environ.items() if not name.upper().startswith("STREAMER_")}
    env = others | dict(variables) | {"STREAMER_TELEMETRY__PORT": str(port)}
    log_file.unlink(missing_ok=True)
    with log_file.open("a+b") as log:  # appending: reading its end must not move where the child writes
        process = spawn([sys.executable, "-m", "streamer.cli", command], log=log, env=env)
        worker = Worker(process, log, f"http://127.0.0.1:{port}")
        try:
            yield worker
        finally:
            worker.stop()


def settings_variables(sections: Mapping[str, BaseModel]) -> dict[str, str]:
    """Return settings as the environment carries them: {"broker": (group g)} → STREAMER_BROKER__GROUP=g.

    Defaults are written out too, so that nothing else in the environment or in `.env` has a say.
    """
    return {
        f"STREAMER_{section}__{name}".upper(): _text(value)
        for section, values in sections.items()
        for name, value in values.model_dump().items()
        if value is not None
    }


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return orjson.dumps(value).decode()
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


async def _ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200  # noqa: PLR2004 - OK
    except (aiohttp.ClientError, TimeoutError):
        return False
