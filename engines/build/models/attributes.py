"""What is known of a product in columns → a few tokens that a family joins to its fusion.

    numbers            ┐
    categories (ids)   ├→ one token per column → K learned latents attend to them → (B, K, C)
    price history      ┘

`attributes` is float32 (B, A, 2): for each column its value and whether it is known (1 or 0). Columns stand in the
order of `AttributeSpec`: numbers, categories, then the history, oldest first. What is not known gets a learned token,
so "unknown" is itself something to learn from, and its value is never read, NaN or not.

Source: Perceiver, Jaegle et al. 2021; its resampler, Flamingo, Alayrac et al. 2022; one token per column,
FT-Transformer, Gorishniy et al. 2021.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

if TYPE_CHECKING:
    from torch import Tensor

    from engines.contract import AttributeColumns

_SMALLEST_STD: Final = 1e-6
_LARGEST_SCORE: Final = 8.0  # standard deviations; a price of 1e9 says no more than "absurd"
_LONGEST_PERIOD: Final = 10_000.0  # Source: Vaswani et al. 2017


class AttributeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The columns, and how many tokens they become.

    Attributes:
        numbers: How many columns hold numbers.
        categories: For each column of ids how many there are, ids 0..n-1.
        history: How many columns, one after the other in time, hold one number's past values.
        latents: K.
        layers: How often the latents attend to the columns.
        heads: Of each attention.
    """

    numbers: int = 0
    categories: tuple[int, ...] = ()
    history: int = 0
    latents: int = 8
    layers: int = 2
    heads: int = 4

    @property
    def columns(self) -> int:
        """A: how many columns there are."""
        return self.numbers + len(self.categories) + self.history


def attribute_spec(columns: AttributeColumns) -> AttributeSpec:
    """Return the spec of a release's columns; each category has one id more than values, for all others."""
    return AttributeSpec(
        numbers=len(columns.numbers),
        categories=tuple(len(values) + 1 for values in columns.categories.values()),
        history=columns.history_length,
    )


class Resampler(nn.Module):
    """`forward(attributes) -> tokens`, float32 (B, A, 2) → (B, K, C).

    Args:
        spec: The columns.
        width: C.
    """

    def __init__(self, spec: AttributeSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.columns = ColumnTokens(spec, width)
        self.latents = nn.Parameter(torch.randn(spec.latents, width) * 0.02)
        self.layers = nn.ModuleList(ResamplerLayer(width, spec.heads) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(width)

    def standardise_by(self, attributes: Tensor) -> None:
        """Set the mean and the deviation of each number from the known values of a training set (N, A, 2)."""
        self.columns.standardise_by(attributes)

    def forward(self, attributes: Tensor) -> Tensor:
        """Return tokens (B, K, C)."""
        columns = self.columns(attributes)  # (B, A, C)
        latents = self.latents.expand(columns.shape[0], -1, -1)  # (B, K, C)
        for layer in self.layers:
            latents = layer(latents, columns)
        tokens: Tensor = self.norm(latents)
        return tokens


class ColumnTokens(nn.Module):
    """One token per column: what it is, plus its value or that it is not known.

    The past values of a history share one direction and one scale; what tells them apart is when they were, which is
    told by sines of the time that training may move.
    """

    center: Tensor
    deviation: Tensor
    offsets: Tensor
    last_ids: Tensor

    def __init__(self, spec: AttributeSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.identity = nn.Parameter(torch.randn(spec.columns, width) * 0.02)
        self.missing = nn.Parameter(torch.randn(width) * 0.02)
        self.numbers = nn.Parameter(torch.randn(spec.numbers, width) * 0.02)
        self.history = nn.Parameter(torch.randn(1, width) * 0.02)
        self.words = nn.Embedding(max(1, sum(spec.categories)), width)
        nn.init.normal_(self.words.weight, std=0.02)
        numeric = spec.numbers + spec.history
        self.register_buffer("center", torch.zeros(numeric))
        self.register_buffer("deviation", torch.ones(numeric))
        firsts = [sum(spec.categories[:index]) for index in range(len(spec.categories))]
        self.register_buffer("offsets", torch.tensor(firsts, dtype=torch.int64), persistent=False)
        self.register_buffer("last_ids", torch.tensor(spec.categories, dtype=torch.float32) - 1, persistent=False)
        with torch.no_grad():
            self.identity[spec.columns - spec.history :] += 0.1 * _times(spec.history, width)

    def forward(self, attributes: Tensor) -> Tensor:
        """Return tokens (B, A, C) of attributes (B, A, 2)."""
        known = attributes[..., 1] > 0  # (B, A)
        values = torch.where(known, attributes[..., 0], 0.0)
        first, last = self.spec.numbers, self.spec.columns - self.spec.history
        scores = self._standardised(torch.cat([values[:, :first], values[:, last:]], dim=1))[..., None]
        numbers, history = scores[:, :first] * self.numbers, scores[:, first:] * self.history
        tokens = torch.cat([numbers, self._words(values[:, first:last]), history], dim=1)
        return torch.where(known[..., None], tokens, self.missing) + self.identity

    def standardise_by(self, attributes: Tensor) -> None:
        """See `Resampler.standardise_by`; the past values of a history are standardised together."""
        first, last = self.spec.numbers, self.spec.columns - self.spec.history
        groups = [attributes[:, index] for index in range(first)]
        groups += [attributes[:, last:].flatten(0, 1)] if self.spec.history else []
        statistics = torch.tensor([_mean_and_std(group) for group in groups]).reshape(-1, 2)
        repeats = torch.tensor([1] * first + [self.spec.history] * bool(self.spec.history), dtype=torch.int64)
        mean, std = statistics.repeat_interleave(repeats, dim=0).unbind(1)
        self.center.copy_(mean)
        self.deviation.copy_(std)

    def _standardised(self, values: Tensor) -> Tensor:
        return ((values - self.center) / self.deviation).clamp(-_LARGEST_SCORE, _LARGEST_SCORE)

    def _words(self, ids: Tensor) -> Tensor:
        """Return (B, categories, C); an id that training did not know counts as the last one."""
        bounded = torch.minimum(ids.clamp(min=0), self.last_ids).to(torch.int64)
        words: Tensor = self.words(bounded + self.offsets)
        return words


class ResamplerLayer(nn.Module):
    """Latents attend to columns and to each other, then a feed-forward; pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.latent_norm = nn.LayerNorm(width)
        self.column_norm = nn.LayerNorm(width)
        self.queries = nn.Linear(width, width)
        self.keys_values = nn.Linear(width, 2 * width)
        self.attended = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, latents: Tensor, columns: Tensor) -> Tensor:
        """Return latents (B, K, C) that have read columns (B, A, C)."""
        normed = self.latent_norm(latents)
        read = torch.cat([self.column_norm(columns), normed], dim=1)
        keys, values = self.keys_values(read).chunk(2, dim=-1)
        heard = F.scaled_dot_product_attention(
            self._split(self.queries(normed)), self._split(keys), self._split(values)
        )
        latents = latents + self.attended(heard.transpose(1, 2).flatten(2))
        fed: Tensor = latents + self.feed(latents)
        return fed

    def _split(self, tokens: Tensor) -> Tensor:
        """Return (B, heads, L, C / heads)."""
        batch, length, width = tokens.shape
        return tokens.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)


def _times(steps: int, width: int) -> Tensor:
    """Return sines and cosines of the time before now, (L, C), the last step being now."""
    ages = torch.arange(steps - 1, -1, -1, dtype=torch.float32)[:, None]
    half = (width + 1) // 2
    frequencies = torch.exp(-math.log(_LONGEST_PERIOD) * torch.arange(half) / half)
    angles = ages * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


def _mean_and_std(group: Tensor) -> tuple[float, float]:
    """Return the statistics of the known values of (N, 2); (0, 1) where none is known."""
    known = group[group[:, 1] > 0, 0].double()
    if not len(known):
        return 0.0, 1.0
    std = float(known.std(correction=0))
    return float(known.mean()), std if std > _SMALLEST_STD else 1.0
