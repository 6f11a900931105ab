"""BLIP: words attend to the picture in every layer of the text encoder; its image-text matching head decides.

Source: "BLIP: Bootstrapping Language-Image Pre-training", Li, Li, Xiong, Hoi 2022.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import BlipForImageTextRetrieval

from engines.build.models.pretrained import PretrainedFusion

if TYPE_CHECKING:
    from torch import Tensor


class Blip(PretrainedFusion):
    """The head's two logits are (no match, match), so their difference is the log-odds of a mismatch."""

    family = "blip"
    core_class = BlipForImageTextRetrieval
    fit = "stretch"
    heads = ("itm_head.", "vision_proj.", "text_proj.")

    @property
    def width(self) -> int:
        return int(self.core.config.text_config.hidden_size)

    @property
    def image_size(self) -> int:
        return int(self.core.config.vision_config.image_size)

    @property
    def max_tokens(self) -> int:
        return int(self.core.config.text_config.max_position_embeddings)

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, attributes: Tensor | None = None
    ) -> Tensor:
        image = self.core.vision_model(self.normalised(pixel_values)).last_hidden_state  # (B, 1 + N, C)
        words = self.core.text_encoder.embeddings(input_ids)  # (B, T, C)
        tokens, mask = self.joined(words, attention_mask, attributes)
        states = self.core.text_encoder(
            encoder_embeds=tokens, attention_mask=mask, encoder_hidden_states=image
        ).last_hidden_state
        no_match, match = self.core.itm_head(states[:, 0]).unbind(-1)
        logits: Tensor = no_match - match
        return logits
