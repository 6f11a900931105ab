"""Whether prints of pictures tell copies from other pictures: what a warm start is kept from a catalogue by.

    python benchmarks/prints.py CATALOG [OTHER]

CATALOG is split as for an adaptation. Known are the pictures of its training part. Asked about are these pictures, made
smaller (200 px) and saved again (JPEG, quality 70); those of the test part, which are others of the same shop; and
those of another catalogue. See `engines.build.warm_start`.
"""

from __future__ import annotations

import io
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from PIL import Image

from engines.build.gather import gather_listed, gather_parts
from engines.build.listing import list_folder
from engines.build.terminal import reported
from engines.build.warm_start import MOST_SHARED, near, prints
from engines.contract import ImageSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE_PX, _SMALL_PX, _QUALITY = 256, 200, 70


def saved_again(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture, (3, H, W), as it comes back from a smaller JPEG of it."""
    buffer = io.BytesIO()
    Image.fromarray(picture.transpose(1, 2, 0)).resize((_SMALL_PX, _SMALL_PX)).save(buffer, "JPEG", quality=_QUALITY)
    return np.asarray(Image.open(buffer).resize((_SIDE_PX, _SIDE_PX))).transpose(2, 0, 1)


def main(
    catalog: Annotated[Path, typer.Argument(help="Folder with catalog.jsonl and the pictures it names.")],
    other: Annotated[Path | None, typer.Argument(help="Another one, of another shop.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    copies: Annotated[int, typer.Option(min=1, help="Pictures that are saved again.")] = 1000,
) -> None:
    """Print which share of pictures is taken for one that is known."""
    image = ImageSpec(height=_SIDE_PX, width=_SIDE_PX)
    with reported(2) as progress:
        training, _, test = gather_parts(catalog, image=image, seed=seed, progress=progress)
        others = None
        if other is not None:
            others = gather_listed(list_folder(other, progress), image=image, progress=progress).pixel_values
        known = prints(training.pixel_values)
        again = np.stack([saved_again(one) for one in progress.track(training.pixel_values[:copies])])
    print(f"copies: {near(prints(again), known).mean():.1%}")
    print(f"others of the shop: {near(prints(test.pixel_values), known).mean():.1%}")
    if others is not None:
        print(f"of another shop: {near(prints(others), known).mean():.1%}")
    print(f"begun from nothing: a catalogue with more than {MOST_SHARED:.0%}")


if __name__ == "__main__":  # decoding pictures starts processes, and those import this module
    typer.run(main)
