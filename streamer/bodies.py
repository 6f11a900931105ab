"""The bytes of an answer, as they come: not too many, not too slowly, and no more at once than there is memory for.

    declared length, or the first MiB of an undeclared one ──► `first` half of the memory
    what an undeclared one has beyond that                 ──► `rest`, the other half

A site holds at most half of either. Who waits for `rest` holds some of `first`, and who holds `rest` waits for nothing:
nobody waits for ever. Waiting for memory takes nothing of the time that the host has.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from streamer.budget import SharedBudget
from streamer.errors import RejectedEvent, TransientError

if TYPE_CHECKING:
    from collections.abc import Generator, Hashable

    import aiohttp

    from streamer.budget import Held
    from streamer.settings import FetchSettings

UNDECLARED_BYTES: Final = 2**20
"""Of an answer that does not say how long it is: most pictures have fewer."""


class Body(NamedTuple):
    """What was read: its bytes, their SHA-256, and the memory that they hold until `held` lets go of it."""

    data: bytes
    sha256: str
    held: list[Held]

    def release(self) -> None:
        """Give the memory back."""
        for one in self.held:
            one.shrink(0)


class BodyReader:
    """Reads bodies within limits; belongs to one event loop."""

    def __init__(self, settings: FetchSettings) -> None:
        self._settings = settings
        self._first = SharedBudget(settings.max_held_bytes // 2)
        self._rest = SharedBudget(settings.max_held_bytes // 2)

    @property
    def free_bytes(self) -> int:
        """Memory that no body holds."""
        return self._first.free + self._rest.free

    async def read(self, response: aiohttp.ClientResponse, site: Hashable, limit: asyncio.Timeout) -> Body:
        """Return the body.

        Args:
            response: whose head has come.
            site: whose share of the memory it takes.
            limit: of the whole try; it stands still while there is no memory.

        Raises:
            RejectedEvent: image_too_large_bytes, image_encoding_refused, image_empty.
            TransientError: image_too_slow.
        """
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.strip().lower() != "identity":
            raise RejectedEvent("image_encoding_refused", f"{response.url.raw_host} sent a content encoding unasked")
        most, declared = self._settings.max_image_bytes, response.content_length
        # What is declared may be a lie: it only saves reading what is too large by its own account.
        if (declared or 0) > most:
            raise _too_large(most)
        with _standing_still(limit):
            held = [await self._first.take(site, min(UNDECLARED_BYTES, most) if declared is None else declared)]
        body = Body(b"", "", held)
        try:
            return await self._receive(response, site, limit, held)
        except BaseException:
            body.release()
            raise

    async def _receive(
        self, response: aiohttp.ClientResponse, site: Hashable, limit: asyncio.Timeout, held: list[Held]
    ) -> Body:
        settings = self._settings
        most, grows = settings.max_image_bytes, response.content_length is None
        chunks: list[bytes] = []
        digest = hashlib.sha256()  # chunk by chunk: of a large picture at once it would hold up the event loop
        received = 0
        try:
            async with asyncio.timeout(settings.slow_after_s) as slowest:
                while chunk := await response.content.readany():
                    chunks.append(chunk)
                    digest.update(chunk)
                    received += len(chunk)
                    if received > most:
                        raise _too_large(most)
                    _later(slowest, len(chunk) / settings.min_bytes_per_s)
                    if grows and received > held[0].size:
                        grows = False
                        with _standing_still(limit, slowest):
                            held.append(await self._rest.take(site, most - held[0].size))
        except TimeoutError:
            message = f"{response.url.raw_host} sends less than {settings.min_bytes_per_s} bytes a second"
            raise TransientError("image_too_slow", message) from None
        if not received:
            raise RejectedEvent("image_empty", f"{response.url.raw_host} sent no bytes")
        left = received
        for one in held:
            one.shrink(left)
            left -= one.size
        return Body(b"".join(chunks), digest.hexdigest(), held)


@contextmanager
def _standing_still(*limits: asyncio.Timeout) -> Generator[None]:
    """Take the time of what stands within from none of these."""
    clock = asyncio.get_running_loop().time
    before = clock()
    ends = [limit.when() for limit in limits]
    for limit in limits:
        limit.reschedule(None)
    yield
    waited_s = clock() - before
    for limit, end in zip(limits, ends, strict=True):
        limit.reschedule(None if end is None else end + waited_s)


def _later(limit: asyncio.Timeout, by_s: float) -> None:
    end = limit.when()
    limit.reschedule(None if end is None else end + by_s)


def _too_large(most: int) -> RejectedEvent:
    return RejectedEvent("image_too_large_bytes", f"the image has more than {most} bytes")
