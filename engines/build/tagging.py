"""Which words of a catalogue taggers know, and how a tagger learns which pictures have them in their text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines.build.models.compact import pool
from engines.build.recipe import AdaptRecipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from engines.build.features import Features
    from engines.build.models.tagger import Tagger
    from engines.build.texts import Texts

_LEAST_PRODUCTS: Final = 8  # a word that fewer texts have cannot be learned
_LARGEST_SHARE: Final = 0.6  # a word that more texts have tells little
_BATCH: Final = 64
_CHUNK: Final = 256
_LEARNING_RATE: Final = 2e-3
_WEIGHT_DECAY: Final = 0.05


def frequent_tokens(texts: Texts) -> NDArray[np.int64]:
    """Return the tokens that taggers learn, ascending: those of many texts, but not of nearly all."""
    counts = np.zeros(int(texts.input_ids.max()) + 1, dtype=np.int64)
    for ids, mask in zip(texts.input_ids, texts.attention_mask, strict=True):
        counts[np.unique(ids[mask > 0])] += 1
    return np.nonzero((counts >= _LEAST_PRODUCTS) & (counts <= _LARGEST_SHARE * len(texts.input_ids)))[0]


def steps(pictures: int, epochs: float | None) -> int:
    """Return how many steps a tagger takes; for what is left out see `AdaptRecipe`."""
    each = -(-pictures // _BATCH)
    if epochs is None:
        return max(AdaptRecipe.LEAST_STEPS, round(AdaptRecipe.TAG_EPOCHS * each))
    return max(1, round(epochs * each))


def all_pooled(features: Features) -> Tensor:
    """Return every view of every picture, pooled, float32 (P, V, D)."""
    count, views = features.middle.shape[:2]
    parts = [
        torch.stack([pool(features.pictures(rows, np.full(len(rows), view))) for view in range(views)], dim=1)
        for rows in np.split(np.arange(count), range(_CHUNK, count, _CHUNK))
    ]
    return torch.cat(parts)


def train_tagger(  # noqa: PLR0917 - private to adapt, all named there
    tagger: Tagger,
    tokens: NDArray[np.int64],
    pooled: Tensor,
    owners: NDArray[np.int64],
    texts: Texts,
    epochs: float | None,
    seed: int,
    on_step: Callable[[], None],
) -> None:
    """Teach a tagger the words `tokens` (K,) by pictures' pooled features (P, V, D) and their owners' texts.

    Each step draws pictures, and one of their views for each; the loss is the cross-entropy of all words at once.
    """
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    tagger.tag_of[torch.from_numpy(tokens)] = torch.arange(len(tokens))
    stated = _stated(tokens, texts)
    tagger.expect(stated.mean(dim=0).clamp(min=1e-4, max=0.999))
    total = steps(len(pooled), epochs)
    optimizer = torch.optim.AdamW(tagger.parameters(), weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=total + 1)
    tagger.train()
    for _ in range(total):
        rows = generator.integers(len(pooled), size=_BATCH)
        views = generator.integers(pooled.shape[1], size=_BATCH)
        logits = tagger(pooled[rows, views])
        each = F.binary_cross_entropy_with_logits(logits, stated[owners[rows]], reduction="none")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(each.sum(dim=1).mean())
        optimizer.step()
        schedule.step()
        on_step()
    tagger.eval()


def _stated(tokens: NDArray[np.int64], texts: Texts) -> Tensor:
    """Return which of the words each text has, float32 (N, K)."""
    number = np.full(int(max(tokens.max(), texts.input_ids.max())) + 1, len(tokens))
    number[tokens] = np.arange(len(tokens))
    stated = np.zeros((len(texts.input_ids), len(tokens) + 1), dtype=np.float32)
    said = np.where(texts.attention_mask > 0, number[texts.input_ids], len(tokens))
    np.put_along_axis(stated, said, 1.0, axis=1)
    return torch.from_numpy(stated[:, :-1])
