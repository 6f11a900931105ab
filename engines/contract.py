"""What an engine is: its inputs, its protocol and its manifest. A leaf: numpy and msgspec only.

Both sides depend on this file: `engines.build` produces what it describes, `engines.runtime` and `streamer`
consume it. Nothing here does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MANIFEST_SCHEMA = 1
"""The manifest's schema version; a runtime refuses any other."""


class ImageSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How bytes become `pixel_values` (see `engines.image`).

    The picture is decoded to RGB, alpha composed onto `background`, EXIF orientation applied, scaled to fit
    (height, width) and padded with `background` (`fit="pad"`), or stretched (`fit="stretch"`).
    """

    height: int
    width: int
    fit: Literal["pad", "stretch"] = "pad"
    background: tuple[int, int, int] = (255, 255, 255)
    version: int = 1


TEXT_VERSION = 2
"""Of `TextSpec`, for engines that are trained from now on; a runtime reads it and those before."""


class TextSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a product's fields become `input_ids` (see `engines.text`): which fields, in which order, how many tokens.

    With version 1, tags and entities of HTML are read as words; with version 2 they are not.
    """

    max_tokens: int
    fields: tuple[str, ...]
    version: int = TEXT_VERSION


class AttributeColumns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a product's columns become `attributes` (see `engines.attributes`): A columns in this order.

    numbers: columns that hold numbers.
    categories: columns that hold one of some values, as `engines.attributes.category` spells them.
    history: a column with past values of a number, of which the last `history_length` are read, the oldest first.
    """

    numbers: tuple[str, ...] = ()
    categories: dict[str, tuple[str, ...]] = {}
    history: str | None = None
    history_length: int = 0
    version: int = 1

    @property
    def count(self) -> int:
        """A: how many columns there are, each past value one."""
        return len(self.numbers) + len(self.categories) + self.history_length


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input of the graph; `None` in `shape` is the dynamic batch dimension."""

    name: str
    dtype: Literal["uint8", "int32", "float32"]
    shape: tuple[int | None, ...]


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Maps a logit to P(mismatch): `sigmoid(scale * logit + shift)` (Platt; temperature T is scale = 1/T, shift = 0).

    Source: Platt 1999; Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """

    scale: float = 1.0
    shift: float = 0.0


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`manifest.json` of a release: everything a scorer must know beside the weights.

    `threshold` is on the calibrated probability, `thresholds` overrides it per top-level category; `metrics` and
    `provenance` are for people and for the gate, never read by the scorer. `files` maps each other file of the
    release to its SHA-256. `attributes` is there when the engine reads a product's columns beside its text.
    """

    schema_version: int
    release: str
    family: str
    created_at: str
    inputs: tuple[TensorSpec, ...]
    image: ImageSpec
    text: TextSpec
    calibration: Calibration
    threshold: float
    thresholds: dict[str, float]
    max_batch: int
    parent: str | None
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    files: dict[str, str]
    attributes: AttributeColumns | None = None

    def threshold_of(self, category: str) -> float:
        """Return the threshold of a top-level category (see `top_level`)."""
        return self.thresholds.get(category, self.threshold)


def top_level(product_type: str) -> str:
    """Return the top level of a product type (`Apparel > Shoes` → `Apparel`): the category of `Manifest.thresholds`."""
    return product_type.split(">", 1)[0].strip()


class Batch(msgspec.Struct, frozen=True):
    """Ready inputs for B pairs.

    pixel_values: uint8 (B, 3, H, W), RGB, 0..255 (normalisation is inside the graph).
    input_ids, attention_mask: int32 (B, T); mask is 1 on tokens to read, 0 on padding and on what is left
    out (`engines.attribution`), which may stand anywhere.
    attributes: float32 (B, A, 2), value and known (1 or 0) of each column; None: the engine takes none.
    """

    pixel_values: NDArray[np.uint8]
    input_ids: NDArray[np.int32]
    attention_mask: NDArray[np.int32]
    attributes: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return int(self.pixel_values.shape[0])


class Engine(Protocol):
    """A loaded, warm model. `infer` is called from `concurrency` threads at once; it blocks without holding the GIL."""

    @property
    def manifest(self) -> Manifest:
        """The release this engine runs."""
        ...

    @property
    def device(self) -> str:
        """Where it runs, for people: `cpu (onnxruntime)`, `cuda:0 (tensorrt)`."""
        ...

    @property
    def concurrency(self) -> int:
        """How many batches it runs best at the same time: one for each core, or one computed and one copied."""
        ...

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        """Return logits (B,), float32: the log-odds, before calibration, that picture and text do NOT match.

        Raises:
            InferenceFailed: the runtime raised, or a logit is not finite.
        """
        ...

    def close(self) -> None:
        """Free the memory; no call may follow."""
