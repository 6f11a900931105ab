"""The compact family: pretrained backbones that come as packages, and fusion layers of our own between them.

    picture → EfficientNet-Lite0 → 14 x 14 image tokens ───┐ (keys and values)
    text    → MiniLM-L6          → text tokens → [self-attention → cross-attention → feed-forward] x 3
                                                                    → evidence of each text token → logit

An image token holds its cell's middle and final features and its raw colors, which ImageNet features half forget. A
text is contradicted when ANY of its words is: the logit is a soft maximum over the words' evidence. Beside it the model
keeps the similarity of picture and text as a whole, a dual encoder's signal, which finds absurd swaps best; its weight
in the logit is fitted on held-out pairs, never trained, so that the fusion layers cannot lean on it.

Sources: Tan, Le 2019 (EfficientNet) and its "Lite" variant; Wang et al. 2020 (MiniLM); Li et al. 2022 (BLIP: a text
encoder with cross-attention as image-text matcher).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines.build.models.attributes import AttributeSpec, Resampler
from engines.build.models.backbones import ImageBackbone, text_backbone

if TYPE_CHECKING:
    from torch import Tensor

FAMILY: Final = "compact"

GRID: Final = 14  # image tokens per side at 224 pixels
TEXT_STATES: Final = 384  # MiniLM's width
_COLOR_CELLS: Final = 4  # raw color samples per image token, each side
_MASKED: Final = -1e4  # added to the score of padding: no weight, and still finite in 16 bits
_TYPICAL_TOKENS: Final = 30.0


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of what is ours: 2.0 M parameters of layers and 5.9 M of words, beside the backbones' 2.9 M and 22.6 M."""

    vocabulary_size: int = 30522
    image_size: int = 224
    max_tokens: int = 64
    width: int = 192
    layers: int = 3
    heads: int = 6
    joint: int = 128
    dropout: float = 0.1
    attributes: AttributeSpec | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the sizes for the manifest's provenance."""
        return asdict(self)


class CompactFusion(nn.Module):
    """`forward(pixel_values, input_ids, attention_mask) -> logits`, as every family.

    Training works on what the frozen parts give, cached: `early` (pictures), the text backbone's states, `colors`.
    """

    similarity_weight: Tensor

    def __init__(self, config: CompactConfig, *, pretrained: bool = True) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.backbone = ImageBackbone(pretrained=pretrained)
        self.text_backbone: Any = text_backbone(pretrained=pretrained)
        self.middle = _projection(self.backbone.middle_channels, width)
        self.final = _projection(self.backbone.final_channels, width)
        self.color = _projection(3 * _COLOR_CELLS**2, width)
        self.image_positions = nn.Parameter(torch.randn(1, width, GRID, GRID) * 0.02)
        self.image_norm = nn.LayerNorm(width)
        self.words = nn.Embedding(config.vocabulary_size, width)  # what the catalogue's own words mean in pictures
        self.states = nn.Linear(TEXT_STATES, width)
        self.text_positions = nn.Parameter(torch.randn(1, config.max_tokens, width) * 0.02)
        self.text_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(FusionLayer(width, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.evidence = nn.Linear(width, 1)
        self.image_vector = nn.Linear(width, config.joint)
        self.text_vector = nn.Linear(width, config.joint)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(14.0)))
        self.resampler = None if config.attributes is None else Resampler(config.attributes, width)
        self.register_buffer("similarity_weight", torch.zeros(()))
        nn.init.zeros_(self.words.weight)

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, attributes: Tensor | None = None
    ) -> Tensor:
        """Return logits (B,), the log-odds that picture and text do NOT match.

        Args:
            pixel_values: uint8 (B, 3, 224, 224), RGB 0..255.
            input_ids: int32 (B, T).
            attention_mask: int32 (B, T), 1 on real tokens.
            attributes: float32 (B, A, 2), or None; see `engines.build.models.attributes`.
        """
        image = self.image_tokens(self.backbone.early(pixel_values), colors(pixel_values))
        states = self.text_backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        text, attention_mask = self.joined(self.text_tokens(states, input_ids), attention_mask, attributes)
        likeness = (self.image_embedding(image) * self.text_embedding(text, attention_mask)).sum(dim=-1)
        return self.compare(image, text, attention_mask) - self.similarity_weight * likeness

    def image_tokens(self, early: Tensor, color: Tensor) -> Tensor:
        """Return (B, 196, C) of early features (B, 40, 28, 28) and raw colors, uint8 (B, 3, 56, 56)."""
        middle, final = self.backbone.late(early)  # (B, 112, 14, 14), (B, 320, 7, 7)
        raw = F.pixel_unshuffle((color.float() - 127.5) / 64.0, _COLOR_CELLS)  # (B, 48, 14, 14)
        coarse = F.interpolate(self.final(final), scale_factor=2.0, mode="nearest")
        grid = self.middle(middle) + coarse + self.color(raw) + self.image_positions
        tokens: Tensor = self.image_norm(grid.flatten(2).transpose(1, 2))
        return tokens

    def text_tokens(self, states: Tensor, input_ids: Tensor) -> Tensor:
        """Return (B, T, C) of the text backbone's states (B, T, 384) and the tokens themselves."""
        positions = self.text_positions[:, : input_ids.shape[1]]
        tokens: Tensor = self.dropout(self.text_norm(self.states(states) + self.words(input_ids) + positions))
        return tokens

    def joined(self, text: Tensor, attention_mask: Tensor, attributes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return tokens (B, T + K, C) and mask (B, T + K): what the attributes say, behind what the text says."""
        if self.resampler is None or attributes is None:
            return text, attention_mask
        known = self.resampler(attributes)
        real = torch.ones_like(known[..., 0]).to(attention_mask.dtype)
        return torch.cat([text, known], dim=1), torch.cat([attention_mask, real], dim=1)

    def image_embedding(self, image: Tensor) -> Tensor:
        """Return the picture as one unit vector (B, J)."""
        return F.normalize(self.image_vector(image.mean(dim=1)), dim=-1)

    def text_embedding(self, text: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the text as one unit vector (B, J)."""
        real = attention_mask.to(text.dtype)[:, :, None]
        return F.normalize(self.text_vector((text * real).sum(dim=1) / real.sum(dim=1)), dim=-1)

    def compare(self, image: Tensor, text: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the fusion layers' logits (B,).

        Args:
            image: (P, N, C); each is compared with as many texts, B / P, that stand one behind the other.
            text: (B, T, C).
            attention_mask: (B, T).
        """
        padding = torch.where(attention_mask.bool(), 0.0, _MASKED)  # (B, T)
        for layer in self.layers:
            text = layer(text, image, padding[:, None, None, :])
        evidence = self.evidence(self.norm(text)).squeeze(-1)  # (B, T)
        return torch.logsumexp(evidence + padding, dim=1) - math.log(_TYPICAL_TOKENS)


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
        self.dropout = nn.Dropout(dropout)

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
        attended = F.scaled_dot_product_attention(self._split(queries), keys, values, attn_mask=bias)
        return attended.transpose(1, 2).flatten(2)

    def _split(self, tokens: Tensor) -> Tensor:
        """Return (B, heads, L, C / heads)."""
        batch, length, width = tokens.shape
        return tokens.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)


def colors(pixel_values: Tensor) -> Tensor:
    """Return the picture's raw colors, uint8 (B, 3, 56, 56): means of 4 x 4 pixels."""
    return F.avg_pool2d(pixel_values.float(), _COLOR_CELLS).round().to(torch.uint8)


def _projection(channels: int, width: int) -> nn.Sequential:
    """Return a normalisation over one picture's features, and a map to the tokens' width."""
    return nn.Sequential(nn.GroupNorm(1, channels), nn.Conv2d(channels, width, 1))
