"""`engines.build.models.palette`: shares of colors, told apart as eyes tell them."""

from __future__ import annotations

import pytest
import torch

from engines.build.models.palette import Palette

pytestmark = pytest.mark.usefixtures("one_torch_thread")

RED, DARK_RED, BLUE, WHITE = (200, 30, 30), (190, 28, 28), (30, 30, 200), (255, 255, 255)


def shares(color: tuple[int, int, int]) -> torch.Tensor:
    """Return the shares of a picture of one cell that has this color."""
    pixels = torch.tensor(color, dtype=torch.uint8)[None, :, None, None].expand(1, 3, 32, 32)
    return Palette()(pixels)[0, :, 0, 0]


def test_shares_of_a_cell_add_up_to_one() -> None:
    """Whatever stands in it, and each cell has its own."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=generator)
    found = Palette()(pixels)
    assert found.shape == (2, Palette().size, 2, 3)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2, 2, 3))


def test_colors_that_look_alike_have_like_shares() -> None:
    """A little darker red is nearly the same, blue is nothing of it."""
    assert float((shares(RED) - shares(DARK_RED)).abs().sum()) < 0.5
    assert float((shares(RED) - shares(BLUE)).abs().sum()) > 1.99


def test_color_belongs_to_the_lattice_points_near_it() -> None:
    """White's strongest point is the lightest gray there is: L* 100, a* 0, b* 0. Source: CIE 1976."""
    assert Palette().points[int(shares(WHITE).argmax())].tolist() == pytest.approx([100.0, 0.0, 0.0])
