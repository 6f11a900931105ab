"""ViLT: one transformer reads words and patches of the picture together.

Source: "ViLT: Vision-and-Language Transformer Without Convolution or Region Supervision", Kim, Son, Kim 2021.

The library's model draws a random order of the patches and finds their number in the data, which no graph can hold.
Here every patch of the fixed canvas is read, in raster order: attention does not know the order of its tokens beyond
their positions, so the logit is the same. The library's positions for a canvas of another size than the checkpoint's
are a bilinear interpolation with aligned corners; here they are that interpolation as two matrices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from transformers import ViltForImageAndTextRetrieval

from engines.build.models.pretrained import PretrainedFusion

if TYPE_CHECKING:
    from torch import Tensor

_MASKED: Final = -1e4  # added to the score of padding: no weight, and still finite in 16 bits


class Vilt(PretrainedFusion):
    """A checkpoint's ranking head is the log-odds of a match; one that has none gets a random head."""

    family = "vilt"
    core_class = ViltForImageAndTextRetrieval
    fit = "pad"
    heads = ("rank_output.",)

    @property
    def width(self) -> int:
        return int(self.core.config.hidden_size)

    @property
    def image_size(self) -> int:
        return int(self.core.config.image_size)

    @property
    def max_tokens(self) -> int:
        return int(self.core.config.max_position_embeddings)

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, attributes: Tensor | None = None
    ) -> Tensor:
        vilt = self.core.vilt
        text, mask = self.joined(self._text_tokens(input_ids), attention_mask, attributes)
        image = self._image_tokens(self.normalised(pixel_values))
        real = torch.cat([mask, torch.ones_like(image[..., 0]).to(mask.dtype)], dim=1)  # (B, T + 1 + N)
        bias = torch.where(real.bool(), 0.0, _MASKED)[:, None, None, :]
        states = vilt.encoder(torch.cat([text, image], dim=1), attention_mask=bias).last_hidden_state
        match: Tensor = self.core.rank_output(vilt.pooler(vilt.layernorm(states))).squeeze(-1)
        return -match

    def _text_tokens(self, input_ids: Tensor) -> Tensor:
        """Return (B, T, C)."""
        embeddings = self.core.vilt.embeddings
        tokens: Tensor = embeddings.text_embeddings(input_ids) + embeddings.token_type_embeddings.weight[0]
        return tokens

    def _image_tokens(self, pixels: Tensor) -> Tensor:
        """Return (B, 1 + N, C): the image's class token and the patches of the whole canvas in raster order."""
        embeddings = self.core.vilt.embeddings
        grid: Tensor = embeddings.patch_embeddings(pixels)  # (B, C, H / patch, W / patch)
        positions = self._positions(grid.shape[-2], grid.shape[-1])
        first = (embeddings.cls_token + embeddings.position_embeddings[:, :1]).expand(grid.shape[0], -1, -1)
        tokens = torch.cat([first, grid.flatten(2).transpose(1, 2) + positions], dim=1)
        image: Tensor = embeddings.dropout(tokens) + embeddings.token_type_embeddings.weight[1]
        return image

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Return (rows * columns, C), interpolated from the checkpoint's square grid."""
        side = self.core.config.image_size // self.core.config.patch_size
        grid: Tensor = self.core.vilt.embeddings.position_embeddings[0, 1:].reshape(side, side, -1)  # (S, S, C)
        if (rows, columns) == (side, side):
            return grid.flatten(0, 1)
        down, across = (_interpolation(count, side).to(grid) for count in (rows, columns))
        by_row = torch.matmul(down, grid.flatten(1)).reshape(rows, side, -1)  # (rows, S, C)
        return torch.matmul(across, by_row).flatten(0, 1)


def _interpolation(count: int, side: int) -> Tensor:
    """Return the matrix (count, side) of a linear interpolation with aligned corners."""
    places = torch.linspace(0, side - 1, count) if count > 1 else torch.zeros(1)
    return (1 - (places[:, None] - torch.arange(side)).abs()).clamp(min=0)
