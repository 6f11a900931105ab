"""What the two frozen parts that see a picture cost compact, on ONNX Runtime and one thread.

    python benchmarks/frozen_parts.py [--turns N]

The image backbone (EfficientNet-Lite2) and the palette are most of an inference, and what training reads of each
picture before it learns. Both take turns, so that other work on the machine meets both.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Annotated, Final

import torch
import typer
from rich.progress import track
from torch import nn

from engines.build.export import on_onnx_runtime
from engines.build.models.backbones import ImageBackbone
from engines.build.models.compact import CompactConfig
from engines.build.models.palette import Palette

if TYPE_CHECKING:
    from torch import Tensor

_PICTURES: Final = 32


class Alone(nn.Module):
    """A part whose outputs are a tuple."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Return what the part sees."""
        seen = self.part(pixel_values)
        return seen if isinstance(seen, tuple) else (seen,)


def main(turns: Annotated[int, typer.Option(min=2, help="Of each part.")] = 10) -> None:
    """Print the median milliseconds for each picture, and the ratio."""
    torch.set_num_threads(1)
    side = CompactConfig.image_size
    pictures = torch.randint(
        0, 256, (_PICTURES, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    parts = {
        name: on_onnx_runtime(Alone(part).eval(), pictures[:2])
        for name, part in (("backbone", ImageBackbone()), ("palette", Palette()))
    }
    took: dict[str, list[float]] = {name: [] for name in parts}
    for _ in track(range(turns + 1), description="turns"):
        for name, run in parts.items():
            began = time.perf_counter()
            run(pictures)
            took[name].append((time.perf_counter() - began) * 1000 / _PICTURES)
    medians = {name: statistics.median(each[1:]) for name, each in took.items()}
    ratio = statistics.median(p / b for p, b in zip(took["palette"][1:], took["backbone"][1:], strict=True))
    told = ", ".join(f"{name} {value:.1f} ms" for name, value in medians.items())
    print(f"a picture of {side} px: {told}; the palette takes {ratio:.2f} of the backbone's time")


if __name__ == "__main__":
    typer.run(main)
