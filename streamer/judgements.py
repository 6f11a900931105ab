"""What was said of pictures and texts before, and what URLs last showed: a cache, whose loss costs time, never truth.

It belongs to an event loop. First in, first out: a look-up changes nothing, and so costs little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachetools import FIFOCache

from streamer.fingerprint import fingerprint

if TYPE_CHECKING:
    from streamer.answers import Validator
    from streamer.events import Contradiction


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the engine says of a picture and a text; another calibration makes another probability of it."""

    logit: float
    contradicts: tuple[Contradiction, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a URL last showed."""

    validator: Validator
    image_sha256: str


class Judgements:
    """Remembers judgements by picture, text and model, and pictures by URL; what is long is kept as its fingerprint.

    Args:
        entries: of each, at most; 0 remembers nothing.
    """

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._judgements: FIFOCache[bytes, Judgement] = FIFOCache(max(entries, 1))
        self._shown: FIFOCache[bytes, Shown] = FIFOCache(max(entries, 1))

    def known(self, image_sha256: str, text_sha256: str, model: str) -> Judgement | None:
        """Return what the model said of the picture and the text."""
        return self._judgements.get(fingerprint(image_sha256, text_sha256, model))

    def remember(self, image_sha256: str, text_sha256: str, model: str, judgement: Judgement) -> None:
        """Keep what the model says of the picture and the text."""
        if self._entries:
            self._judgements[fingerprint(image_sha256, text_sha256, model)] = judgement

    def shown(self, url: str) -> Shown | None:
        """Return what the URL last showed."""
        return self._shown.get(fingerprint(url))

    def shows(self, url: str, validator: Validator | None, image_sha256: str) -> None:
        """Keep what the URL shows, if its host says how to ask whether it still does."""
        if self._entries and validator is not None:
            self._shown[fingerprint(url)] = Shown(validator, image_sha256)
