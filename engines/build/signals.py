"""What a compact model says of one part of a catalogue: of its pairs, signal by signal, and of its products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from engines.build import evaluate, grades
from engines.build.baselines import Embedded
from engines.build.features import Features, said
from engines.build.finetune import chunks
from engines.build.models import compact

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from engines.build.dataset import Catalog
    from engines.build.texts import Texts


@dataclass(frozen=True)
class Part:
    """One part of the split, ready to be trained on or scored."""

    catalog: Catalog
    texts: Texts
    features: Features

    def pairs(self, seed: int) -> evaluate.Pairs:
        """Return its graded pairs."""
        return grades.graded_pairs(self.catalog, self.features.looks, seed=seed)


class Evidence(NamedTuple):
    """What a model says of M pairs: as `compact.Signals`, float32 arrays (M,), (M, F), (M,), (M, 2), (M, 1)."""

    fusion: NDArray[np.float32]
    surprise: NDArray[np.float32]
    similarity: NDArray[np.float32]
    denial: NDArray[np.float32]
    novelty: NDArray[np.float32]

    def columns(self) -> NDArray[np.float32]:
        """Return all signals side by side, (M, S), as `compact.Signals.columns`."""
        return compact.Signals(*(torch.from_numpy(one) for one in self)).columns().numpy()


@torch.no_grad()
def embed(model: compact.CompactFusion, part: Part) -> Embedded:
    """Return each product's first picture and text in the spaces of the readers' contrastive halves, side by side."""
    images: list[Tensor] = []
    texts: list[Tensor] = []
    for rows in chunks(np.arange(len(part.catalog.products))):
        sight = part.features.as_they_are(part.catalog.first_picture[rows])
        _, states, mask, attributes = said(part.features, rows)
        looked = [reader.image_embedding(reader.look(sight)) for reader in model.each_reader()]
        read = [reader.text_embedding(*reader.read(states, mask, attributes)) for reader in model.each_reader()]
        images.append(torch.cat(looked, dim=1))
        texts.append(torch.cat(read, dim=1))
    length = np.sqrt(len(model.readers))
    return Embedded(torch.cat(images).numpy() / length, torch.cat(texts).numpy() / length)


@torch.no_grad()
def all_signals(signals: Callable[..., compact.Signals], part: Part, pairs: evaluate.Pairs) -> Evidence:
    """Return what `CompactFusion.signals` or a single reader says of each pair, from cached features."""
    each: list[compact.Signals] = []
    for rows in chunks(np.arange(len(pairs.label))):
        sight = part.features.as_they_are(pairs.picture[rows])
        each.append(signals(sight, *said(part.features, pairs.product[rows])))
    return Evidence(*(torch.cat(one).numpy() for one in zip(*each, strict=True)))
