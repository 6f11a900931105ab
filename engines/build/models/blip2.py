"""BLIP-2: the queries of a Q-Former attend to the picture and to the words; its image-text matching head decides.

The language model behind the Q-Former has no part in matching and is not loaded.

Source: "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large Language Models", Li,
Li, Savarese, Hoi 2023.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import Blip2ForImageTextRetrieval

from engines.build.models.pretrained import PretrainedFusion

if TYPE_CHECKING:
    from torch import Tensor


class Blip2(PretrainedFusion):
    """Each query votes (no match, match); the difference of the mean votes is the log-odds of a mismatch.

    No mask goes with the picture's tokens: all of them are real, and a mask of ones is work for every layer.
    """

    family = "blip2"
    core_class = Blip2ForImageTextRetrieval
    fit = "stretch"
    heads = ("itm_head.", "vision_projection.", "text_projection.")

    @property
    def width(self) -> int:
        return int(self.core.config.qformer_config.hidden_size)

    @property
    def image_size(self) -> int:
        return int(self.core.config.vision_config.image_size)

    @property
    def max_tokens(self) -> int:
        return int(self.core.config.qformer_config.max_position_embeddings)

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, attributes: Tensor | None = None
    ) -> Tensor:
        image = self.core.vision_model(self.normalised(pixel_values)).last_hidden_state  # (B, 1 + N, C)
        queries = self.core.query_tokens.expand(image.shape[0], -1, -1)  # (B, Q, C)
        query_mask = torch.ones_like(queries[..., 0]).to(attention_mask.dtype)
        tokens, mask = self.joined(
            self.core.embeddings(input_ids, query_embeds=queries),
            torch.cat([query_mask, attention_mask], dim=1),
            attributes,
        )  # (B, Q + T + K, C)
        states = self.core.qformer(
            query_embeds=tokens, query_length=queries.shape[1], attention_mask=mask, encoder_hidden_states=image
        ).last_hidden_state
        no_match, match = self.core.itm_head(states[:, : queries.shape[1]]).mean(dim=1).unbind(-1)
        logits: Tensor = no_match - match
        return logits
