"""Which words a picture's text should have: one classifier for each of the catalogue's frequent words.

    pooled features of the picture → MLP → logit of each word → how far it denies the words that stand in the text

Where a reader learns from pairs whether a picture and a text match, a tagger learns from each picture what all words
of the catalogue have to do with it, which few products teach better. What counts is how much less likely the picture
makes a word than it is anyway, so a word that no picture shows (a brand, a season) says next to nothing.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines.build.models.dropout import Dropout

DENIALS: Final = 2
"""How many figures `Tagger.denial` gives."""

_WIDTHS: Final = (512, 256)


class Tagger(nn.Module):
    """`forward(pooled (B, D)) -> logits (B, K)` of the words in the picture's text.

    Attributes:
        tag_of: int64 (vocabulary,), the number of each token's word, K for a token that is none.
        usual: float32 (K,), the log-probability of each word in any text.
    """

    center: Tensor
    deviation: Tensor
    tag_of: Tensor
    usual: Tensor

    def __init__(self, pooled: int, tags: int, vocabulary: int) -> None:
        super().__init__()
        wide, narrow = _WIDTHS
        self.tags = tags
        self.register_buffer("center", torch.zeros(pooled))
        self.register_buffer("deviation", torch.ones(pooled))
        self.register_buffer("tag_of", torch.full((vocabulary,), tags))
        self.register_buffer("usual", torch.zeros(tags))
        self.layers = nn.Sequential(
            Dropout(0.2), nn.Linear(pooled, wide), nn.GELU(), Dropout(0.4),
            nn.Linear(wide, narrow), nn.GELU(), Dropout(0.4), nn.Linear(narrow, tags),
        )  # fmt: skip

    def forward(self, pooled: Tensor) -> Tensor:
        """Return logits (B, K) of pictures' pooled features, `compact.pool`."""
        logits: Tensor = self.layers((pooled - self.center) / self.deviation)
        return logits

    def expect(self, shares: Tensor) -> None:
        """Begin with what is usual: the share of the texts that has each word, (K,), between 0 and 1."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias.copy_(torch.logit(shares))
            last.weight.mul_(0.1)
        self.usual.copy_(shares.log())

    def denial(self, logits: Tensor, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return (B, 2): nats by which a picture makes the words of a text unlikely, their sum and the largest.

        Args:
            logits: (B, K), of the pictures.
            input_ids: int (B, T), of the texts.
            mask: int (B, T), 1 on real tokens.
        """
        said = self.tag_of.index_select(0, input_ids.flatten()).view_as(input_ids)
        said = torch.where(mask.bool(), said, self.tags)
        room = torch.zeros_like(F.pad(logits, (0, input_ids.shape[1])))  # TensorRT wants no fewer places than indices
        stated = room.scatter(1, said, 1.0)[:, : self.tags]  # each word once
        denied = (self.usual - log_sigmoid(logits)) * stated
        return torch.stack([denied.sum(dim=1), denied.amax(dim=1)], dim=1)


def log_sigmoid(logits: Tensor) -> Tensor:
    """Return log(sigmoid(x)), as torch's own, which is exported as these two: below -18 that is -inf."""
    return -(F.relu(-logits) + torch.log(1 + torch.exp(-logits.abs())))
