"""What a small release draws from as it goes on learning: items with their image tokens, texts and partners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from engines.build.negatives import PartnerSampler
from engines.build.texts import Texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from rich.progress import Progress
    from torch import Tensor

    from engines.build.models.small import SmallFusion
    from engines.build.retrain.taught import Taught, Weighted

_LOOK_BATCH: Final = 32


class Pool:
    """Items as the tuner takes them: image tokens, as they are and mirrored, texts, and partners.

    Args:
        model: whose eyes see the pictures.
        items: at least one.
        texts: of them.
        progress: a bar is added to it.
    """

    def __init__(self, model: SmallFusion, items: Weighted, texts: Texts, seed: int, progress: Progress) -> None:
        self._items = items
        self.texts = texts
        self._tokens = _look(model, items.catalog.pixel_values, progress)
        self._partners = PartnerSampler(items.catalog.products, seed=seed)

    @property
    def state(self) -> dict[str, Any]:
        return self._partners.state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._partners.state = state

    def draw(self, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Return items."""
        return self._items.draw(count, generator)

    def partners(self, anchors: NDArray[np.int64], mix: Mapping[str, float]) -> NDArray[np.int64]:
        """Return items whose picture contradicts the anchors' texts."""
        return self._partners.partners(anchors, mix)

    def seen(self, items: NDArray[np.int64], generator: np.random.Generator) -> Tensor:
        """Return image tokens (B, N, C) of a picture of each item, mirrored or not."""
        pictures, sides = self._items.catalog.any_picture(items, generator), generator.integers(2, size=len(items))
        return self._tokens[torch.from_numpy(pictures), torch.from_numpy(sides)].float()

    def said(self, items: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return ids and mask, cut to the longest of these texts."""
        mask = self.texts.attention_mask[items]
        longest = int(mask.sum(axis=1).max())
        return torch.from_numpy(self.texts.input_ids[items, :longest]), torch.from_numpy(mask[:, :longest])


def pools_of(taught: Taught) -> dict[str, Weighted]:
    """Return what there is of each kind; a pool of one identity has nothing to exchange."""
    found = {"replayed": taught.replayed, "matches": taught.matches}
    several = {
        name: items
        for name, items in found.items()
        if len({product.identity for product in items.catalog.products}) > 1
    }
    return several | ({"doubted": taught.doubted} if len(taught.doubted.chance) else {})


def together(texts: list[Texts]) -> Texts:
    """Return several texts one behind the other."""
    ids, masks = (np.concatenate([getattr(one, name) for one in texts]) for name in ("input_ids", "attention_mask"))
    return Texts(ids, masks)


@torch.no_grad()
def _look(model: SmallFusion, pictures: NDArray[np.uint8], progress: Progress) -> Tensor:
    """Return the image tokens of pictures, as they are and mirrored, float16 (N, 2, tokens, C)."""
    seen: list[Tensor] = []
    for start in progress.track(range(0, len(pictures), _LOOK_BATCH), description="reading pictures"):
        pixels = torch.from_numpy(pictures[start : start + _LOOK_BATCH])
        seen.append(torch.stack([model.image_tokens(side).half() for side in (pixels, pixels.flip(3))], dim=1))
    return torch.cat(seen)
