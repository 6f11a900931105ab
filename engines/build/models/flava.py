"""FLAVA: a multimodal encoder reads what an image and a text encoder say; a linear head on its class token decides.

Source: "FLAVA: A Foundational Language And Vision Alignment Model", Singh et al. 2022.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import FlavaModel

from engines.build.models.pretrained import PretrainedFusion

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from engines.build.models.attributes import AttributeSpec
    from engines.build.models.pretrained import PixelStatistics


class Flava(PretrainedFusion):
    """The head is our own and starts at random: a checkpoint gives features, and training on a catalogue the answer."""

    family = "flava"
    core_class = FlavaModel
    fit = "pad"

    def __init__(
        self, core: PreTrainedModel, pixels: PixelStatistics, *, attributes: AttributeSpec | None = None
    ) -> None:
        super().__init__(core, pixels, attributes=attributes)
        self.head = nn.Linear(self.width, 1)

    @property
    def width(self) -> int:
        return int(self.core.config.multimodal_config.hidden_size)

    @property
    def image_size(self) -> int:
        return int(self.core.config.image_config.image_size)

    @property
    def max_tokens(self) -> int:
        return int(self.core.config.text_config.max_position_embeddings)

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, attributes: Tensor | None = None
    ) -> Tensor:
        image = self._image_tokens(self.normalised(pixel_values))
        text, text_mask = self.joined(self._text_tokens(input_ids, attention_mask), attention_mask, attributes)
        first = image.new_ones(image.shape[0], image.shape[1] + 1).to(text_mask.dtype)  # the class token comes first
        states = self.core.multimodal_model(
            torch.cat([image, text], dim=1), attention_mask=torch.cat([first, text_mask], dim=1)
        ).last_hidden_state
        logits: Tensor = self.head(states[:, 0]).squeeze(-1)
        return logits

    def _image_tokens(self, pixels: Tensor) -> Tensor:
        """Return (B, 1 + N, C): what stands before the encoder's last norm, as the multimodal encoder was trained."""
        states = self.core.image_model(pixels, output_hidden_states=True).hidden_states[-1]
        tokens: Tensor = self.core.image_to_mm_projection(states)
        return tokens

    def _text_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return (B, T, C), as above."""
        states = self.core.text_model(input_ids, attention_mask=attention_mask, output_hidden_states=True)
        tokens: Tensor = self.core.text_to_mm_projection(states.hidden_states[-1])
        return tokens
