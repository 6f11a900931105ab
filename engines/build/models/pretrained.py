"""What the families around a pretrained model share: pixels, attributes, and a directory in the hub's format.

A family holds the library's own model, unchanged, as `core`: a checkpoint of a hub loads by the library's code, and one
that is saved here loads there. What the family adds (a head, a margin, attributes) stands beside it in `EXTRAS_FILE`.
Nothing here reads products or texts: `engines.build.families` adds the tokenizer and the specs.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NamedTuple, Self

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils.hub import cached_file

from engines.build.models.attributes import AttributeSpec, Resampler
from engines.errors import EngineUnavailable

if TYPE_CHECKING:
    from torch import Tensor

EXTRAS_FILE: Final = "mismatch_head.safetensors"
ATTRIBUTES_FILE: Final = "mismatch_attributes.json"
_PROCESSOR_FILE: Final = "preprocessor_config.json"

_CORE: Final = "core."
_OF_ATTRIBUTES: Final = ("resampler.", "gate")  # random where a checkpoint gets its first attributes


class PixelStatistics(NamedTuple):
    """Mean and standard deviation of each channel, of pixels 0..1, that a checkpoint was trained with."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class PretrainedFusion(nn.Module, ABC):
    """A model of the library with the signature of every family.

    Args:
        core: The library's model.
        pixels: What its pixels are normalised by, inside the graph.
        attributes: The columns that the attributes input has; None: the family takes no attributes.
    """

    family: ClassVar[str]
    core_class: ClassVar[Any]  # the library's annotations of configs and submodules are wider than what is there
    fit: ClassVar[Literal["pad", "stretch"]]
    """How the checkpoints of this family saw pictures that are not square; where they were cropped, "pad"."""
    heads: ClassVar[tuple[str, ...]] = ()
    """Parts of `core` that a checkpoint may lack, because it was trained for something else: they start at random."""

    core: Any  # as `core_class`
    mean: Tensor
    std: Tensor

    def __init__(
        self, core: PreTrainedModel, pixels: PixelStatistics, *, attributes: AttributeSpec | None = None
    ) -> None:
        super().__init__()
        self.core = core
        self.pixels = pixels
        self.register_buffer("mean", torch.tensor(pixels.mean)[:, None, None] * 255, persistent=False)
        self.register_buffer("std", torch.tensor(pixels.std)[:, None, None] * 255, persistent=False)
        self.resampler = None if attributes is None else Resampler(attributes, self.width)

    @property
    @abstractmethod
    def width(self) -> int:
        """C: the channels of the tokens that attributes are joined to."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """The side, in pixels, of the pictures that the checkpoint was trained with."""

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """The longest text that has positions."""

    @abstractmethod
    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, attributes: Tensor | None = None
    ) -> Tensor:
        """Return logits (B,), the log-odds that picture and text do NOT match.

        Args:
            pixel_values: uint8 (B, 3, H, W), RGB 0..255.
            input_ids: int32 (B, T).
            attention_mask: int32 (B, T), 1 on tokens to read, see `engines.contract.Batch`.
            attributes: float32 (B, A, 2), or None; see `engines.build.models.attributes`.
        """

    def normalised(self, pixel_values: Tensor) -> Tensor:
        """Return the pixels as the checkpoint saw them, float32 (B, 3, H, W)."""
        return (pixel_values.float() - self.mean) / self.std

    def joined(self, tokens: Tensor, mask: Tensor, attributes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return tokens (B, L + K, C) and mask (B, L + K): the attributes' K tokens after the L that are given."""
        if attributes is None:
            return tokens, mask
        extra = self.attribute_tokens(attributes)
        real = torch.ones_like(extra[..., 0]).to(mask.dtype)
        return torch.cat([tokens, extra], dim=1), torch.cat([mask, real], dim=1)

    def attribute_tokens(self, attributes: Tensor) -> Tensor:
        """Return the attributes' tokens (B, K, C).

        Raises:
            ValueError: the family was made without attributes.
        """
        if self.resampler is None:
            raise ValueError(f"this {self.family} was made without attributes: give it an AttributeSpec")
        tokens: Tensor = self.resampler(attributes)
        return tokens

    @classmethod
    def from_pretrained(cls, source: str | Path, *, attributes: AttributeSpec | None = None) -> Self:
        """Return the model of a hub id or of a directory in the hub's format, in evaluation mode.

        Args:
            source: The id or the directory.
            attributes: Gives a checkpoint that takes no attributes a resampler with random weights; one that takes some
                keeps its own.

        Raises:
            EngineUnavailable: there is no such checkpoint, or it is not one of this family.
        """
        try:
            core = cls._load_core(source)
            model = cls(core, _read_pixels(source), attributes=_read_attributes(source) or attributes)
            model._load_extras(source)
        except Exception as error:  # the library's errors, and those of the files' formats, have no common base
            raise EngineUnavailable(f"{source} is not a checkpoint that {cls.family} can load: {error}") from error
        return model.eval()

    def save_pretrained(self, directory: Path) -> None:
        """Write the model into `directory`, which is made when missing."""
        self.core.save_pretrained(directory)
        extras = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(_CORE)}
        for name in (EXTRAS_FILE, ATTRIBUTES_FILE):
            (directory / name).unlink(missing_ok=True)  # of a model that was saved here before
        if extras:
            save_file({name: tensor.contiguous() for name, tensor in extras.items()}, directory / EXTRAS_FILE)
        if self.resampler is not None:
            (directory / ATTRIBUTES_FILE).write_bytes(msgspec.json.encode(self.resampler.spec))
        processor = {
            "image_mean": self.pixels.mean,
            "image_std": self.pixels.std,
            "size": {"height": self.image_size, "width": self.image_size},
        }
        (directory / _PROCESSOR_FILE).write_text(json.dumps(processor, indent=2))

    @classmethod
    def _load_core(cls, source: str | Path) -> PreTrainedModel:
        """Return the library's model, its weights the checkpoint's: the library alone would fill in random ones.

        Raises:
            ValueError: the checkpoint is of another kind, or lacks more than a head.
        """
        kind: object = PreTrainedConfig.get_config_dict(str(source))[0].get("model_type")
        expected: str = cls.core_class.config_class.model_type
        if kind != expected:
            raise ValueError(f"its config.json says model_type {kind!r}, not {expected!r}")
        core: PreTrainedModel
        core, loaded = cls.core_class.from_pretrained(str(source), dtype=torch.float32, output_loading_info=True)
        lacking = sorted(name for name in loaded["missing_keys"] if not name.startswith(cls.heads))
        if lacking:
            raise ValueError(f"it lacks {len(lacking)} weights, among them {lacking[0]}")
        return core

    def _load_extras(self, source: str | Path) -> None:
        """Take over what the checkpoint has beside the library's weights; a checkpoint of a hub has nothing.

        Raises:
            ValueError: the file is not of this family.
        """
        found = _find(source, EXTRAS_FILE)
        if found is None:
            return
        keys = self.load_state_dict(load_file(found), strict=False)
        lacking = [name for name in keys.missing_keys if not name.startswith((_CORE, *_OF_ATTRIBUTES))]
        if lacking or keys.unexpected_keys:
            raise ValueError(f"{EXTRAS_FILE} lacks {lacking} and has, not expected, {keys.unexpected_keys}")


def _find(source: str | Path, name: str) -> Path | None:
    """Return the file of a checkpoint, downloaded if it must be; None where it has no such file."""
    found = cached_file(str(source), name, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def _read_pixels(source: str | Path) -> PixelStatistics:
    processor, _ = ImageProcessingMixin.get_image_processor_dict(str(source))
    return PixelStatistics(tuple(processor["image_mean"]), tuple(processor["image_std"]))


def _read_attributes(source: str | Path) -> AttributeSpec | None:
    found = _find(source, ATTRIBUTES_FILE)
    return None if found is None else msgspec.json.decode(found.read_bytes(), type=AttributeSpec)
