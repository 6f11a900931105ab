"""The small family: a small fusion encoder, trained from scratch.

    picture → convolutions → 10 x 10 image tokens ┐
                                                  ├→ joint attention layers → evidence of each text token → logit
    text    → word embeddings → text tokens       ┘

Before they meet, each word is told how well it fits the picture as a whole: its embedding times the pooled image
tokens, which a teacher aligns from the first step (`engines.build.teachers`). In the first layer text and image tokens
all attend to each other; in the others text tokens go on attending to both, and image tokens, which the logit does not
read, stay as they are. A text is contradicted when ANY of its words is, so the logit is a soft maximum over the words'
evidence, not a mean.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

if TYPE_CHECKING:
    from torch import Tensor

FAMILY: Final = "small"

_STRIDE: Final = 16  # pixels per image token, each side
_MASKED: Final = -1e4  # added to the score of padding: no weight, and still finite in 16 bits


@dataclass(frozen=True)
class SmallConfig:
    """Sizes; with the defaults 2.0 M parameters at a vocabulary of 900."""

    vocabulary_size: int
    image_size: int = 160
    max_tokens: int = 64
    channels: tuple[int, int, int, int] = (32, 64, 96, 160)
    width: int = 160
    layers: int = 3
    heads: int = 5
    dropout: float = 0.05

    def as_dict(self) -> dict[str, object]:
        """Return the sizes for the manifest's provenance."""
        return asdict(self)


class SmallFusion(nn.Module):
    """`forward(pixel_values, input_ids, attention_mask) -> logits`, as every family."""

    def __init__(self, config: SmallConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = config.image_size // _STRIDE
        self.stem = _stem(config.channels)
        self.project = nn.Conv2d(config.channels[-1], config.width, 1)
        self.image_positions = nn.Parameter(torch.randn(1, config.width, self.grid, self.grid) * 0.02)
        self.words = nn.Embedding(config.vocabulary_size, config.width, padding_idx=0)
        self.text_positions = nn.Parameter(torch.randn(1, config.max_tokens, config.width) * 0.02)
        self.seen = nn.Linear(config.width, config.width)
        self.word_bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        self.fit_direction = nn.Parameter(torch.randn(config.width) * 0.2)
        self.layers = nn.ModuleList(JointLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.evidence = nn.Linear(config.width, 1)
        nn.init.normal_(self.words.weight, std=0.5)
        nn.init.constant_(self.evidence.bias, -math.log(config.max_tokens))  # so that the first logits are about 0

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits (B,), the log-odds that picture and text do NOT match.

        Args:
            pixel_values: uint8 (B, 3, H, W), RGB 0..255.
            input_ids: int32 (B, T).
            attention_mask: int32 (B, T), 1 on real tokens.
        """
        return self.compare(self.image_tokens(pixel_values), input_ids, attention_mask)

    def image_tokens(self, pixel_values: Tensor) -> Tensor:
        """Return (B, N, C): what the picture alone says; one picture may then be compared with several texts.

        Smaller pictures than the configured ones give fewer tokens, their positions interpolated.
        """
        pixels = (pixel_values.float() - 127.5) / 64.0  # about unit variance on product photos
        grid: Tensor = self.project(self.stem(pixels))  # (B, C, H / 16, W / 16)
        positions: Tensor = self.image_positions
        if pixel_values.shape[-1] != self.config.image_size:
            positions = F.interpolate(positions, size=grid.shape[-2:], mode="bilinear", align_corners=False)
        return (grid + positions).flatten(2).transpose(1, 2)

    def word_logits(self, image_tokens: Tensor, embeddings: Tensor, bias: Tensor) -> Tensor:
        """Return the log-odds that a text of this picture has these words, (B, W).

        Source: "align before fuse", Li et al. 2021.

        Args:
            image_tokens: (B, N, C).
            embeddings: (W, C), the same words for all pictures, or (B, W, C).
            bias: (W,) or (B, W).
        """
        pooled = self.seen(image_tokens.mean(dim=1))[:, None]  # (B, 1, C)
        logits: Tensor = (embeddings * pooled).sum(dim=-1) / math.sqrt(self.config.width) + bias
        return logits

    def compare(self, image_tokens: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits (B,) of image tokens (B, N, C) against texts (B, T)."""
        real = attention_mask.bool()
        text_bias = torch.where(real, 0.0, _MASKED)  # (B, T)
        bias = F.pad(text_bias, (0, image_tokens.shape[1]))[:, None, None, :]  # (B, 1, 1, T + N)
        words = self.words(input_ids)
        bias_of_words = F.embedding(input_ids, self.word_bias[:, None]).squeeze(-1)
        fit = self.word_logits(image_tokens, words, bias_of_words)  # (B, T)
        text = words + self.text_positions[:, : input_ids.shape[1]] + fit[:, :, None] / 4 * self.fit_direction
        image = image_tokens
        for index, layer in enumerate(self.layers):
            text, image = layer(text, image, bias, update_image=index == 0)
        evidence = self.evidence(self.norm(text)).squeeze(-1)  # (B, T)
        return torch.logsumexp(evidence + text_bias, dim=1)


class JointLayer(nn.Module):
    """Pre-norm attention over text and image tokens together, then a feed-forward.

    Source: Vaswani et al. 2017; pre-norm as in Xiong et al. 2020.
    """

    def __init__(self, config: SmallConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(config.width)
        self.queries = nn.Linear(config.width, config.width)
        self.keys = nn.Linear(config.width, config.width)
        self.values = nn.Linear(config.width, config.width)
        self.attended = nn.Linear(config.width, config.width)
        self.feed_norm = nn.LayerNorm(config.width)
        self.feed = nn.Sequential(
            nn.Linear(config.width, 4 * config.width),
            nn.ReLU(),
            nn.Linear(4 * config.width, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, text: Tensor, image: Tensor, bias: Tensor, *, update_image: bool) -> tuple[Tensor, Tensor]:
        """Return text (B, T, C) and image tokens (B, N, C), the image's as they were unless `update_image`.

        `bias` (B, 1, 1, T + N) is added to the attention scores.
        """
        tokens = text.shape[1]
        hidden = torch.cat([text, image], dim=1)
        normed = self.attention_norm(hidden)
        rows = hidden if update_image else text
        queries = self.queries(normed[:, : rows.shape[1]])
        rows = rows + self.dropout(self._attend(queries, normed, bias))
        rows = rows + self.dropout(self.feed(self.feed_norm(rows)))
        return rows[:, :tokens], rows[:, tokens:] if update_image else image

    def _attend(self, queries: Tensor, normed: Tensor, bias: Tensor) -> Tensor:
        """Return what the queries (B, R, C) gather from all tokens (B, T + N, C)."""
        attended = F.scaled_dot_product_attention(
            self._split(queries), self._split(self.keys(normed)), self._split(self.values(normed)), attn_mask=bias
        )
        merged: Tensor = self.attended(attended.transpose(1, 2).flatten(2))
        return merged

    def _split(self, tokens: Tensor) -> Tensor:
        """Return (B, heads, L, C / heads)."""
        batch, length, width = tokens.shape
        return tokens.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside the identity. Source: He et al. 2016."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, grid: Tensor) -> Tensor:
        """Return a grid of the same shape."""
        return torch.relu(grid + self.second(self.first(grid)))


def _stem(channels: tuple[int, int, int, int]) -> nn.Sequential:
    """Return four halvings of the picture, each but the first followed by a residual block."""
    first, second, third, fourth = channels
    return nn.Sequential(
        _convolution(3, first, stride=2, kernel=5),
        _convolution(first, second, stride=2),
        Residual(second),
        _convolution(second, third, stride=2),
        Residual(third),
        _convolution(third, fourth, stride=2),
        Residual(fourth),
    )


def _convolution(inputs: int, outputs: int, *, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
