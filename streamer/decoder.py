"""The process that decodes pictures of strangers, apart from the worker: `python -m streamer.decoder`, no other use.

One *nursery* imports what decoding needs, forks the decoders, and forks another when one dies; it never touches a
picture itself. A decoder takes one picture at a time and does nothing that outlives it:

    worker ──► bytes into a slot of shared memory; number, slot, length into a pipe ──► decoder: limits on, decode
           ◄── number and 0 into another pipe, pixels in the slot; or number, length and words of a refusal ◄──

All decoders read the one pipe, so a picture goes to whichever is free. The kernel keeps the limits, so no decoder has
to cooperate: memory by RLIMIT_AS, CPU and wall time by timers whose signals end the process. When it ends with a
picture in its hands the nursery answers in its place. See ADR 12.
"""

from __future__ import annotations

import mmap
import os
import resource
import select
import signal
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from engines.contract import ImageSpec  # noqa: TC001 - msgspec reads the annotations
from engines.errors import ImageRefused
from engines.image import decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REQUEST: Final = struct.Struct("<QII")
"""A picture: its number (from 1, never again), its slot, its bytes. Two hundred fit into a page of the pipe."""

ANSWER: Final = struct.Struct("<QI")
"""What became of one: its number, and the bytes of the refusal that follow; 0 when its pixels are in the slot."""

MAX_REFUSAL_BYTES: Final = select.PIPE_BUF - ANSWER.size
"""An answer goes into the pipe in one piece, so those of several decoders do not mix."""

WALL_PER_CPU: Final = 5
"""A decoder that waits more than it works ends all the same: so many times its CPU time, by the clock."""

_IN_WORK: Final = struct.Struct("<Q")
_MAX_WORDS: Final = min(500, MAX_REFUSAL_BYTES // 8)  # six bytes for a character at most, and the code
_OPEN_FILES = 64  # enough for imports that Pillow leaves for later
_MOST_LIKELY_TO_BE_KILLED = b"1000"  # when the machine runs out of memory: a decoder, before the worker

_REUSED_BYTES: Final = 4 * 2**20
"""Blocks up to here a decoder's allocator uses again instead of giving them back to the kernel: fresh pages for every
picture cost as much as decoding a small one. Larger blocks go back, so that no picture leaves a large decoder."""


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker tells its nursery: the picture wanted, the limits, and the descriptors that it passes on."""

    spec: ImageSpec
    max_pixels: int
    memory_bytes: int
    cpu_s: float
    decoders: int
    slots: int
    slot_bytes: int
    requests: int = -1
    answers: int = -1
    alive: int = -1
    memory: int = -1


class Refusal(msgspec.Struct, frozen=True):
    """Why there are no pixels; `code` is one of `engines.errors.ImageRefused`'s."""

    code: str
    message: str


class Slots:
    """The memory that the worker and its decoders have in common: pictures by slot, and what each decoder is at.

    Args:
        fd: of memory that is as large as `size_of` says.
        orders: say how much there is of everything.
    """

    def __init__(self, fd: int, orders: Orders) -> None:
        self._slot_bytes, self._first = orders.slot_bytes, _pages(_IN_WORK.size * orders.decoders)
        self._memory = mmap.mmap(fd, self.size_of(orders))
        self._view = memoryview(self._memory)

    @staticmethod
    def size_of(orders: Orders) -> int:
        """Return how many bytes of memory there must be."""
        return _pages(_IN_WORK.size * orders.decoders) + orders.slots * _pages(orders.slot_bytes)

    def view(self, slot: int, size: int) -> memoryview:
        """Return the first bytes of a slot, to be read and written."""
        at = self._first + slot * _pages(self._slot_bytes)
        return self._view[at : at + size]

    def empty(self, slot: int) -> None:
        """Give the slot's memory back to the kernel, where it takes it."""
        if hasattr(mmap, "MADV_REMOVE"):
            size = _pages(self._slot_bytes)
            self._memory.madvise(mmap.MADV_REMOVE, self._first + slot * size, size)

    def takes(self, decoder: int, number: int) -> None:
        """Note which picture a decoder has in work; 0 for none."""
        _IN_WORK.pack_into(self._memory, _IN_WORK.size * decoder, number)

    def in_work(self, decoder: int) -> int:
        """Return the number of the picture that a decoder has in work; 0 for none."""
        (number,) = _IN_WORK.unpack_from(self._memory, _IN_WORK.size * decoder)
        return int(number)


def main(order: str) -> None:
    """Keep all decoders at work until the worker is gone."""
    orders = msgspec.json.decode(order, type=Orders)
    for number in (signal.SIGINT, signal.SIGTERM):  # the worker decides when it ends, by closing the pipe
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError), open("/proc/self/oom_score_adj", "wb") as adjust:  # noqa: PTH123 - no path of ours
        adjust.write(_MOST_LIKELY_TO_BE_KILLED)
    slots = Slots(orders.memory, orders)
    decoders = {_fork(decoder, slots, orders): decoder for decoder in range(orders.decoders)}
    while decoders:
        pid, status = os.wait()
        decoder, code = decoders.pop(pid), os.waitstatus_to_exitcode(status)
        if code == 0:
            continue  # the worker has closed the pipe
        if held := slots.in_work(decoder):
            slots.takes(decoder, 0)
            _answer(orders, held, _verdict(code, orders))
        decoders[_fork(decoder, slots, orders)] = decoder


def _fork(decoder: int, slots: Slots, orders: Orders) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(orders.alive)  # the nursery alone holds it: so the worker sees it die
            serve(decoder, slots, orders)
            code = 0
        finally:  # whatever was raised: nothing of the nursery may run in here
            os._exit(code)
    return pid


def serve(decoder: int, slots: Slots, orders: Orders) -> None:
    """Decode what comes, until the worker closes the pipe."""
    _limit(orders.memory_bytes)
    for number, slot, size in _requests(orders.requests):
        slots.takes(decoder, number)
        signal.setitimer(signal.ITIMER_REAL, orders.cpu_s * WALL_PER_CPU)
        signal.setitimer(signal.ITIMER_PROF, orders.cpu_s)
        refusal = _decode(slots, slot, size, orders)
        for timer in (signal.ITIMER_REAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        _answer(orders, number, refusal)
        slots.takes(decoder, 0)  # only now: an answer that comes twice does no harm, one that never comes does


def _requests(pipe: int) -> Iterator[tuple[int, int, int]]:
    """Yield what comes through the pipe until the worker closes it; another decoder may take it first.

    Waits and reads apart: a decoder that is killed in a read may have taken a request with it that nobody knows of.
    """
    waiting = select.epoll()
    waiting.register(pipe, select.EPOLLIN | select.EPOLLEXCLUSIVE)  # a request wakes one decoder, not all
    while True:
        try:
            request = os.read(pipe, REQUEST.size)
        except BlockingIOError:
            waiting.poll()
            continue
        if not request:
            return
        yield REQUEST.unpack(request)


def _decode(slots: Slots, slot: int, size: int, orders: Orders) -> Refusal | None:
    """Put the slot's picture into its place as pixels, or say why not."""
    try:
        pixels = decode(bytes(slots.view(slot, size)), orders.spec, max_pixels=orders.max_pixels)
    except ImageRefused as error:
        return Refusal(error.code, str(error)[:_MAX_WORDS])
    slots.view(slot, pixels.nbytes)[:] = pixels.data.cast("B")
    return None


def _answer(orders: Orders, number: int, refusal: Refusal | None) -> None:
    words = b"" if refusal is None else msgspec.json.encode(refusal)
    with suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(orders.answers, ANSWER.pack(number, len(words)) + words)


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


def _pages(size: int) -> int:
    """Return the bytes of the pages that so many bytes take."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a decoder: where Python finds its modules, and no secret of the worker.

    Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD; other C libraries than glibc read neither.
    """
    kept = {name: variables[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG") if name in variables}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": str(_REUSED_BYTES),
        "MALLOC_TRIM_THRESHOLD_": str(2 * _REUSED_BYTES),
    }


if __name__ == "__main__":
    main(sys.argv[1])
