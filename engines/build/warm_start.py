"""Readers that another catalogue has taught: what a compact model begins with, where it may.

Some hundred products teach attention next to nothing before they are known by heart. What it is for a picture to show
what a word says is much the same in every shop, so readers that have learned it from thousands of other products only
have to get to know this catalogue, in a fraction of the steps. What belongs to one catalogue alone (its facets, its
columns, how large its features are) does not come along.

No model may be measured on products that its beginning has learned from. The file therefore holds coarse prints of the
pictures, and a catalogue that shares more than a few of them is begun from nothing.

Source: Pan, Yang 2010, "A Survey on Transfer Learning"; prints: Krawetz 2013, "Kind of Like That" (dHash).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from engines.build.models.compact import CompactFusion, Reader

FILE: Final = Path(__file__).parent / "begun" / "compact.safetensors"
"""What ships; docs/adr/0028 says what has taught it."""

MOST_SHARED: Final = 0.05
"""Of a catalogue's pictures; of unrelated ones next to none have a print that is known."""

_OF_ONE_CATALOG: Final = ("center", "deviation", "shown.", "stated.", "resampler.")
_POSITIONS: Final = "text_positions"
_PRINTS: Final = "prints"
_ROWS, _COLUMNS = 16, 17  # of a print: 16 comparisons of neighbours in each of 16 rows
_DIFFERENT: Final = 4.0  # of 255: what is less comes and goes when a picture is saved again
_MOST_BITS: Final = 2
"""By which most copies differ, and hardly any other pictures, even of one shop: `benchmarks/prints.py`."""
_CHUNK: Final = 128


@dataclass(frozen=True)
class WarmStart:
    """Readers' weights, the prints of the pictures that taught them, int64 (P, 4), and what tells it from others."""

    readers: tuple[dict[str, Tensor], ...]
    prints: NDArray[np.int64]
    digest: str

    @classmethod
    def read(cls, file: Path) -> Self:
        """Return what `write` has written."""
        readers: dict[int, dict[str, Tensor]] = {}
        tensors = load_file(file)
        prints = tensors.pop(_PRINTS).numpy()
        for key, value in tensors.items():
            number, _, name = key.partition(".")
            readers.setdefault(int(number), {})[name] = value.float()
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return cls(tuple(readers[number] for number in sorted(readers)), prints, digest)

    def shared(self, catalogs: Iterable[NDArray[np.uint8]]) -> float:
        """Return the share of pictures, uint8 (P, 3, H, W) each, that the readers may have learned from."""
        known = np.concatenate([self.known(pictures) for pictures in catalogs])
        return float(known.mean()) if len(known) else 0.0

    def known(self, pictures: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return whose print is nearly one of the known, bool (P,)."""
        return near(prints(pictures), self.prints)

    def fits(self, reader: Reader) -> bool:
        """Return whether a reader is of the same sizes."""
        wanted = {name: value for name, value in reader.state_dict().items() if not name.startswith(_OF_ONE_CATALOG)}
        known = self.readers[0]
        return wanted.keys() == known.keys() and all(
            known[name].shape == value.shape or name == _POSITIONS for name, value in wanted.items()
        )

    def begin(self, model: CompactFusion) -> None:
        """Give the model's readers these weights; where it has more readers, several begin alike."""
        for number, reader in enumerate(model.each_reader()):
            own = reader.state_dict()
            for name, value in self.readers[number % len(self.readers)].items():
                if name == _POSITIONS:  # texts may be longer here: places that were never read are left to chance
                    count = min(value.shape[1], own[name].shape[1])
                    own[name][:, :count] = value[:, :count]
                else:
                    own[name].copy_(value)


@cache
def shipped() -> WarmStart:
    """Return what ships with the project."""
    return WarmStart.read(FILE)


def write(model: CompactFusion, pictures: NDArray[np.uint8], file: Path) -> None:
    """Keep a trained model's readers in half precision, and prints of its catalogue's pictures, uint8 (P, 3, H, W)."""
    tensors = {
        f"{number}.{name}": value.half().contiguous()
        for number, reader in enumerate(model.each_reader())
        for name, value in reader.state_dict().items()
        if not name.startswith(_OF_ONE_CATALOG)
    }
    known = np.unique(prints(pictures), axis=0)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_file(tensors | {_PRINTS: torch.from_numpy(known)}, partial)
    partial.replace(file)


def prints(pictures: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return 256 bits of each picture, uint8 (P, 3, H, W), as int64 (P, 4).

    They say which of two neighbours in a grid of 16 x 17 is lighter.
    """
    height, width = (pictures.shape[2] // _ROWS, pictures.shape[3] // _COLUMNS)
    found = np.empty((len(pictures), _ROWS * (_COLUMNS - 1) // 64), np.int64)
    for start in range(0, len(pictures), _CHUNK):
        part = pictures[start : start + _CHUNK, :, : _ROWS * height, : _COLUMNS * width]
        gray = part.mean(axis=1, dtype=np.float32).reshape(-1, _ROWS, height, _COLUMNS, width).mean(axis=(2, 4))
        lighter = gray[:, :, 1:] > gray[:, :, :-1] + _DIFFERENT
        found[start : start + _CHUNK] = np.packbits(lighter.reshape(len(part), -1), axis=1).view(np.int64)
    return found


def near(asked: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whose print, (P, 4), is nearly one of the known, (Q, 4), bool (P,)."""
    parts = np.split(asked, range(_CHUNK, len(asked), _CHUNK))
    bits = (np.bitwise_count(part[:, None] ^ known).sum(axis=2, dtype=np.int32) for part in parts)
    return np.concatenate([(each <= _MOST_BITS).any(axis=1) for each in bits])
