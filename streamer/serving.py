"""One release at work: everything about it that a product meets on its way, from its text to its threshold.

What stands here changes with the release, and changes together: an event takes hold of one `Serving` and stays with it
to the end, so that nothing prepared for one release is ever judged by another (docs/adr/0015).
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from engines.attributes import AttributeReader
from engines.text import compose
from streamer.explain import Explainer
from streamer.features import features_of
from streamer.pairs import Pair
from streamer.policy import Policy
from streamer.updates import text_digest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator
    from concurrent.futures import Executor

    import numpy as np
    from numpy.typing import NDArray

    from engines.contract import Manifest
    from engines.text import Tokenizer
    from streamer.batch import Lane
    from streamer.events import Features
    from streamer.updates import ProductUpdate


class Decode(Protocol):
    """Returns the picture as the engine takes it, uint8 (3, H, W), or raises ImageRefused."""

    def __call__(self, data: bytes) -> Awaitable[NDArray[np.uint8]]: ...


class Said:
    """What an engine reads of an update beside its picture: text, attributes (A, 2) if it takes any, their digest."""

    __slots__ = ("attributes", "sha256", "text")

    def __init__(self, text: str, attributes: NDArray[np.float32] | None) -> None:
        self.text = text
        self.attributes = attributes
        self.sha256 = text_digest(text, b"" if attributes is None else attributes.tobytes())


class Reading:
    """How one release reads products, and what it makes of a logit; for any thread.

    Args:
        manifest: of the release.
        tokenizer: of the release.
    """

    def __init__(self, manifest: Manifest, tokenizer: Tokenizer) -> None:
        self.manifest = manifest
        self.policy = Policy(manifest)
        self.tokenizer = tokenizer
        self.columns = AttributeReader(manifest.attributes) if manifest.attributes is not None else None

    def read(self, update: ProductUpdate) -> Said:
        """Return what the engine reads of the update beside its picture.

        Raises:
            TextRefused, RejectedEvent: there is nothing to read.
        """
        text = compose(update.text_fields(), self.manifest.text)
        return Said(text, self.columns.read(update.columns()) if self.columns is not None else None)

    def pair(self, pixels: NDArray[np.uint8], said: Said) -> Pair:
        """Return picture and text as the engine takes them."""
        input_ids, attention_mask = self.tokenizer.encode([said.text])
        return Pair(pixels, input_ids[0], attention_mask[0], said.attributes)

    def features(self, pair: Pair) -> Features:
        """Return cheap statistics of what the engine is given."""
        return features_of(pair, self.tokenizer.unknown_id)


class Serving(Reading):
    """A release that judges what comes, and those that use it; belongs to one event loop.

    Args:
        lane: of its engine.
        tokenizer: of the release.
        decode: makes pictures of the size that its engine takes.
        executor: finds claims to explain.
        explained_share: of the scored products, how many alerts are explained at most, in the long run.
        heat_map_share: how many of them have a heat map, likewise.
    """

    def __init__(
        self,
        *,
        lane: Lane,
        tokenizer: Tokenizer,
        decode: Decode,
        executor: Executor,
        explained_share: float,
        heat_map_share: float = 0.0,
    ) -> None:
        super().__init__(lane.engine.manifest, tokenizer)
        self.lane = lane
        self.decode = decode
        self.model = self.policy.model
        self.explainer = Explainer(
            tokenizer=tokenizer,
            lane=lane,
            executor=executor,
            share=explained_share,
            heat_map_share=heat_map_share,
            reader=self.columns,
        )
        self._users = 0
        self._left = asyncio.Event()
        self._left.set()

    @property
    def release(self) -> str:
        """The name of the release."""
        return self.manifest.release

    @contextmanager
    def in_use(self) -> Generator[Serving]:
        """Keep the release loaded for the length of the block."""
        self._users += 1
        self._left.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._left.set()

    async def unused(self) -> None:
        """Return when nobody uses the release and its engine runs nothing: it may then be closed."""
        await self._left.wait()
        await self.lane.emptied()

    def probability(self, logit: float) -> float:
        """Return the calibrated P(mismatch), 0..1."""
        return self.policy.probability(logit)

    def threshold(self, update: ProductUpdate) -> float:
        """Return the probability from which on the update's category alerts."""
        return self.policy.threshold(update.category)
