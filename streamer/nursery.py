"""The process that keeps the decoders, as the worker sees it; what happens in there stands in `streamer.decoder`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Final

import msgspec

from streamer.decoder import ANSWER, MAX_REFUSAL_BYTES, Orders, Slots, environment
from streamer.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES: Final = 2**16  # of a pipe at once: all that it holds


class Nursery:
    """The process that keeps the decoders, and this side of its pipes.

    Args:
        orders: what to tell it.
        answered: is given answers: the number of each picture, and the words of its refusal, if any.
        died: is told when the nursery is gone, or has written what no decoder writes.
    """

    def __init__(
        self, orders: Orders, *, answered: Callable[[list[tuple[int, bytes]]], None], died: Callable[[], None]
    ) -> None:
        self._answered, self._died = answered, died
        self._unread = b""
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            try:
                requests, self._requests = _pipe(theirs, ours)
                os.set_blocking(requests, False)
                self._answers, answers = _pipe(ours, theirs)
                self._alive, alive = _pipe(ours, theirs)
                memory = _memory(Slots.size_of(orders))
                theirs.callback(os.close, memory)
                self.slots = Slots(memory, orders)
                self._process = _spawn(
                    msgspec.structs.replace(orders, requests=requests, answers=answers, alive=alive, memory=memory)
                )
            except OSError as error:
                raise FatalError("decoder_unusable", f"no decoder can be started: {error}") from error
            self._ours = ours.pop_all()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._answers, self._read)
        self._loop.add_reader(self._alive, died)

    def ask(self, request: bytes) -> None:
        """Hand a request over; that the nursery is dead is told by `died`."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._requests, request)

    def _read(self) -> None:
        received = self._unread + (chunk := os.read(self._answers, _READ_BYTES))
        answers, at = [], 0
        while len(received) - at >= ANSWER.size:
            number, size = ANSWER.unpack_from(received, at)
            if size > MAX_REFUSAL_BYTES:  # a decoder that a picture has taken over
                self._died()
                return
            end = at + ANSWER.size + size
            if end > len(received):
                break
            answers.append((number, received[at + ANSWER.size : end]))
            at = end
        self._unread = received[at:]
        self._answered(answers)
        if not chunk:
            self._died()

    def let_go(self) -> None:
        """Hear of it no more."""
        self._loop.remove_reader(self._answers)
        self._loop.remove_reader(self._alive)

    def end(self, within_s: float) -> None:
        """End the decoders, also in the middle of a picture; blocks."""
        self._ours.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(within_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # and decoders that have outlived their nursery
        self._process.wait()


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """Return the two ends of a pipe, which are closed with these."""
    ends = os.pipe()
    for end, whose in zip(ends, (reader, writer), strict=True):
        whose.callback(os.close, end)
    return ends


def _spawn(orders: Orders) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - this Python, this package
        [sys.executable, "-m", "streamer.decoder", msgspec.json.encode(orders).decode()],
        pass_fds=(orders.requests, orders.answers, orders.alive, orders.memory),
        env=environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,  # Ctrl-C is for the worker, which still has pictures in work
    )


def _memory(size: int) -> int:
    """Return the descriptor of memory without a name that can be shared; pages are taken as they are written."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("pictures")
    else:  # pragma: no cover - not Linux
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd
