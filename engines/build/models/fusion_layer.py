"""Where text and picture of the compact family are read together: the text's tokens attend to the picture's.

Source: Li et al. 2022 (BLIP: a text encoder with cross-attention as image-text matcher).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines.build.models.dropout import Dropout

if TYPE_CHECKING:
    from torch import Tensor


class FusionLayer(nn.Module):
    """Pre-norm self-attention of the text, cross-attention to the picture, feed-forward.

    A picture's keys and values are made once, however many texts it is compared with.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.self_norm, self.cross_norm, self.feed_norm = (nn.LayerNorm(width) for _ in range(3))
        self.self_input = nn.Linear(width, 3 * width)
        self.self_output = nn.Linear(width, width)
        self.queries = nn.Linear(width, width)
        self.image_input = nn.Linear(width, 2 * width)
        self.cross_output = nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = Dropout(dropout)

    def forward(self, text: Tensor, image: Tensor, bias: Tensor) -> Tensor:
        """Return text (B, T, C); `bias` (B, 1, 1, T) is added to the scores of the text's own tokens.

        The texts of one picture ask it together, as one long sequence: its tokens are not copied for each.
        """
        queries, keys, values = self.self_input(self.self_norm(text)).chunk(3, dim=-1)
        text = text + self.dropout(
            self.self_output(self._attend(queries, self._split(keys), self._split(values), bias))
        )
        keys, values = (self._split(part) for part in self.image_input(image).chunk(2, dim=-1))
        queries = self.queries(self.cross_norm(text)).reshape(image.shape[0], -1, text.shape[-1])
        seen = self._attend(queries, keys, values, None).view_as(text)
        text = text + self.dropout(self.cross_output(seen))
        fed: Tensor = text + self.dropout(self.feed(self.feed_norm(text)))
        return fed

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        queries = self._split(queries)
        if torch.is_autocast_enabled(queries.device.type):  # its gradient in bfloat16 takes a CPU six times as long
            with torch.autocast(queries.device.type, enabled=False):
                attended = F.scaled_dot_product_attention(queries.float(), keys.float(), values.float(), attn_mask=bias)
        else:
            attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
        return attended.transpose(1, 2).flatten(2)

    def _split(self, tokens: Tensor) -> Tensor:
        """Return (B, heads, L, C / heads)."""
        batch, length, width = tokens.shape
        return tokens.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)
