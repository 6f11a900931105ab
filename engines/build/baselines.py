"""What a fusion encoder must beat: judges that read picture and text apart, on the same frozen backbones.

The dual encoder needs no code of its own: it is a compact model trained by a recipe whose `pair_weight` is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines.build.mining import Miner
from engines.build.models.compact import pool
from engines.build.traits import chunks, unit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from engines.build.dataset import Catalog
    from engines.build.evaluate import Pairs
    from engines.build.features import Features

_BATCH: Final = 128
_EPOCHS: Final = 40
_WIDTH: Final = 256
_NEIGHBOURS: Final = 30
_NEAR_WEIGHT: Final = 0.1  # tau 1 of LEMoN: how fast a farther neighbour counts less
_CLEAN_WEIGHT: Final = 5.0  # tau 2: how fast a neighbour that does not match itself counts less


class Embedded(NamedTuple):
    """Products in one space, their first picture and their text as unit vectors, float32 (N, D)."""

    image: NDArray[np.float32]
    text: NDArray[np.float32]


class PooledMlp(nn.Module):
    """One vector of the picture and one of the text → logit. Nothing attends to anything."""

    def __init__(self, image_width: int, text_width: int) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.LayerNorm(image_width), nn.Linear(image_width, _WIDTH))
        self.text = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, _WIDTH))
        self.judge = nn.Sequential(
            nn.LayerNorm(4 * _WIDTH), nn.Dropout(0.2), nn.Linear(4 * _WIDTH, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, 1)
        )

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return logits (B,) of vectors (B, D) and (B, D')."""
        seen, read = self.image(image), self.text(text)
        logits: torch.Tensor = self.judge(torch.cat([seen, read, seen * read, (seen - read).abs()], dim=-1)).squeeze(-1)
        return logits


@torch.no_grad()
def pooled(catalog: Catalog, features: Features) -> Embedded:
    """Return all that compact sees of each product's first picture and reads of its text, pooled: two widths."""
    first = catalog.first_picture[:-1]
    image = torch.cat([pool(features.as_they_are(first[rows])) for rows in chunks(len(first))])
    mask = features.texts.attention_mask[:, :, None].astype(np.float32)
    text = [(features.states[rows] * mask[rows]).sum(axis=1) / mask[rows].sum(axis=1) for rows in chunks(len(mask))]
    return Embedded(image.numpy(), np.concatenate(text).astype(np.float32))


def train_pooled(catalog: Catalog, features: Features, mix: Mapping[str, float], *, seed: int) -> PooledMlp:
    """Return an MLP trained on each product's own picture and on pictures of partners drawn from `mix`.

    Raises:
        CatalogInvalid: all products show the same.
    """
    torch.manual_seed(seed)
    image, text = (torch.from_numpy(array) for array in pooled(catalog, features))
    model = PooledMlp(image.shape[1], text.shape[1])
    miner, generator = Miner(catalog, features.looks, seed=seed), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    steps = _EPOCHS * -(-len(image) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(_EPOCHS):
        order = generator.permutation(len(image))
        for anchors in np.split(order, range(_BATCH, len(order), _BATCH)):
            partners = miner.partners(anchors, mix)
            labels = torch.cat([torch.zeros(len(anchors)), torch.ones(len(partners))])
            logits = model(image[np.concatenate([anchors, partners])], text[np.concatenate([anchors, anchors])])
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(F.binary_cross_entropy_with_logits(logits, labels))
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def score_pooled(
    model: PooledMlp, catalog: Catalog, features: Features, shown: NDArray[np.int64], pairs: Pairs
) -> NDArray[np.float32]:
    """Return logits (M,) of pairs; `shown` (M,) is the product whose first picture each pair shows."""
    image, text = pooled(catalog, features)
    logits: NDArray[np.float32] = model(torch.from_numpy(image[shown]), torch.from_numpy(text[pairs.product])).numpy()
    return logits


def lemon(
    known: Embedded, asked: Embedded, shown: NDArray[np.int64], pairs: Pairs
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return the three parts of LEMoN's score (M,) each: own distance, by neighbours of the picture, of the text.

    A pair is suspect when its picture and its text are far apart, when the texts of pictures like its own are far from
    its text, and when the pictures of texts like its own are far from its picture. What the parts weigh is chosen on
    validation pairs.

    Args:
        known: products whose pairs the neighbours are taken from.
        asked: the products of the pairs, in the same space.
        shown: the product whose first picture each pair shows.
        pairs: to be scored.

    Source: Zhang et al. 2025, "LEMoN: Label Error Detection using Multimodal Neighbors".
    """
    image, text = asked.image[shown], asked.text[pairs.product]
    trusted = np.exp(-_CLEAN_WEIGHT * _distance(known.image, known.text))
    own = _distance(image, text)
    return (
        own,
        _by_neighbours(known.image, known.text, trusted, image, text),
        _by_neighbours(known.text, known.image, trusted, text, image),
    )


def _by_neighbours(
    space: NDArray[np.float32],
    other: NDArray[np.float32],
    trusted: NDArray[np.float32],
    here: NDArray[np.float32],
    there: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return how far `there` is from what the nearest neighbours of `here` have there, float32 (M,)."""
    count = min(_NEIGHBOURS, len(space))
    parts: list[NDArray[np.float32]] = []
    for rows in chunks(len(here)):
        likeness = here[rows] @ space.T
        nearest = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
        near = 1.0 - np.take_along_axis(likeness, nearest, axis=1)
        apart = 1.0 - np.einsum("md,mkd->mk", there[rows], other[nearest])
        parts.append((apart * np.exp(-_NEAR_WEIGHT * near) * trusted[nearest]).mean(axis=1))
    return np.concatenate(parts).astype(np.float32)


def _distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1.0 - (unit(one) * unit(other)).sum(axis=1), dtype=np.float32)
