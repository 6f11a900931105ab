"""A product that is about to alert → the claims of its text that the picture contradicts.

The same picture goes through the engine again, once for each claim left out of the text (`engines.attribution`): first
the facts, and only if the alert would stand without any of them, the other words. What is named is an explanation:
whatever goes wrong here, the score stands and the alert says nothing. A flood of alerts, as after a broken feed, is not
explained whole: scoring comes first. Where in the picture (`engines.heat`) is found for a share of them, if any: one at
a time, so that a worker that leaves waits for no more than one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import structlog

from engines import attribution, heat
from streamer.events import Contradiction
from streamer.pairs import Pair

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from engines.attributes import AttributeReader
    from engines.text import Tokenizer
    from streamer.batch import Lane

log = structlog.get_logger(__name__)

BURST = 64
"""Explanations that a calm stream has saved up: as many alerts in a row are explained before the share holds."""

HEAT_MAP_BURST = 4
"""Heat maps that a calm stream has saved up."""

_DIGITS = 3  # of a share: more would say nothing, and differ from machine to machine


class Allowance:
    """What may be spent on a share of the scored products in the long run, and on `burst` of them at once after a calm.

    A share of 0 allows nothing.
    """

    def __init__(self, share: float, burst: int) -> None:
        self._share = share
        self._burst = float(burst)
        self._saved = self._burst if share else 0.0

    def earn(self) -> None:
        """Take note of a scored product."""
        self._saved = min(self._burst, self._saved + self._share)

    def spend(self) -> bool:
        """Whether there is enough for one more; if so, it is spent."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


class Explainer:
    """Names contradicted claims; belongs to one event loop.

    Args:
        tokenizer: of the engine's release.
        lane: of the engine.
        executor: finds the claims, beside the event loop.
        share: of the scored products, how many are explained at most, in the long run.
        heat_map_share: how many of these have a heat map, likewise.
        reader: of the engine's attributes, if it takes any: a claim is left out there, too.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        lane: Lane,
        executor: Executor,
        share: float,
        heat_map_share: float = 0.0,
        reader: AttributeReader | None = None,
    ) -> None:
        self._reader = reader
        self._tokenizer = tokenizer
        self._lane = lane
        self._executor = executor
        self._explanations = Allowance(share, BURST)
        self._heat_maps = Allowance(heat_map_share, HEAT_MAP_BURST)
        self._looking = False

    def count_scored(self) -> None:
        """Take note of a scored product: it earns its share of an explanation."""
        self._explanations.earn()
        self._heat_maps.earn()

    def takes_on(self) -> bool:
        """Whether there is an explanation to spend on an alert; if so, it is spent."""
        return self._explanations.spend()

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
        said: list[Contradiction] = []
        try:
            loop = asyncio.get_running_loop()
            left_out = await loop.run_in_executor(self._executor, self._leave_out, text, pair)
            named = await self._named(left_out, pair, logit, alerts)
            said = [
                Contradiction(field=claim.field, value=claim.value, share=round(share, _DIGITS))
                for claim, share in named
            ]
            if named and not self._looking and self._heat_maps.spend():
                place = left_out.claims.index(named[0].claim)
                said[0] = await self._shown(said[0], pair, left_out.attention_mask[place])
        except Exception as error:  # noqa: BLE001 - an explanation never costs the score
            log.warning("explanation.failed", error=repr(error))
        return tuple(said)

    async def _named(
        self, left_out: attribution.LeftOut, pair: Pair, logit: float, alerts: Callable[[float], bool]
    ) -> list[attribution.Named]:
        claims, masks, facts = left_out
        logits = await self._logits(pair, claims[:facts], masks[:facts])
        if all(map(alerts, logits)):  # no single fact is the reason: its words stand elsewhere, or there are several
            logits += await self._logits(pair, claims[facts:], masks[facts:])
        return attribution.rank(claims[: len(logits)], logit, logits)

    async def _shown(self, named: Contradiction, pair: Pair, mask: NDArray[np.int32]) -> Contradiction:
        """Return what is named together with where the picture contradicts it, as far as that can be told."""
        self._looking = True
        try:
            loop = asyncio.get_running_loop()
            pictures = await loop.run_in_executor(self._executor, heat.covered, pair.pixel_values)
            without = Pair(pair.pixel_values, pair.input_ids, mask, self._without(pair, named.field))
            full, rest = [await self._beside(pictures, said) for said in (pair, without)]
        finally:
            self._looking = False
        found = heat.percent(heat.lost(full, rest))
        return named if found is None else msgspec.structs.replace(named, where=tuple(map(tuple, found.tolist())))

    async def _beside(self, pictures: NDArray[np.uint8], said: Pair) -> NDArray[np.float32]:
        """Return the engine's answers for pictures (N, 3, H, W) beside what one pair says, (N,)."""
        variants = [Pair(picture, said.input_ids, said.attention_mask, said.attributes) for picture in pictures]
        return np.array(await self._scored(variants), dtype=np.float32)

    async def _logits(self, pair: Pair, claims: Sequence[attribution.Claim], masks: NDArray[np.int32]) -> list[float]:
        """Return the engine's answers for the pair without each claim, under masks (C, T)."""
        variants = [
            Pair(pair.pixel_values, pair.input_ids, mask, self._without(pair, claim.field))
            for claim, mask in zip(claims, masks, strict=True)
        ]
        return await self._scored(variants)

    async def _scored(self, variants: Sequence[Pair]) -> list[float]:
        scored = await asyncio.gather(*(self._lane.logit(variant, explains=True) for variant in variants))
        return [one.logit for one in scored]

    def _without(self, pair: Pair, field: str) -> NDArray[np.float32] | None:
        if self._reader is None or pair.attributes is None:
            return pair.attributes
        return self._reader.without(pair.attributes, field)

    def _leave_out(self, text: str, pair: Pair) -> attribution.LeftOut:
        return attribution.leave_out(text, self._tokenizer.spans(text), pair.attention_mask)
