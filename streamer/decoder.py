"""The process that decodes pictures of strangers, apart from the worker: `python -m streamer.decoder`, no other use.

One *nursery* imports what decoding needs, forks a decoder for each channel, and forks another when one dies; it never
touches a picture itself. A decoder takes one picture at a time and does nothing that outlives it:

    worker ──► bytes into the channel's memory, their count over its socket ──► decoder: limits on, decode
           ◄── 0 over the socket, pixels in the memory; or the code and the words of a refusal ◄──

The kernel keeps the limits, so no decoder has to cooperate: memory by RLIMIT_AS, CPU and wall time by timers whose
signals end the process. When it ends with a picture in its hands the nursery answers in its place. See ADR 12.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from engines.contract import ImageSpec  # noqa: TC001 - msgspec reads the annotations
from engines.errors import ImageRefused
from engines.image import decode

if TYPE_CHECKING:
    from collections.abc import Mapping

LENGTH: Final = struct.Struct("<I")
"""A message's head: of a request the picture's bytes, of an answer the refusal's; 0 when the pixels are there."""

BUSY_AT, PICTURE_AT = 0, 8
"""Where in a channel's memory it stands whether a picture is in work, and where picture and pixels begin."""

WALL_PER_CPU: Final = 5
"""A decoder that waits more than it works ends all the same: so many times its CPU time, by the clock."""

_MAX_WORDS = 500
_OPEN_FILES = 64  # enough for imports that Pillow leaves for later
_MOST_LIKELY_TO_BE_KILLED = b"1000"  # when the machine runs out of memory: a decoder, before the worker


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker tells its nursery: the picture wanted, the limits, and (socket, memory) of each channel."""

    spec: ImageSpec
    max_pixels: int
    memory_bytes: int
    cpu_s: float
    area_bytes: int
    channels: list[tuple[int, int]]


class Refusal(msgspec.Struct, frozen=True):
    """Why there are no pixels; `code` is one of `engines.errors.ImageRefused`'s."""

    code: str
    message: str


@dataclass
class Channel:
    """One end of what joins a worker's thread and a decoder."""

    peer: socket.socket
    area: mmap.mmap

    @classmethod
    def inherited(cls, socket_fd: int, memory_fd: int, area_bytes: int) -> Channel:
        """Return the channel that the worker passed on."""
        return cls(socket.socket(fileno=socket_fd), mmap.mmap(memory_fd, area_bytes))


def main(order: str) -> None:
    """Keep a decoder on every channel until the worker is gone."""
    orders = msgspec.json.decode(order, type=Orders)
    for number in (signal.SIGINT, signal.SIGTERM):  # the worker decides when it ends, by closing the channels
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError), open("/proc/self/oom_score_adj", "wb") as adjust:  # noqa: PTH123 - no path of ours
        adjust.write(_MOST_LIKELY_TO_BE_KILLED)
    channels = [Channel.inherited(*pair, orders.area_bytes) for pair in orders.channels]
    decoders = {_fork(channel, orders): channel for channel in channels}
    while decoders:
        pid, status = os.wait()
        channel = decoders.pop(pid)
        if os.waitstatus_to_exitcode(status) == 0:
            continue  # the worker has closed the channel
        if channel.area[BUSY_AT]:
            _answer(channel, _verdict(os.waitstatus_to_exitcode(status), orders))
        decoders[_fork(channel, orders)] = channel


def _fork(channel: Channel, orders: Orders) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            serve(channel, orders)
            code = 0
        finally:  # whatever was raised: nothing of the nursery may run in here
            os._exit(code)
    return pid


def serve(channel: Channel, orders: Orders) -> None:
    """Decode what comes, until the worker closes the channel."""
    _limit(orders.memory_bytes)
    while (head := receive(channel.peer, LENGTH.size)) is not None:
        channel.area[BUSY_AT] = 1
        body = channel.area[PICTURE_AT : PICTURE_AT + LENGTH.unpack(head)[0]]
        signal.setitimer(signal.ITIMER_REAL, orders.cpu_s * WALL_PER_CPU)
        signal.setitimer(signal.ITIMER_PROF, orders.cpu_s)
        try:
            pixels = decode(body, orders.spec, max_pixels=orders.max_pixels)
            channel.area[PICTURE_AT : PICTURE_AT + pixels.nbytes] = pixels.tobytes()
            refusal = None
        except ImageRefused as error:
            refusal = Refusal(error.code, str(error)[:_MAX_WORDS])
        for timer in (signal.ITIMER_REAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        _answer(channel, refusal)


def receive(peer: socket.socket, size: int) -> bytes | None:
    """Return that many bytes, None when the other end is gone."""
    received = b""
    while len(received) < size:
        try:
            chunk = peer.recv(size - len(received))
        except ConnectionError:
            return None
        if not chunk:
            return None
        received += chunk
    return received


def _answer(channel: Channel, refusal: Refusal | None) -> None:
    words = b"" if refusal is None else msgspec.json.encode(refusal)
    channel.area[BUSY_AT] = 0
    with suppress(ConnectionError):  # nobody waits for it any more
        channel.peer.sendall(LENGTH.pack(len(words)) + words)


def _verdict(exit_code: int, orders: Orders) -> Refusal:
    """Return what became of the picture that a decoder died of."""
    if -exit_code in (signal.SIGPROF, signal.SIGALRM):
        return Refusal("image_decode_timeout", f"decoding takes more than {orders.cpu_s} s")
    ended = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    return Refusal("image_decoder_crashed", f"the decoder ended with {ended}")


def _limit(memory_bytes: int) -> None:
    """Take the limits that hold for every picture; what is mapped already is not counted."""
    limits = {
        resource.RLIMIT_AS: _mapped_bytes() + memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
    }
    for which, wanted in limits.items():
        most = resource.getrlimit(which)[1]
        value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        with suppress(ValueError, OSError):  # a system that lacks a limit still has the others, and the timers
            resource.setrlimit(which, (value, value))


def _mapped_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - no path of ours
            return int(statm.read().split()[0]) * mmap.PAGESIZE
    except OSError:  # not Linux, where RLIMIT_AS means little
        return 2**40


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a decoder: where Python finds its modules, and no secret of the worker."""
    kept = {name: variables[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG") if name in variables}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}


if __name__ == "__main__":
    main(sys.argv[1])
