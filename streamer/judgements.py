"""What was said of pictures and texts before, and what URLs last showed: a cache, whose loss costs time, never truth.

It belongs to an event loop. First in, first out: a look-up changes nothing, and so costs little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachetools import FIFOCache

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
    """Remembers judgements by picture, text and model, and pictures by URL.

    Args:
        entries: of each, at most; 0 remembers nothing.
    """

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._judgements: FIFOCache[tuple[str, str, str], Judgement] = FIFOCache(max(entries, 1))
        self._shown: FIFOCache[str, Shown] = FIFOCache(max(entries, 1))

    def known(self, image_sha256: str, text_sha256: str, model: str) -> Judgement | None:
        """Return what the model said of the picture and the text."""
        try:
            return self._judgements[image_sha256, text_sha256, model]
        except KeyError:
            return None

    def remember(self, image_sha256: str, text_sha256: str, model: str, judgement: Judgement) -> None:
        """Keep what the model says of the picture and the text."""
        if self._entries:
            self._judgements[image_sha256, text_sha256, model] = judgement

    def shown(self, url: str) -> Shown | None:
        """Return what the URL last showed."""
        return self._shown.get(url)

    def shows(self, url: str, validator: Validator | None, image_sha256: str) -> None:
        """Keep what the URL shows, if its host says how to ask whether it still does."""
        if self._entries and validator is not None:
            self._shown[url] = Shown(validator, image_sha256)
