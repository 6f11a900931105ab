"""How new a text is to who has read the training texts: its share of rare tokens, and how far the nearest one is.

A text such as no training product has makes its own picture look wrong: what `quality_signals.py` weighs against that.
No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from engines.build.traits import chunks, unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engines.build.features import Features
    from engines.build.texts import Texts

RARITY: Final = "text: rare tokens"
DISTANCE: Final = "text: distance"

_RARE: Final = 8  # a token of fewer training texts is one that taggers do not learn


def rare_tokens(known: Texts, own: Texts) -> NDArray[np.float64]:
    """Return the share of each text's tokens that fewer than 8 of the known texts have, float64 (N,)."""
    counts = np.zeros(int(max(known.input_ids.max(), own.input_ids.max())) + 1, dtype=np.int64)
    for ids, mask in zip(known.input_ids, known.attention_mask, strict=True):
        counts[np.unique(ids[mask > 0])] += 1
    rare = ((counts[own.input_ids] < _RARE) & (own.attention_mask > 0)).sum(axis=1)
    return np.asarray(rare / own.attention_mask.sum(axis=1))


def distance(known: NDArray[np.float32], own: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 - the cosine of each vector (N, D) to the nearest of the known ones (K, D), float32 (N,)."""
    near, far = unit(known), unit(own)
    return np.concatenate([1 - (far[rows] @ near.T).max(axis=1) for rows in chunks(len(far))])


def mean_states(features: Features) -> NDArray[np.float32]:
    """Return the mean of each text's states, float32 (N, 384)."""
    mask = features.texts.attention_mask.astype(np.float32)
    parts = [
        np.einsum("ntd,nt->nd", features.states[rows].astype(np.float32), mask[rows]) for rows in chunks(len(mask))
    ]
    return np.asarray(np.concatenate(parts) / mask.sum(axis=1, keepdims=True))
