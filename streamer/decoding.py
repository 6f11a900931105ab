"""Bytes of a picture → pixels, decoded in processes of their own: what a picture does there, this worker survives.

`DecoderPool.decode` stands for `engines.image.decode` with the same pixels and the same refusals, and two more: a
decoder that crashed, and one that took too long. No thread waits for a decoder: the event loop hands pictures over and
is told of answers, several at a time when there are many. The other side is `streamer.decoder`, kept
by a `streamer.nursery`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import msgspec
import numpy as np

from engines.errors import ImageRefused
from streamer.decoder import REQUEST, WALL_PER_CPU, Orders, Refusal
from streamer.errors import FatalError
from streamer.nursery import Nursery

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from engines.contract import ImageSpec

SLOTS_PER_DECODER: Final = 4
"""One in work, and others that wait beside it: a busy decoder goes from one picture to the next without sleeping."""

TRIES: Final = 2
"""Nurseries that a picture is given to: one that was killed takes pictures with it that did nothing wrong."""

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

_START_S = 30.0  # for a nursery on a busy machine to begin, before it is taken for dead
_LEAVE_S = 0.5  # for decoders to see that nobody wants them any more
_LOOK_S = 1.0  # between two looks at the oldest picture
_LARGE_BYTES = 4 * 2**20  # of a picture: its slot's memory is given back after it


@dataclass(slots=True, eq=False)
class _Picture:
    """A picture and who waits for its pixels; `slot`, `since` and `tries` are of the nursery that has it."""

    data: bytes
    pixels: asyncio.Future[NDArray[np.uint8]]
    slot: int = 0
    since: float = 0.0
    tries: int = 0


class DecoderPool:
    """Decoders for the tasks of one event loop; an async context manager.

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
        self._orders = Orders(
            spec=spec,
            max_pixels=max_pixels,
            memory_bytes=memory_bytes,
            cpu_s=cpu_s,
            decoders=size,
            slots=size * SLOTS_PER_DECODER,
            slot_bytes=max(max_bytes, self._pixel_bytes),
        )
        self._longest_s = SLOTS_PER_DECODER * cpu_s * WALL_PER_CPU  # for a picture that was handed over
        self._numbers = itertools.count(1)
        self._waiting: deque[_Picture] = deque()
        self._inside: dict[int, _Picture] = {}  # by number, in the order in which they were handed over
        self._free: list[int] = []  # slots
        self._nursery: Nursery | None = None
        self._answers = 0  # of this nursery
        self._fruitless = 0  # nurseries in a row that died without an answer
        self._ended = False
        self._watching: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._begin()
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended = True
        self._watching.cancel()
        nursery, self._nursery = self._nursery, None
        if nursery is not None:
            nursery.let_go()
            await asyncio.to_thread(nursery.end, _LEAVE_S)
        self._give_up("the decoders have been ended")

    async def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Return `pixel_values`, uint8 (3, H, W), as `engines.image.decode` does.

        Raises:
            ImageRefused: image_unsupported, image_too_large, image_truncated, image_malformed, image_decode_timeout,
                image_decoder_crashed.
            FatalError: decoder_unusable, when no decoder can be started, or the pool has been left.
        """
        if len(data) > self._max_bytes:
            raise ImageRefused(f"more than {self._max_bytes} bytes", code="image_too_large")
        if self._ended:
            raise FatalError("decoder_unusable", "the decoders have been ended")
        picture = _Picture(data, asyncio.get_running_loop().create_future())
        self._waiting.append(picture)
        self._hand_over()
        return await picture.pixels

    # -- to the decoders

    def _begin(self) -> Nursery:
        self._nursery = Nursery(self._orders, answered=self._take_answers, died=self._nursery_died)
        self._free, self._answers = list(range(self._orders.slots)), 0
        return self._nursery

    def _hand_over(self) -> None:
        """Give waiting pictures to the decoders, as many as there are slots for."""
        if not (self._waiting and (self._free or self._nursery is None)):
            return
        try:
            nursery = self._nursery or self._begin()
        except FatalError as error:
            self._give_up(str(error))
            return
        now = asyncio.get_running_loop().time()
        while self._waiting and self._free:
            picture = self._waiting.popleft()
            if picture.pixels.done():  # nobody wants it any more
                continue
            number, picture.slot, picture.since = next(self._numbers), self._free.pop(), now
            picture.tries += 1
            self._inside[number] = picture
            size = len(picture.data)
            nursery.slots.view(picture.slot, size)[:] = picture.data
            nursery.ask(REQUEST.pack(number, picture.slot, size))

    # -- from the decoders

    def _take_answers(self, answers: Iterable[tuple[int, bytes]]) -> None:
        for number, words in answers:
            picture = self._inside.pop(number, None)
            if picture is not None:  # else it was answered before, by a decoder that then died
                self._answers += 1
                self._finish(picture, words)
        self._hand_over()

    def _finish(self, picture: _Picture, words: bytes) -> None:
        assert self._nursery is not None
        slots = self._nursery.slots
        if not picture.pixels.done():
            if words:
                picture.pixels.set_exception(_refused(words))
            else:
                pixels = np.frombuffer(slots.view(picture.slot, self._pixel_bytes), np.uint8)
                picture.pixels.set_result(pixels.reshape(self._shape).copy())
        if len(picture.data) > _LARGE_BYTES:
            slots.empty(picture.slot)
        self._free.append(picture.slot)

    # -- when they fail

    def _nursery_died(self) -> None:
        """Start another nursery in the place of one that is dead, if anybody waits; else the next picture does."""
        dead, self._nursery = self._nursery, None
        if dead is None:
            return
        dead.let_go()
        dead.end(0.0)
        lost = [picture for picture in self._inside.values() if not picture.pixels.done()]
        self._inside.clear()
        self._fruitless = 0 if self._answers or not lost else self._fruitless + 1
        if self._fruitless >= TRIES:
            self._waiting.extend(lost)
            self._give_up("the processes that decode pictures end as soon as they begin")
            return
        for picture in reversed(lost):
            if picture.tries < TRIES:
                self._waiting.appendleft(picture)
            else:
                crashed = ImageRefused("all decoders ended with it, twice", code="image_decoder_crashed")
                picture.pixels.set_exception(crashed)
        self._hand_over()

    def _give_up(self, reason: str) -> None:
        self._waiting.extend(self._inside.values())
        self._inside.clear()
        while self._waiting:
            pixels = self._waiting.popleft().pixels
            if not pixels.done():
                pixels.set_exception(FatalError("decoder_unusable", reason))

    async def _watch(self) -> None:
        """Take a nursery for dead whose decoders have had a picture for longer than any may take."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(_LOOK_S)
            oldest = next(iter(self._inside.values()), None)
            patience_s = self._longest_s if self._answers else self._longest_s + _START_S
            if oldest is not None and clock() - oldest.since > patience_s:
                self._nursery_died()


class BlockingDecoders:
    """A pool for threads without an event loop, one picture after the other; a context manager.

    Args:
        pool: not entered yet, and used by nobody else.
    """

    def __init__(self, pool: DecoderPool) -> None:
        self._pool = pool
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)

    def __enter__(self) -> Self:
        self._runner.run(self._pool.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._pool.__aexit__())
        self._runner.close()

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Return what `DecoderPool.decode` does, when it is there.

        Raises:
            ImageRefused, FatalError: as there.
        """
        return self._runner.run(self._pool.decode(data))


def _refused(words: bytes) -> ImageRefused:
    try:
        refusal = msgspec.json.decode(words, type=Refusal)
    except msgspec.DecodeError:
        refusal = Refusal("image_decoder_crashed", "the decoder answered nonsense")
    code = refusal.code if refusal.code in _CODES else "image_decoder_crashed"
    return ImageRefused(refusal.message, code=code)
