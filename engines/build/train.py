"""Pairs → a trained fusion encoder.

A step takes A products and a partner for each, from whose picture its text differs: 2A pictures are encoded once, and
each is compared with its own text (a match) and with its partner's (a mismatch). Every picture and every text so
stands on both sides equally often, and neither alone tells anything.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines.build.negatives import PartnerSampler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from engines.build.dataset import Catalog
    from engines.build.models.compact import CompactFusion
    from engines.build.recipe import Recipe
    from engines.build.texts import Texts

_MIN_SHARE, _MAX_SHARE = 0.004, 0.6  # of the texts: rarer words cannot be learned, commoner ones say nothing
_MAX_GRADIENT_NORM = 1.0


class Step(NamedTuple):
    """What one step did, for the progress bar."""

    number: int
    total: int
    pair_loss: float
    words_loss: float
    accuracy: float


class WordsHead(nn.Module):
    """Predicts from image tokens which words the text has; only in training.

    It teaches the convolutions what the catalogue's words look like, in the space of the word embeddings, long before
    the fusion layers have learned to compare.

    Source: Joulin et al. 2016, "Learning Visual Features from Large Weakly Supervised Data".
    """

    words: Tensor

    def __init__(self, texts: Texts, vocabulary_size: int, width: int) -> None:
        super().__init__()
        present = _words_present(torch.from_numpy(texts.input_ids), vocabulary_size)
        shares = present.mean(dim=0)  # (V,)
        words = torch.nonzero((shares >= _MIN_SHARE) & (shares <= _MAX_SHARE)).squeeze(1)
        self.register_buffer("words", words)
        self.project = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.logit(shares[words]))

    def forward(self, image_tokens: Tensor, embeddings: Tensor, input_ids: Tensor) -> Tensor:
        """Return the loss of image tokens (B, N, C), given word embeddings (V, C) and the true texts (B, T)."""
        chosen = embeddings[self.words]  # (W, C)
        logits = self.project(image_tokens.mean(dim=1)) @ chosen.T / math.sqrt(chosen.shape[1]) + self.bias
        target = _words_present(input_ids, embeddings.shape[0])[:, self.words]
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / target.sum().clamp(min=1)


class Average:
    """An exponential moving average of a model's weights and running statistics: what is evaluated and exported."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model; early steps count more, so the random start is forgotten."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self._state[name].lerp_(value, 1 - decay)
            else:
                self._state[name].copy_(value)

    def copy_to(self, model: nn.Module) -> None:
        """Give the average to the model."""
        model.load_state_dict(self._state)


def train(
    model: CompactFusion, catalog: Catalog, texts: Texts, recipe: Recipe, on_step: Callable[[Step], None]
) -> CompactFusion:
    """Train the model in place and return it, averaged and in evaluation mode.

    Raises:
        ValueError: all products show the same.
    """
    torch.manual_seed(recipe.seed)
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    head = WordsHead(texts, model.config.vocabulary_size, model.config.width)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(_decayed(parameters, recipe.weight_decay), lr=recipe.learning_rate, betas=(0.9, 0.98))
    total = count_steps(catalog, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe.warmup_steps, total))
    average = Average(model, recipe.average_decay)
    for number, (pictures, owners) in enumerate(_batches(catalog, recipe, total)):
        pair_loss, words_loss, accuracy = _losses(model, head, pictures, owners, texts)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(pair_loss + recipe.words_loss_weight * words_loss)
        nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        average.update(model, number)
        on_step(Step(number + 1, total, float(pair_loss.detach()), float(words_loss.detach()), accuracy))
    average.copy_to(model)
    return model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload,no-any-return]


def count_steps(catalog: Catalog, recipe: Recipe) -> int:
    """Return how many steps a run takes: in an epoch every product is an anchor once."""
    return recipe.epochs * math.ceil(len(catalog.products) / recipe.anchors_per_step)


def _batches(catalog: Catalog, recipe: Recipe, total: int) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Yield pictures, uint8 (2A, 3, H, W), and the products they belong to: anchors first, their partners after."""
    generator = np.random.default_rng(recipe.seed)
    sampler = PartnerSampler(catalog.products, seed=recipe.seed + 1)
    anchors = np.empty(0, dtype=np.int64)
    for number in range(total):
        if len(anchors) < recipe.anchors_per_step:
            anchors = np.concatenate([anchors, generator.permutation(len(catalog.products))])
        chosen, anchors = np.split(anchors, [recipe.anchors_per_step])
        owners = np.concatenate([chosen, sampler.partners(chosen, recipe.mix_at(number / total))])
        pictures = catalog.pixel_values[catalog.any_picture(owners, generator)]
        moved = torch.from_numpy(_augmented(pictures, generator, recipe.shift_pixels))
        yield _sized(moved, recipe.size_at(number / total)), owners


def _losses(
    model: CompactFusion, head: WordsHead, pictures: Tensor, owners: NDArray[np.int64], texts: Texts
) -> tuple[Tensor, Tensor, float]:
    """Return the pair loss, the words loss, and the share of pairs that are told right."""
    half = len(owners) // 2
    compared = np.concatenate([owners, owners[half:], owners[:half]])  # own texts, then the partners'
    ids = torch.from_numpy(texts.input_ids[compared])
    mask = torch.from_numpy(texts.attention_mask[compared])
    labels = torch.cat([torch.zeros(2 * half), torch.ones(2 * half)])
    image_tokens = model.image_tokens(pictures)
    logits = model.compare(torch.cat([image_tokens, image_tokens]), ids, mask)
    words_loss = head(image_tokens, model.words.weight, ids[: 2 * half])
    accuracy = float(((logits > 0) == (labels > 0)).float().mean())
    return F.binary_cross_entropy_with_logits(logits, labels), words_loss, accuracy


def _augmented(pictures: NDArray[np.uint8], generator: np.random.Generator, shift: int) -> NDArray[np.uint8]:
    """Return the pictures mirrored at random and moved by up to `shift` pixels, their edges repeated."""
    size = pictures.shape[-1]
    padded = np.pad(pictures, ((0, 0), (0, 0), (shift, shift), (shift, shift)), mode="edge")
    offsets = generator.integers(0, 2 * shift + 1, size=(len(pictures), 2))
    mirrored = generator.integers(2, size=len(pictures))
    moved = np.empty_like(pictures)
    for index, (top, left) in enumerate(offsets):
        window = padded[index, :, top : top + size, left : left + size]
        moved[index] = window[:, :, ::-1] if mirrored[index] else window
    return moved


def _sized(pictures: Tensor, size: int) -> Tensor:
    """Return the pictures, uint8 (B, 3, H, W), with sides of `size` pixels."""
    if pictures.shape[-1] == size:
        return pictures
    return F.interpolate(pictures.float(), size=(size, size), mode="area").round().to(torch.uint8)


def _words_present(input_ids: Tensor, vocabulary_size: int) -> Tensor:
    """Return float (B, V): 1 where the text has the word; padding is no word."""
    present = torch.zeros(len(input_ids), vocabulary_size)
    present.scatter_(1, input_ids.long(), 1.0)
    present[:, 0] = 0.0
    return present


def _decayed(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    """Return optimizer groups: weight decay on matrices, none on biases, norms and their like."""
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _rate(step: int, warmup: int, total: int) -> float:
    """Return the factor on the learning rate: a linear warm-up, then half a cosine down to 1 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
