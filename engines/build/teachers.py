"""What helps the convolutions to see before the fusion layers can compare; thrown away after training.

Both teachers read only what the catalogue says about its own products.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines.build.facets import Facets

if TYPE_CHECKING:
    from torch import Tensor

    from engines.build.dataset import Catalog
    from engines.build.models.small import SmallConfig, SmallFusion
    from engines.build.texts import Texts

_MIN_SHARE: Final = 0.004  # of the products: what is rarer cannot be learned from so few
_MAX_SHARE: Final = 0.6  # of the texts: a word that nearly all have says nothing
_UNKNOWN: Final = -100  # torch's label for "no loss here"


class Teachers(nn.Module):
    """The sum of both teachers' losses, from the mean of a picture's tokens."""

    def __init__(self, catalog: Catalog, texts: Texts, config: SmallConfig) -> None:
        super().__init__()
        self.words = WordsTeacher(texts, config)
        self.facets = FacetsTeacher(catalog, config.width)

    def forward(self, model: SmallFusion, image_tokens: Tensor, products: Tensor) -> Tensor:
        """Return the loss of image tokens (B, N, C) of these products (B,)."""
        loss: Tensor = self.words(model, image_tokens, products) + self.facets(image_tokens.mean(dim=1), products)
        return loss


class WordsTeacher(nn.Module):
    """Asks the model which words the text has, so that word embeddings and image tokens share one space early.

    Source: Joulin et al. 2016, "Learning Visual Features from Large Weakly Supervised Data".
    """

    present: Tensor
    words: Tensor
    prior: Tensor

    def __init__(self, texts: Texts, config: SmallConfig) -> None:
        super().__init__()
        present = torch.zeros(len(texts.input_ids), config.vocabulary_size)
        present.scatter_(1, torch.from_numpy(texts.input_ids).long(), 1.0)
        present[:, 0] = 0.0  # padding is no word
        shares = present.mean(dim=0)  # (V,)
        words = torch.nonzero((shares >= _MIN_SHARE) & (shares <= _MAX_SHARE)).squeeze(1)
        self.register_buffer("words", words)  # (W,)
        self.register_buffer("present", present[:, words])  # (N, W)
        self.register_buffer("prior", torch.logit(shares[words]))

    def forward(self, model: SmallFusion, image_tokens: Tensor, products: Tensor) -> Tensor:
        """Return binary cross-entropy per true word."""
        bias = model.word_bias[self.words] + self.prior  # `word_bias` is left to say what a picture adds
        logits = model.word_logits(image_tokens, model.words.weight[self.words], bias)
        target = self.present[products]
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / target.sum().clamp(min=1)


class FacetsTeacher(nn.Module):
    """Predicts the value of each facet (color, product type, ...) that the catalogue's own fields give."""

    labels: Tensor

    def __init__(self, catalog: Catalog, width: int) -> None:
        super().__init__()
        known = Facets.of(catalog, least=math.ceil(_MIN_SHARE * len(catalog.products)))
        sizes, labels = torch.tensor(known.sizes), torch.from_numpy(known.labels(catalog))
        self.register_buffer("labels", torch.where(labels < sizes, labels, _UNKNOWN))  # (N, facets)
        self.classifiers = nn.ModuleList(nn.Linear(width, size) for size in known.sizes)

    def forward(self, pooled: Tensor, products: Tensor) -> Tensor:
        """Return cross-entropy, the mean over the facets of those products that have them; 0 without facets."""
        losses = [
            F.cross_entropy(classify(pooled), known, reduction="sum") / (known != _UNKNOWN).sum().clamp(min=1)
            for classify, known in zip(self.classifiers, self.labels[products].T, strict=True)
        ]
        return torch.stack(losses).mean() if losses else pooled.new_zeros(())
