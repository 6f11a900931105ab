"""A product that is about to alert → the claims of its text that the picture contradicts.

The same picture goes through the engine again, once for each claim left out of the text (`engines.attribution`), in
the same queue as fresh products: an alert waits no longer than they do, and alerts are rare. What is named is an
explanation: whatever goes wrong here, the score stands and the alert says nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from engines import attribution
from streamer.batch import Pair
from streamer.events import Contradiction

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from engines.text import Tokenizer
    from streamer.batch import Batcher

log = structlog.get_logger(__name__)

_DIGITS = 3  # of a share: more would say nothing, and differ from machine to machine


class Attributor:
    """Names contradicted claims; belongs to one event loop.

    Args:
        tokenizer: of the engine's release.
        batcher: runs the engine.
        executor: finds the claims, beside decoding and tokenising.
    """

    def __init__(self, *, tokenizer: Tokenizer, batcher: Batcher, executor: Executor) -> None:
        self._tokenizer = tokenizer
        self._batcher = batcher
        self._executor = executor

    async def contradictions(self, text: str, pair: Pair, logit: float) -> tuple[Contradiction, ...]:
        """Return the claims that the picture contradicts, the worst first; none where they cannot be told.

        Args:
            text: as composed for the engine.
            pair: the text's tokens, and the picture.
            logit: the engine's answer for the pair.
        """
        try:
            named = await self._named(text, pair, logit)
        except Exception as error:  # noqa: BLE001 - an explanation never costs the score
            log.warning("attribution.failed", error=repr(error))
            return ()
        return tuple(
            Contradiction(field=claim.field, value=claim.value, share=round(share, _DIGITS)) for claim, share in named
        )

    async def _named(self, text: str, pair: Pair, logit: float) -> list[attribution.Named]:
        loop = asyncio.get_running_loop()
        left_out = await loop.run_in_executor(self._executor, self._leave_out, text, pair)
        variants = [Pair(pair.pixel_values, pair.input_ids, mask) for mask in left_out.attention_mask]
        scored = await asyncio.gather(*(self._batcher.logit(variant, vital=False) for variant in variants))
        return attribution.rank(left_out.claims, logit, [one.logit for one in scored])

    def _leave_out(self, text: str, pair: Pair) -> attribution.LeftOut:
        return attribution.leave_out(text, self._tokenizer.spans(text), pair.attention_mask)
