"""What the frozen halves of a compact model say of a catalogue, computed once and kept on disk for all epochs."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import torch

from engines.build.models.compact import TEXT_STATES, colors
from engines.build.rewording import Reworder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.progress import Progress
    from torch import Tensor

    from engines.build.assemble import Source
    from engines.build.dataset import Catalog
    from engines.build.models.compact import CompactFusion
    from engines.build.texts import Texts

_Kind = TypeVar("_Kind", bound=np.generic)

_BATCH: Final = 32
AS_IT_IS, MIRRORED = 0, 1


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
    """Of P pictures and N texts.

    Attributes:
        early: float16 (P, 2, C, h, w), the picture as it is and mirrored, after the frozen blocks.
        color: uint8 (P, 3, 56, 56), raw colors.
        looks: float32 (N, D), what each product's first picture looks like to ImageNet's weights.
        states: float16 (N, T, 384), the text backbone's last states.
        texts: the tokens.
        reworded: wrong texts; None: training uses none.
    """

    early: NDArray[np.float16]
    color: NDArray[np.uint8]
    looks: NDArray[np.float32]
    states: NDArray[np.float16]
    texts: Texts
    reworded: Reworded | None = None

    def pictures(self, indices: NDArray[np.int64], mirrored: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return early features and colors of these pictures, those mirrored where `mirrored` is 1."""
        early = torch.from_numpy(self.early[indices, mirrored]).float()
        color = self.color[indices]
        color = np.where(mirrored[:, None, None, None] == MIRRORED, color[..., ::-1], color)
        return early.to(memory_format=torch.channels_last), torch.from_numpy(color)

    def text(self, products: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """Return states, ids and mask of these products' texts, cut to the longest of them."""
        return text_rows(self.states, self.texts, products)


def text_rows(states: NDArray[np.float16], texts: Texts, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """Return states (B, T, 384), ids and mask (B, T) of these texts, cut to the longest of them."""
    mask = texts.attention_mask[rows]
    longest = int(mask.sum(axis=1).max())
    kept = torch.from_numpy(states[rows, :longest]).float()
    return kept, torch.from_numpy(texts.input_ids[rows, :longest]), torch.from_numpy(mask[:, :longest])


def read_texts(model: CompactFusion, said: Features | Reworded, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Return tokens (B, T + K, C) and mask (B, T + K) of these texts, attributes included, where the model is."""
    device = model.text_positions.device
    states, ids, mask = (tensor.to(device) for tensor in text_rows(said.states, said.texts, rows))
    known = said.texts.attributes
    attributes = None if known is None else torch.from_numpy(known[rows]).to(device)
    return model.joined(model.text_tokens(states, ids), mask, attributes)


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


def extract(model: CompactFusion, catalog: Catalog, texts: Texts, folder: Path, progress: Progress) -> Features:
    """Return the features, the large ones as files in `folder`.

    Raises:
        OSError: the folder has no room for them.
    """
    model.eval()
    early = _early(model, catalog.pixel_values, folder / "early.npy", progress)
    first = catalog.first_picture[:-1]
    features = Features(
        early=early,
        color=np.concatenate([colors(torch.from_numpy(part)).numpy() for part in _parts(catalog.pixel_values)]),
        looks=_looks(model, early, first),
        states=_states(model, texts, folder / "states.npy", progress),
        texts=texts,
    )
    model.train()
    return features


@torch.no_grad()
def _early(model: CompactFusion, pictures: NDArray[np.uint8], file: Path, progress: Progress) -> NDArray[np.float16]:
    backbone = model.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    side = pictures.shape[-1] // 8
    shape = (len(pictures), 2, backbone.early_channels, side, side)
    kept = _file(file, shape)
    for start in progress.track(range(0, len(pictures), _BATCH), description="reading pictures"):
        pixels = torch.from_numpy(pictures[start : start + _BATCH])
        kept[start : start + _BATCH, AS_IT_IS] = backbone.early(pixels).half().numpy()
        kept[start : start + _BATCH, MIRRORED] = backbone.early(pixels.flip(3)).half().numpy()
    return kept


@torch.no_grad()
def _looks(model: CompactFusion, early: NDArray[np.float16], pictures: NDArray[np.int64]) -> NDArray[np.float32]:
    parts = [
        model.backbone.late(torch.from_numpy(early[p, AS_IT_IS]).float())[1].mean(dim=(2, 3)) for p in _parts(pictures)
    ]
    return np.concatenate([part.numpy() for part in parts])


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
    return np.split(array, range(_BATCH, len(array), _BATCH))
