"""Pairs → a trained fusion encoder.

First the convolutions learn alone to see what their teachers ask for, which is cheap; then the whole model learns to
compare. A step takes A products and a partner for each, from whose picture its text differs: 2A pictures are encoded
once, and each is compared with its own text (a match) and with its partner's (a mismatch). Every picture and every text
so stands on both sides equally often, and neither alone tells anything.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines.build.negatives import PartnerSampler
from engines.build.teachers import Teachers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from engines.build.dataset import Catalog
    from engines.build.models.small import SmallFusion
    from engines.build.recipe import Recipe
    from engines.build.texts import Texts

_MAX_GRADIENT_NORM = 1.0
_DECAY_FROM = 0.7  # of the steps


class Step(NamedTuple):
    """What one step did, for the progress bar."""

    number: int
    total: int
    pair_loss: float
    teaching_loss: float
    accuracy: float


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

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average, to be saved."""
        return self._state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved average."""
        for name, value in state.items():
            self._state[name].copy_(value)

    def copy_to(self, model: nn.Module) -> None:
        """Give the average to the model."""
        model.load_state_dict(self._state)


def train(
    model: SmallFusion, catalog: Catalog, texts: Texts, recipe: Recipe, on_step: Callable[[Step], None]
) -> SmallFusion:
    """Train the model in place and return it, averaged and in evaluation mode.

    Raises:
        CatalogInvalid: all products show the same.
    """
    torch.manual_seed(recipe.seed)
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    teachers = Teachers(catalog, texts, model.config)
    parameters = [*model.parameters(), *teachers.parameters()]
    optimizer = torch.optim.AdamW(
        decayed_groups(parameters, recipe.weight_decay), lr=recipe.learning_rate, betas=(0.9, 0.98)
    )
    total = count_steps(catalog, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe.warmup_steps, total))
    average = Average(model, recipe.average_decay)
    for number, (pictures, owners) in enumerate(_batches(catalog, recipe, total)):
        image_tokens = model.image_tokens(pictures)
        teaching_loss = teachers(model, image_tokens, torch.from_numpy(owners))
        pair_loss, accuracy = torch.zeros(()), float("nan")
        if number >= recipe.looking * total:
            pair_loss, accuracy = _compare(model, image_tokens, owners, texts)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(pair_loss + recipe.teaching_weight * teaching_loss)
        nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        average.update(model, number)
        on_step(Step(number + 1, total, float(pair_loss.detach()), float(teaching_loss.detach()), accuracy))
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


def _compare(model: SmallFusion, image_tokens: Tensor, owners: NDArray[np.int64], texts: Texts) -> tuple[Tensor, float]:
    """Return the loss of each picture with its own text and its partner's, and the share of pairs told right."""
    half = len(owners) // 2
    compared = np.concatenate([owners, owners[half:], owners[:half]])  # own texts, then the partners'
    longest = int(texts.attention_mask[compared].sum(axis=1).max())
    ids = torch.from_numpy(texts.input_ids[compared, :longest])
    mask = torch.from_numpy(texts.attention_mask[compared, :longest])
    labels = torch.cat([torch.zeros(2 * half), torch.ones(2 * half)])
    logits = model.compare(torch.cat([image_tokens, image_tokens]), ids, mask)
    accuracy = float(((logits > 0) == (labels > 0)).float().mean())
    return F.binary_cross_entropy_with_logits(logits, labels), accuracy


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


def decayed_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    """Return optimizer groups: weight decay on matrices, none on biases, norms and their like."""
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _rate(step: int, warmup: int, total: int) -> float:
    """Return the factor on the learning rate: a linear warm-up, constant, and half a cosine down to 1 % at the end.

    Source: "warmup-stable-decay", Hu et al. 2024.
    """
    if step < warmup:
        return (step + 1) / warmup
    decayed = max(0.0, step / total - _DECAY_FROM) / (1 - _DECAY_FROM)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, decayed)))
