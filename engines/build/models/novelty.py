"""How new a text is to a model: the share of its words that no single text that was trained on has.

Words, not vectors: what names the contradicted claim leaves words out, and those left over of a known text stay known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

if TYPE_CHECKING:
    from torch import Tensor

MOST_KNOWN: Final = 4096
"""Texts. Of a larger catalogue as many are known; what that costs it was not measured."""

_AT_ONCE: Final = 64  # texts that are compared with all known ones


class Novelty(nn.Module):
    """`forward(input_ids (B, T), mask (B, T)) -> (B, 1)`, within `bounds`.

    Attributes:
        known: int32 (K, T), the words of each known text, once each, then what no text states.
        bounds: float32 (2,), the least and the most that held-out texts have shown.
    """

    known: Tensor
    bounds: Tensor

    def __init__(self, texts: int, tokens: int, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.register_buffer("known", torch.full((texts, tokens), vocabulary + 1, dtype=torch.int32))
        self.register_buffer("bounds", torch.tensor([0.0, 1.0]))

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return how new texts are: no more than was ever weighed, as another language would be, and no less."""
        least, most = self.bounds
        return self.share(input_ids, mask).clamp(least, most)[:, None]

    def share(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return the share of each text's words, every one counted once, that no single known text has, (B,)."""
        said = torch.where(mask.bool(), input_ids, self.vocabulary)
        room = torch.zeros_like(mask[:, :1], dtype=torch.float32).expand(-1, self.vocabulary + 2)
        stated = room.scatter(1, said.long(), 1.0)  # of the last two columns one is of padding, one is never stated
        by_word = stated.t()  # a known word's row holds what all texts of the batch say of it: read as one
        shared = by_word.index_select(0, self.known.flatten()).view(*self.known.shape, -1).sum(dim=1)
        found: Tensor = shared.amax(dim=0) / stated[:, : self.vocabulary].sum(dim=1)
        return 1 - found

    def words_of(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return the words of texts (B, T) as `known` has them, int32 (B, T)."""
        nothing = self.vocabulary + 1
        words = torch.where(mask.bool(), input_ids, nothing).sort(dim=1).values
        repeated = F.pad(words[:, 1:] == words[:, :-1], (1, 0))
        return words.masked_fill(repeated, nothing).int()

    def know(self, input_ids: Tensor, mask: Tensor) -> None:
        """Know these texts (K, T) in place of those before; of too many, so many from end to end."""
        self.known = _evenly(self.words_of(input_ids, mask), MOST_KNOWN)

    @torch.no_grad()
    def learn(self, input_ids: Tensor, mask: Tensor) -> None:
        """Know these texts (N, T) beside those before, which make room where there are too many."""
        parts = [slice(start, start + _AT_ONCE) for start in range(0, len(input_ids), _AT_ONCE)]
        new = torch.cat([self.share(input_ids[part], mask[part]) for part in parts]) > 0
        words = _evenly(torch.unique(self.words_of(input_ids[new], mask[new]), dim=0), MOST_KNOWN)
        self.known = torch.cat([_evenly(self.known, MOST_KNOWN - len(words)), words])


def _evenly(rows: Tensor, most: int) -> Tensor:
    """Return so many of the rows, from end to end; all, where there are no more."""
    chosen = torch.linspace(0, len(rows) - 1, min(len(rows), most), dtype=torch.float64).long()
    return rows[chosen]
