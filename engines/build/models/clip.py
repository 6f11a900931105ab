"""CLIP: picture and text are encoded apart and compared by one angle. The dual-encoder baseline that fusion must beat.

Source: "Learning Transferable Visual Models From Natural Language Supervision", Radford et al. 2021.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from transformers import CLIPModel

from engines.build.models.pretrained import PretrainedFusion

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from engines.build.models.attributes import AttributeSpec
    from engines.build.models.pretrained import PixelStatistics

_FIRST_MARGIN: Final = 0.25  # about the cosine of a fitting caption with ViT-B/32, whose cosines are narrow


class Clip(PretrainedFusion):
    """Log-odds of a mismatch: `scale * (margin - cosine)`, an affine function of the cosine.

    The scale is the checkpoint's own learned one; the margin, the cosine at which both answers are as likely, is
    learned here. Attributes are pooled and added to the text's embedding by a gate that starts shut.
    """

    family = "clip"
    core_class = CLIPModel
    fit = "pad"

    def __init__(
        self, core: PreTrainedModel, pixels: PixelStatistics, *, attributes: AttributeSpec | None = None
    ) -> None:
        super().__init__(core, pixels, attributes=attributes)
        self.margin = nn.Parameter(torch.tensor(_FIRST_MARGIN))
        # Source: the tanh gate of Flamingo, Alayrac et al. 2022
        self.gate = None if attributes is None else nn.Parameter(torch.zeros(()))

    @property
    def width(self) -> int:
        return int(self.core.config.projection_dim)

    @property
    def image_size(self) -> int:
        return int(self.core.config.vision_config.image_size)

    @property
    def max_tokens(self) -> int:
        return int(self.core.config.text_config.max_position_embeddings)

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, attributes: Tensor | None = None
    ) -> Tensor:
        image = self.image_embedding(pixel_values)
        text = self.text_embedding(input_ids, attention_mask)
        if attributes is not None:
            pooled = self.attribute_tokens(attributes).mean(dim=1)
            assert self.gate is not None
            text = F.normalize(text + torch.tanh(self.gate) * pooled, dim=-1)
        cosine = (image * text).sum(dim=-1)
        logits: Tensor = self.core.logit_scale.exp() * (self.margin - cosine)
        return logits

    def image_embedding(self, pixel_values: Tensor) -> Tensor:
        """Return unit vectors (B, C)."""
        pooled = self.core.vision_model(self.normalised(pixel_values)).pooler_output
        return F.normalize(self.core.visual_projection(pooled), dim=-1)

    def text_embedding(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return unit vectors (B, C) of what the last real token has read.

        In the library it is the first end-of-text token, found by an id that differs between checkpoints; the tokenizer
        ends every text, cut or not, with one.
        """
        states = self.core.text_model(input_ids, attention_mask=attention_mask).last_hidden_state  # (B, T, C)
        places = torch.arange(states.shape[1], device=states.device)
        last = places == (places * attention_mask).amax(dim=1, keepdim=True)  # (B, T)
        pooled = (states * last[:, :, None]).sum(dim=1)
        return F.normalize(self.core.text_projection(pooled), dim=-1)
