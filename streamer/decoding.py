"""Bytes of a picture → pixels, decoded in processes of their own: what a picture does there, this worker survives.

`DecoderPool.decode` stands for `engines.image.decode` with the same pixels and the same refusals, and two more: a
decoder that crashed, and one that took too long. It is called from the preprocessing threads, one picture each; the
other side is `streamer.decoder`.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, Self

import msgspec
import numpy as np

from engines.errors import ImageRefused
from streamer.decoder import LENGTH, PICTURE_AT, WALL_PER_CPU, Channel, Orders, Refusal, environment, receive
from streamer.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray

    from engines.contract import ImageSpec

_CODES: Final = frozenset(
    {
        "image_unsupported",
        "image_too_large",
        "image_truncated",
        "image_malformed",
        "image_decode_timeout",
        "image_decoder_crashed",
    }
)
"""What a refusal may be called: a decoder that a picture has taken over makes no metric labels."""

_MAX_REFUSAL_BYTES = 8192
_START_S = 30.0  # for a nursery on a busy machine to begin, before it is taken for dead
_LEAVE_S = 0.5  # for decoders to see that nobody wants them any more


class DecoderPool:
    """Decoders for as many threads as wanted; a context manager, for any thread.

    Args:
        spec: the picture that the engine takes.
        size: decoders, and so pictures at a time; further callers wait.
        max_bytes: of one file.
        max_pixels: declared width x height of one picture.
        memory_bytes: what one picture may allocate.
        cpu_s: CPU seconds that one picture may take; by the clock five times as long.
    """

    def __init__(
        self, spec: ImageSpec, *, size: int, max_bytes: int, max_pixels: int, memory_bytes: int, cpu_s: float
    ) -> None:
        self._shape = (3, spec.height, spec.width)
        self._pixel_bytes = 3 * spec.height * spec.width
        self._max_bytes = max_bytes
        self._size = size
        self._orders = Orders(
            spec=spec,
            max_pixels=max_pixels,
            memory_bytes=memory_bytes,
            cpu_s=cpu_s,
            area_bytes=PICTURE_AT + max(max_bytes, self._pixel_bytes),
            channels=[],
        )
        self._patience_s = _START_S + cpu_s * WALL_PER_CPU
        self._starting = threading.Lock()
        self._ended = False
        self._nursery: _Nursery | None = None

    def __enter__(self) -> Self:
        self._nursery = _Nursery(self._orders, self._size, self._patience_s)
        return self

    def __exit__(self, *_: object) -> None:
        with self._starting:
            self._ended = True
            if self._nursery is not None:
                self._nursery.end()

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Return `pixel_values`, uint8 (3, H, W), as `engines.image.decode` does; blocks.

        Raises:
            ImageRefused: image_unsupported, image_too_large, image_truncated, image_malformed, image_decode_timeout,
                image_decoder_crashed.
            FatalError: decoder_unusable, when no decoder can be started, or the pool has been left.
        """
        if len(data) > self._max_bytes:
            raise ImageRefused(f"more than {self._max_bytes} bytes", code="image_too_large")
        for _ in range(2):  # a nursery that was killed takes pictures with it that did nothing wrong
            nursery = self._nursery
            assert nursery is not None, "use the pool as a context manager"
            with nursery.channel() as channel:
                answer = self._ask(channel, data) if nursery.alive else None
                if answer is None:
                    nursery.alive = False
            if answer is not None:
                return self._read(answer)
            self._replace(nursery)
        raise FatalError("decoder_unusable", "the processes that decode pictures end as soon as they begin")

    def _ask(self, channel: Channel, data: bytes) -> NDArray[np.uint8] | bytes | None:
        """Return the pixels, or the words of a refusal; None when nobody answers any more."""
        channel.area[PICTURE_AT : PICTURE_AT + len(data)] = data
        try:
            channel.peer.sendall(LENGTH.pack(len(data)))
            head = receive(channel.peer, LENGTH.size)
            if head is None:
                return None
            size = LENGTH.unpack(head)[0]
            if size:
                return receive(channel.peer, size) if size <= _MAX_REFUSAL_BYTES else None
        except OSError:  # it is gone, or has been silent for longer than any picture may take
            return None
        pixels = np.frombuffer(channel.area, np.uint8, self._pixel_bytes, PICTURE_AT)
        return pixels.reshape(self._shape).copy()

    def _read(self, answer: NDArray[np.uint8] | bytes) -> NDArray[np.uint8]:
        if not isinstance(answer, bytes):
            return answer
        try:
            refusal = msgspec.json.decode(answer, type=Refusal)
        except msgspec.DecodeError:
            refusal = Refusal("image_decoder_crashed", "the decoder answered nonsense")
        code = refusal.code if refusal.code in _CODES else "image_decoder_crashed"
        raise ImageRefused(refusal.message, code=code)

    def _replace(self, dead: _Nursery) -> None:
        """Start another nursery in the place of one that is dead, once, whoever notices it."""
        with self._starting:
            if self._ended:  # threads may still be at a picture that nobody waits for
                raise FatalError("decoder_unusable", "the decoders have been ended")
            if self._nursery is dead:
                dead.end()
                self._nursery = _Nursery(self._orders, self._size, self._patience_s)


class _Nursery:
    """The process that keeps the decoders, and this side of its channels."""

    def __init__(self, orders: Orders, size: int, patience_s: float) -> None:
        self.alive = True
        self._size = size
        self._idle: SimpleQueue[Channel] = SimpleQueue()
        self._peers: list[socket.socket] = []
        fds: list[int] = []
        try:
            for _ in range(size):
                ours, theirs = socket.socketpair()
                self._peers.append(ours)
                fds.append(theirs.detach())
                _wait_at_most(ours, patience_s)
                fds.append(_memory(orders.area_bytes))
                self._idle.put(Channel(ours, mmap.mmap(fds[-1], orders.area_bytes)))
            channels = list(zip(fds[::2], fds[1::2], strict=True))
            order = msgspec.json.encode(msgspec.structs.replace(orders, channels=channels)).decode()
            self._process = subprocess.Popen(  # noqa: S603 - this Python, this package
                [sys.executable, "-m", "streamer.decoder", order],
                pass_fds=fds,
                env=environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the worker, which still has pictures in work
            )
        except OSError as error:
            for peer in self._peers:
                peer.close()
            raise FatalError("decoder_unusable", f"no decoder can be started: {error}") from error
        finally:
            for fd in fds:
                os.close(fd)

    @contextmanager
    def channel(self) -> Generator[Channel]:
        """Wait for a channel; where the nursery has died meanwhile, it leads nowhere."""
        channel = self._idle.get()
        try:
            yield channel
        finally:
            self._idle.put(channel)
            self._close_unused()

    def _close_unused(self) -> None:
        if not self.alive and self._idle.qsize() == self._size:
            for peer in self._peers:
                peer.close()

    def end(self) -> None:
        """End the decoders, also in the middle of a picture."""
        self.alive = False
        for peer in self._peers:
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)  # not closed: another thread may be waiting at it
        try:
            self._process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._close_unused()


def _wait_at_most(peer: socket.socket, seconds: float) -> None:
    """Bound each call by the kernel: Python's own timeout polls first, and each time fights for the interpreter."""
    limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def _memory(size: int) -> int:
    """Return the descriptor of memory without a name that can be shared; pages are taken as they are written."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("picture")
    else:  # pragma: no cover - not Linux
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd
