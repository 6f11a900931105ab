"""Other views of a picture: mirrored, and cut a little narrower in slightly other light.

Features of frozen backbones are computed once; several views of each picture are what keeps a model from learning the
few pictures of a catalogue by heart. Colors are what a text is held against, so light changes by very little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

if TYPE_CHECKING:
    from torch import Tensor

AS_IT_IS, MIRRORED = 0, 1
"""The first two views; those after them are drawn."""

_AREA: Final = (0.72, 1.0)  # of the picture that is left
_ASPECT: Final = (0.9, 1.11)
_CONTRAST: Final = (0.92, 1.08)
_BRIGHTNESS: Final = (-6.0, 6.0)  # of 255


def view(pixels: Tensor, number: int, pictures: range) -> Tensor:
    """Return this view of pictures, uint8 (B, 3, H, W), the same for the same `number` and numbers of pictures."""
    match number:
        case 0:
            return pixels
        case 1:
            return pixels.flip(3)
        case _:
            each = zip(pixels, pictures, strict=True)
            return torch.stack([_drawn(one, np.random.default_rng((number, index))) for one, index in each])


def _drawn(pixels: Tensor, generator: np.random.Generator) -> Tensor:
    """Return one picture, uint8 (3, H, W), cut, perhaps mirrored, in other light."""
    height, width = pixels.shape[1:]
    side, aspect = np.sqrt(generator.uniform(*_AREA)), generator.uniform(*_ASPECT)
    cut = [min(full, int(full * side * stretch)) for full, stretch in ((height, aspect), (width, 1 / aspect))]
    top, left = (int(generator.integers(full - kept + 1)) for full, kept in zip((height, width), cut, strict=True))
    part = pixels[None, :, top : top + cut[0], left : left + cut[1]].float()
    part = F.interpolate(part, (height, width), mode="bilinear", antialias=True, align_corners=False)
    if generator.random() < 1 / 2:
        part = part.flip(3)
    lit = part * generator.uniform(*_CONTRAST) + generator.uniform(*_BRIGHTNESS)
    return lit.clamp(0, 255).round().to(torch.uint8)[0]
