"""A product that is about to alert → the claims of its text that the picture contradicts.

The same picture goes through the engine again, once for each claim left out of the text (`engines.attribution`): first
the facts, and only if the alert would stand without any of them, the other words. What is named is an explanation:
whatever goes wrong here, the score stands and the alert says nothing. A flood of alerts, as after a broken feed, is not
explained whole: scoring comes first.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from engines import attribution
from streamer.events import Contradiction
from streamer.pairs import Pair

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    import numpy as np
    from numpy.typing import NDArray

    from engines.attributes import AttributeReader
    from engines.text import Tokenizer
    from streamer.batch import Lane

log = structlog.get_logger(__name__)

BURST = 64
"""Explanations that a calm stream has saved up: as many alerts in a row are explained before the share holds."""

_DIGITS = 3  # of a share: more would say nothing, and differ from machine to machine


class Explainer:
    """Names contradicted claims; belongs to one event loop.

    Args:
        tokenizer: of the engine's release.
        lane: of the engine.
        executor: finds the claims, beside the event loop.
        share: of the scored products, how many are explained at most, in the long run.
        reader: of the engine's attributes, if it takes any: a claim is left out there, too.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        lane: Lane,
        executor: Executor,
        share: float,
        reader: AttributeReader | None = None,
    ) -> None:
        self._reader = reader
        self._tokenizer = tokenizer
        self._lane = lane
        self._executor = executor
        self._share = share
        self._saved = float(BURST) if share else 0.0

    def count_scored(self) -> None:
        """Take note of a scored product: it earns its share of an explanation."""
        self._saved = min(float(BURST), self._saved + self._share)

    def takes_on(self) -> bool:
        """Whether there is an explanation to spend on an alert; if so, it is spent."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True

    async def contradictions(
        self, text: str, pair: Pair, logit: float, alerts: Callable[[float], bool]
    ) -> tuple[Contradiction, ...]:
        """Return the claims that the picture contradicts, the worst first; none where they cannot be told.

        Args:
            text: as composed for the engine.
            pair: the text's tokens, and the picture.
            logit: the engine's answer for the pair.
            alerts: whether a logit calls for an alert.
        """
        try:
            named = await self._named(text, pair, logit, alerts)
        except Exception as error:  # noqa: BLE001 - an explanation never costs the score
            log.warning("explanation.failed", error=repr(error))
            return ()
        return tuple(
            Contradiction(field=claim.field, value=claim.value, share=round(share, _DIGITS)) for claim, share in named
        )

    async def _named(
        self, text: str, pair: Pair, logit: float, alerts: Callable[[float], bool]
    ) -> list[attribution.Named]:
        loop = asyncio.get_running_loop()
        claims, masks, facts = await loop.run_in_executor(self._executor, self._leave_out, text, pair)
        logits = await self._logits(pair, claims[:facts], masks[:facts])
        if all(map(alerts, logits)):  # no single fact is the reason: its words stand elsewhere, or there are several
            logits += await self._logits(pair, claims[facts:], masks[facts:])
        return attribution.rank(claims[: len(logits)], logit, logits)

    async def _logits(self, pair: Pair, claims: Sequence[attribution.Claim], masks: NDArray[np.int32]) -> list[float]:
        """Return the engine's answers for the pair without each claim, under masks (C, T)."""
        variants = [
            Pair(pair.pixel_values, pair.input_ids, mask, self._without(pair, claim.field))
            for claim, mask in zip(claims, masks, strict=True)
        ]
        scored = await asyncio.gather(*(self._lane.logit(variant, explains=True) for variant in variants))
        return [one.logit for one in scored]

    def _without(self, pair: Pair, field: str) -> NDArray[np.float32] | None:
        if self._reader is None or pair.attributes is None:
            return pair.attributes
        return self._reader.without(pair.attributes, field)

    def _leave_out(self, text: str, pair: Pair) -> attribution.LeftOut:
        return attribution.leave_out(text, self._tokenizer.spans(text), pair.attention_mask)
