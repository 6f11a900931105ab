"""Which products that did not alert are shown to people: every one has a chance, and the chance is written down.

Without the audit, what people label is what alerted, and what the engine misses is never seen. The chance grows with
the probability, since near the threshold a verdict teaches most; it is never 0, so that dividing by it gives figures
for all products without bias. Source: Horvitz & Thompson 1952, "A generalization of sampling without replacement from
a finite universe".
"""

from __future__ import annotations

import hashlib
import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MEMORY_S = 600.0
"""How long the flow of products is remembered that the budget is spread over."""

_FIRST_S = 1.0  # of a worker's life: too short to tell a flow from


class AuditSampler:
    """Draws products for the audit, each by itself; one worker, one event loop.

    Args:
        share: of a product that is sure to match, its chance.
        uncertainty: how many times more than that a product at its threshold has, in addition.
        per_hour: draws that are expected in an hour at most: when more products come, all chances shrink alike.
        salt: another one draws others.
        clock: seconds that never jump.
    """

    def __init__(
        self,
        *,
        share: float,
        uncertainty: float,
        per_hour: float,
        salt: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share = share
        self._uncertainty = uncertainty
        self._per_s = per_hour / 3600
        self._salt = salt
        self._clock = clock
        self._since = self._last = clock()
        self._flow = 0.0  # draws a second if chances were not shrunk, weighted by age

    def chance(self, probability: float, threshold: float) -> float:
        """Return how likely it is, 0..1, that a product is drawn that did not alert; call it once for each.

        Args:
            probability: of the product, below its threshold.
            threshold: above 0, since nothing is below 0.
        """
        wanted = min(1.0, self._share * (1 + self._uncertainty * probability / threshold))
        now = self._clock()
        self._flow = self._flow * math.exp(-(now - self._last) / MEMORY_S) + wanted / MEMORY_S
        self._last = now
        seen = 1 - math.exp(-max(now - self._since, _FIRST_S) / MEMORY_S)  # of the memory that has passed by now
        return wanted * min(1.0, self._per_s / max(self._flow / seen, 1e-12))

    def draws(self, item_id: str, chance: float) -> bool:
        """Whether the item is drawn: the same answer for the same item, should its event come again."""
        digest = hashlib.sha256(f"{self._salt}/{item_id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < chance * 2**64
