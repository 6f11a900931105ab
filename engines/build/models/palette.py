"""How much of which color a picture has, cell by cell: what ImageNet features half forget and texts name first.

Colors are the points of a lattice in CIE L*a*b*, where equal steps look equally large; a pixel belongs to the points
near it, so that a slightly different light does not move it from one to another at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

if TYPE_CHECKING:
    from torch import Tensor

_STEP: Final = 18.0  # between lattice points; about 2 are told apart by eye, dozens have names
_PIXELS: Final = 4  # means of so many pixels a side are one sample
_CELL: Final = 32  # pixels a side of one cell
_SIDE: Final = _CELL // _PIXELS  # samples a side of one cell
_RANGE: Final = 6  # lattice points on each side of gray
_GAMUT_MARGIN: Final = 0.03  # of linear RGB: points a little outside have colors near them
_RGB_TO_XYZ: Final = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
_WHITE: Final = (0.9505, 1.0, 1.089)  # D65
_LINEAR_BELOW: Final = 0.008856
_GAMMA_FROM: Final = 0.04045


class Palette(nn.Module):
    """`forward(pixel_values uint8 (B, 3, H, W)) -> float32 (B, K, H / 32, W / 32)`, the share of each color in a cell.

    Source: sRGB, IEC 61966-2-1; CIE 1976 L*a*b*.
    """

    points: Tensor
    to_xyz: Tensor

    def __init__(self) -> None:
        super().__init__()
        white = torch.tensor(_WHITE)
        to_xyz = torch.tensor(_RGB_TO_XYZ) / white[:, None]
        self.register_buffer("to_xyz", to_xyz, persistent=False)
        self.register_buffer("points", _lattice(to_xyz), persistent=False)

    @property
    def size(self) -> int:
        """K: how many colors there are."""
        return len(self.points)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the shares; those of a cell add up to 1."""
        lab = self._lab(F.avg_pool2d(pixel_values.float(), _PIXELS) / 255.0)
        height, width = lab.shape[2:]
        weights = (4 / _STEP**2) * self.points  # of a distance's mixed term: 2 / (0.5 step²)
        bias = (-2 / _STEP**2) * (self.points**2).sum(dim=1)
        # Colors stand last: over another axis, a softmax is slow on ONNX Runtime (`benchmarks/frozen_parts.py`).
        shares = (lab.flatten(2).transpose(1, 2) @ weights.T + bias).softmax(dim=2)  # a pixel's own square cancels out
        rows = shares.view(-1, height // _SIDE, _SIDE, width * self.size).mean(dim=2)
        cells = rows.view(-1, height // _SIDE, width // _SIDE, _SIDE, self.size).mean(dim=3)
        return cells.permute(0, 3, 1, 2)

    def _lab(self, rgb: Tensor) -> Tensor:
        """Return L*a*b* (B, 3, h, w) of sRGB 0..1."""
        linear = torch.where(rgb > _GAMMA_FROM, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
        xyz = F.conv2d(linear, self.to_xyz[:, :, None, None])
        root = torch.where(xyz > _LINEAR_BELOW, xyz.clamp(min=1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
        x, y, z = root.unbind(dim=1)
        return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def _lattice(to_xyz: Tensor) -> Tensor:
    """Return the lattice's points (K, 3) that sRGB can show, L* 5 to 100."""
    light = torch.linspace(5.0, 100.0, round(95.0 / _STEP) + 1)
    axis = torch.arange(-_RANGE, _RANGE + 1) * _STEP
    points = torch.cartesian_prod(light, axis, axis)
    y = (points[:, 0] + 16) / 116
    root = torch.stack([y + points[:, 1] / 500, y, y - points[:, 2] / 200], dim=1)
    xyz = torch.where(root**3 > _LINEAR_BELOW, root**3, (root - 16 / 116) / 7.787)
    rgb = xyz @ torch.linalg.inv(to_xyz).T
    shown = ((rgb > -_GAMUT_MARGIN) & (rgb < 1 + _GAMUT_MARGIN)).all(dim=1)
    return points[shown]
