"""What the frozen halves of a compact model say of a catalogue, computed once and kept on disk for all epochs."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from engines.build import export, sources
from engines.build.models.backbones import ImageBackbone
from engines.build.models.compact import TEXT_STATES, CompactFusion, Sight
from engines.build.models.palette import Palette
from engines.build.rewording import Reworder
from engines.build.views import AS_IT_IS, view

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.progress import Progress
    from torch import Tensor

    from engines.build.assemble import Source
    from engines.build.dataset import Catalog
    from engines.build.texts import Texts

_Kind = TypeVar("_Kind", bound=np.generic)

PART_FOLDERS: Final = ("training", "validation", "test")
"""Where in a work directory the features of each part of a catalogue are kept."""

_TEXTS: Final = 32  # that are read together
_PICTURES: Final = 8  # that each thread reads together: more are no faster, and take memory
_FEW: Final = 4_000_000  # pixels: an export takes as long as ONNX Runtime saves on these, 60 pictures of 256 px
_BYTES: Final = 2  # float16
_FILES: Final = ("middle", "final", "palette", "states")
_MADE_BY: Final = ("features.py", "views.py", "models/backbones.py", "models/palette.py")


@dataclass(frozen=True)
class Reworded:
    """K wrong texts of each of N products (`engines.build.rewording`), product by product.

    Attributes:
        known: bool (N, K): some products have none.
        states: float16 (N * K, T, 384), as of `Features`.
        texts: (N * K, T).
    """

    known: NDArray[np.bool_]
    states: NDArray[np.float16]
    texts: Texts

    def draw(
        self, products: NDArray[np.int64], generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return which of these products have wrong texts, and a row of one for each of them, int64 (B')."""
        variants = generator.integers(self.known.shape[1], size=len(products))
        (having,) = np.nonzero(self.known[products, variants])
        return having, products[having] * self.known.shape[1] + variants[having]


@dataclass(frozen=True)
class Features:
    """Of P pictures in V views (`engines.build.views`), and N texts.

    Attributes:
        middle: float16 (P, V, 88, 16, 16).
        final: float16 (P, V, 352, 8, 8).
        palette: float16 (P, V, K, 8, 8).
        looks: float32 (N, D), what each product's first picture looks like to ImageNet's weights.
        states: float16 (N, T, 384), the text backbone's last states.
        texts: the tokens.
        reworded: wrong texts; None: training uses none.
    """

    middle: NDArray[np.float16]
    final: NDArray[np.float16]
    palette: NDArray[np.float16]
    looks: NDArray[np.float32]
    states: NDArray[np.float16]
    texts: Texts
    reworded: Reworded | None = None

    @property
    def views(self) -> int:
        """How many views there are of each picture."""
        return int(self.middle.shape[1])

    def pictures(self, indices: NDArray[np.int64], views: NDArray[np.int64]) -> Sight:
        """Return what the frozen parts see of these pictures, each in its view."""
        each = (part[indices, views] for part in (self.middle, self.final, self.palette))
        return Sight(*(torch.from_numpy(part).float() for part in each))

    def as_they_are(self, indices: NDArray[np.int64]) -> Sight:
        """Return what the frozen parts see of these pictures."""
        return self.pictures(indices, np.full(len(indices), AS_IT_IS))


class Said(NamedTuple):
    """Texts as a model takes them: ids (B, T), `states` (B, T, 384), `mask` (B, T), `attributes` (B, A, 2) or None."""

    input_ids: Tensor
    states: Tensor
    mask: Tensor
    attributes: Tensor | None


def said(source: Features | Reworded, rows: NDArray[np.int64]) -> Said:
    """Return these texts, cut to the longest of them, with the attributes beside them."""
    texts = source.texts
    mask = texts.attention_mask[rows]
    longest = int(mask.sum(axis=1).max())
    return Said(
        torch.from_numpy(texts.input_ids[rows, :longest]),
        torch.from_numpy(source.states[rows, :longest]).float(),
        torch.from_numpy(mask[:, :longest]),
        None if texts.attributes is None else torch.from_numpy(texts.attributes[rows]),
    )


def extract_reworded(  # noqa: PLR0917 - as `extract`, and what is drawn
    model: CompactFusion,
    catalog: Catalog,
    source: Source,
    count: int,
    seed: int,
    folder: Path,
    progress: Progress,
) -> Reworded:
    """Return `count` wrong texts of each product, their states as a file in `folder`.

    Attributes say the same as the text; a product without a wrong text keeps its own, which is never drawn.

    Raises:
        OSError: the folder has no room for them.
    """
    reworder = Reworder(catalog, seed=seed)
    owners = np.repeat(np.arange(len(catalog.products)), count)
    drawn = [reworder.reword(product) for product in owners.tolist()]
    products = tuple(
        one.applied(catalog.products[i]) if one else catalog.products[i]
        for i, one in zip(owners.tolist(), drawn, strict=True)
    )
    texts = source.encode(replace(catalog, products=products))
    known = np.array([one is not None for one in drawn]).reshape(-1, count)
    model.eval()
    states = _states(model, texts, folder / "reworded.npy", progress)
    model.train()
    return Reworded(known, states, texts)


def extract(  # noqa: PLR0917 - of what, where to, how many
    model: CompactFusion, catalog: Catalog, texts: Texts, folder: Path, progress: Progress, views: int = 1
) -> Features:
    """Return the features of so many views, the large ones as files in `folder`.

    Those that an earlier run made there are used again.

    Raises:
        OSError: the folder has no room for them.
    """
    made_of, stamp = f"{views} {_digest(model, catalog.pixel_values, texts)}", folder / "made-of"
    if stamp.exists() and stamp.read_text() == made_of:
        middle, final, palette, states = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in _FILES)
    else:
        stamp.unlink(missing_ok=True)
        model.eval()
        middle, final, palette = _sights(model, catalog.pixel_values, folder, progress, views)
        states = _states(model, texts, folder / "states.npy", progress)
        model.train()
        stamp.write_text(made_of)
    looks = final[catalog.first_picture[:-1], AS_IT_IS].mean(axis=(2, 3), dtype=np.float32)
    return Features(middle, final, palette, looks, states, texts)


def remove(work: Path) -> None:
    """Remove the features of all parts from a work directory."""
    for name in PART_FOLDERS:
        shutil.rmtree(work / name, ignore_errors=True)


def size_bytes(pictures: int, texts: int, *, views: int, side_px: int, tokens: int) -> int:
    """Return how large the files will be of so many pictures in so many views, and of so many texts."""
    sights = sum(math.prod(shape) for shape in _shapes(pictures, views, side_px, Palette().size))
    return _BYTES * (sights + texts * tokens * TEXT_STATES)


def _shapes(pictures: int, views: int, side_px: int, colors: int) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of what the frozen parts see: middle, final, palette."""
    of_cells = ((channels, side_px // 32) for channels in (ImageBackbone.final_channels, colors))
    sizes = ((ImageBackbone.middle_channels, side_px // 16), *of_cells)
    return tuple((pictures, views, channels, cells, cells) for channels, cells in sizes)


def _digest(model: CompactFusion, pictures: NDArray[np.uint8], texts: Texts) -> str:
    """Return what the features follow from: code, weights, pictures, tokens."""
    digest = hashlib.blake2b(sources.digest(*_MADE_BY).encode(), digest_size=16)
    for frozen in (model.backbone, model.text_backbone, model.palette):
        for tensor in (*frozen.parameters(), *frozen.buffers()):
            digest.update(np.ascontiguousarray(tensor.numpy()).data)
    for array in (pictures, texts.input_ids, texts.attention_mask):
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class _Sees(nn.Module):
    """What is frozen of the picture's half, as one graph."""

    def __init__(self, model: CompactFusion) -> None:
        super().__init__()
        self.backbone, self.palette = model.backbone, model.palette

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three parts of a `Sight`."""
        middle, final = self.backbone(pixel_values)
        return middle, final, self.palette(pixel_values)


def _in_torch(model: CompactFusion) -> Callable[[Tensor], list[NDArray[np.float32]]]:
    sees = _Sees(model).eval()

    def run(pixel_values: Tensor) -> list[NDArray[np.float32]]:
        with torch.no_grad():
            return [part.numpy() for part in sees(pixel_values)]

    return run


@lru_cache(maxsize=1)  # an export takes seconds, and a run reads pictures of several parts
def _on_onnx_runtime(model: CompactFusion, side_px: int) -> Callable[[Tensor], list[NDArray[np.float32]]]:
    return export.on_onnx_runtime(_Sees(model).eval(), torch.zeros((2, 3, side_px, side_px), dtype=torch.uint8))


def _sights(
    model: CompactFusion, pictures: NDArray[np.uint8], folder: Path, progress: Progress, views: int
) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.float16]]:
    """Write what the frozen parts see, a batch on each thread.

    ONNX Runtime takes a third of the time that torch takes for it.
    """
    count, side = len(pictures), pictures.shape[-1]
    sees = _in_torch(model) if count * views * side**2 < _FEW else _on_onnx_runtime(model, side)
    shapes = _shapes(count, views, side, model.palette.size)
    middle, final, palette = (_file(folder / f"{name}.npy", shape) for name, shape in zip(_FILES, shapes, strict=False))

    def read(start: int) -> None:
        rows = range(start, min(start + _PICTURES, count))
        pixels = torch.from_numpy(pictures[rows.start : rows.stop])
        for number in range(views):
            seen = sees(view(pixels, number, rows))
            for array, part in zip((middle, final, palette), seen, strict=True):
                array[rows.start : rows.stop, number] = part

    starts = range(0, count, _PICTURES)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        deque(progress.track(pool.map(read, starts), total=len(starts), description="reading pictures"), maxlen=0)
    return middle, final, palette


@torch.no_grad()
def _states(model: CompactFusion, texts: Texts, file: Path, progress: Progress) -> NDArray[np.float16]:
    """Texts of like length go together, so that little is computed for padding."""
    lengths = texts.attention_mask.sum(axis=1)
    kept = _file(file, (*texts.input_ids.shape, TEXT_STATES))
    order = np.argsort(lengths, kind="stable")
    for rows in progress.track(_parts(order), description="reading texts"):
        longest = int(lengths[rows].max())
        ids, mask = (torch.from_numpy(array[rows, :longest]) for array in (texts.input_ids, texts.attention_mask))
        kept[rows, :longest] = model.text_backbone(input_ids=ids, attention_mask=mask).last_hidden_state.half().numpy()
    return kept


def _file(path: Path, shape: tuple[int, ...]) -> NDArray[np.float16]:
    """Return an array that stands in a file, its room taken from the disk now: where it runs out later, writing kills.

    Raises:
        OSError: there is no room.
    """
    array = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    with path.open("r+b") as opened:
        os.posix_fallocate(opened.fileno(), 0, path.stat().st_size)
    return array


def _parts(array: NDArray[_Kind]) -> Sequence[NDArray[_Kind]]:
    return np.split(array, range(_TEXTS, len(array), _TEXTS))
