"""`engines.build.views`: the same picture, seen a little differently."""

from __future__ import annotations

import pytest
import torch

from engines.build.views import AS_IT_IS, MIRRORED, view

pytestmark = pytest.mark.usefixtures("one_torch_thread")

PIXELS = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
DRAWN = 2


def test_first_views_are_the_picture_and_its_mirror_image() -> None:
    """They change no value."""
    assert torch.equal(view(PIXELS, AS_IT_IS, range(3)), PIXELS)
    assert torch.equal(view(PIXELS, MIRRORED, range(3)).flip(3), PIXELS)


def test_drawn_view_is_the_same_however_pictures_are_batched() -> None:
    """A view depends on the picture's number and its own, so that features are found again after a cut."""
    together = view(PIXELS, DRAWN, range(3))
    assert torch.equal(together[2:], view(PIXELS[2:], DRAWN, range(2, 3)))
    assert not torch.equal(together, view(PIXELS, DRAWN + 1, range(3)))
    assert (together.dtype, together.shape) == (torch.uint8, PIXELS.shape)


def test_drawn_view_keeps_colors() -> None:
    """A red picture stays red: colors are what a text is held against."""
    red = torch.tensor([200, 30, 30], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    seen = view(red, DRAWN, range(1)).float()
    assert seen[0].std(dim=(1, 2)).max() < 1
    assert (seen.mean(dim=(0, 2, 3)) - red[0, :, 0, 0].float()).abs().max() < 25
