"""Features of a catalogue → an adapted compact model.

A step takes A products and a hard partner for each. Every picture of these 2A products is compared with several of
their texts: its own (the match), its partner's, those that the contrastive half of the model finds most alike, and one
at random. A picture is encoded once, so further texts are cheap. Matches and mismatches weigh the same.

The catalogue's own pairs are taken for right, though some are not: after a third of the steps the matches with the
largest losses are left out (small-loss selection, Han et al. 2018, "Co-teaching").
"""

from __future__ import annotations

import io
import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines.build.features import AS_IT_IS, read_texts
from engines.build.mining import Miner
from engines.build.teachers import FacetsTeacher
from engines.build.train import Average
from engines.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from engines.build.dataset import Catalog
    from engines.build.features import Features
    from engines.build.models.compact import CompactFusion
    from engines.build.recipe import AdaptRecipe

_MAX_GRADIENT_NORM: Final = 1.0
_WARM_UP_STEPS: Final = 100
_CONSTANT_UNTIL: Final = 0.3  # of the steps; then half a cosine
_TRIM_FROM: Final = 0.33  # of the steps: before, a large loss only says that nothing is learned yet
_RECENT_LOSSES: Final = 2000
_MAX_TEMPERATURE: Final = 60.0
_BATCH: Final = 64


LOGGED: Final = ("pair_loss", "contrastive_loss", "facet_loss", "accuracy")
"""What of each step is tracked."""


class Step(NamedTuple):
    """What one step did, for the progress bar and the learning curve."""

    number: int
    total: int
    pair_loss: float
    contrastive_loss: float
    facet_loss: float
    accuracy: float


class Trainer:
    """One run: a model, its optimizer, its draws; saved and restored between epochs. On the GPU, if there is one.

    Raises:
        EngineUnavailable: there are several processes.
    """

    def __init__(self, model: CompactFusion, catalog: Catalog, features: Features, recipe: AdaptRecipe) -> None:
        torch.manual_seed(recipe.seed)
        self._accelerator = Accelerator()
        if self._accelerator.num_processes > 1:
            raise EngineUnavailable("compact is small: it trains in one process; start it without `accelerate launch`")
        self._device = self._accelerator.device
        self._model = model.to(self._device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self._catalog, self._features, self._recipe = catalog, features, recipe
        self._facets = FacetsTeacher(catalog, model.config.width).to(self._device)
        self._optimizer = torch.optim.AdamW(_groups(model, self._facets, recipe))
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._average = Average(model, recipe.average_decay)
        self._generator = np.random.default_rng(recipe.seed)
        self._miner = Miner(catalog, features.looks, seed=recipe.seed + 1)
        self._identity = torch.tensor([product.identity for product in catalog.products], device=self._device)
        self._match_losses: deque[float] = deque(maxlen=_RECENT_LOSSES)
        self.total = math.ceil(recipe.epochs * math.ceil(len(catalog.products) / recipe.anchors_per_step))
        self.number = 0

    def run(self, on_step: Callable[[Step], None], checkpoint: Path | None = None) -> CompactFusion:
        """Train to the end, from the checkpoint where there is one, and return the averaged model, on the CPU.

        Raises:
            ValueError: all products show the same.
        """
        if checkpoint is not None and checkpoint.exists():
            self._restore(checkpoint)
        while self.number < self.total:
            self._epoch(on_step)
            self._miner.look(self._vectors())
            if checkpoint is not None:
                self._save(checkpoint)
        self._average.copy_to(self._model)
        return self._model.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[no-any-return]

    def _epoch(self, on_step: Callable[[Step], None]) -> None:
        order = self._generator.permutation(len(self._catalog.products))
        size = self._recipe.anchors_per_step
        for start in range(0, len(order), size):
            if self.number == self.total:
                return
            on_step(self._step(order[start : start + size]))

    def _step(self, anchors: NDArray[np.int64]) -> Step:
        recipe, progress = self._recipe, self.number / self.total
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * _schedule(self.number, progress)
        owners = np.concatenate([anchors, self._miner.partners(anchors, recipe.mix)])
        image, text, mask = self._encode(owners)
        similarity, contrastive = self._contrast(image, text, mask, owners)
        facet = self._facets(image.mean(dim=1), torch.from_numpy(owners))
        loss = recipe.contrastive_weight * contrastive + recipe.facet_weight * facet
        if recipe.pair_weight:
            losses, accuracy = self._compare(image, text, mask, self._choose(similarity, owners), owners)
            mismatches = torch.cat([losses[:, 1:].flatten(), self._reworded(image, owners)])
            pair = self._trimmed(losses[:, 0], progress).mean() / 2 + mismatches.mean() / 2
            loss = loss + recipe.pair_weight * pair
        else:
            pair, accuracy = torch.zeros(()), _preferred(similarity)
        self._optimizer.zero_grad(set_to_none=True)
        self._accelerator.backward(loss)
        parameters = [p for g in self._optimizer.param_groups for p in g["params"]]
        self._accelerator.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
        self._optimizer.step()
        self._average.update(self._model, self.number)
        self.number += 1
        pair_loss, contrastive_loss, facet_loss = (float(value.detach()) for value in (pair, contrastive, facet))
        return Step(self.number, self.total, pair_loss, contrastive_loss, facet_loss, accuracy)

    def _encode(self, owners: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """Return image tokens (2A, N, C), text tokens (2A, T, C) and mask (2A, T) of these products."""
        pictures = self._catalog.any_picture(owners, self._generator)
        mirrored = self._generator.integers(2, size=len(owners))
        image = self._image_tokens(pictures, mirrored)
        text, mask = read_texts(self._model, self._features, owners)
        return image, text, mask

    def _image_tokens(self, pictures: NDArray[np.int64], mirrored: NDArray[np.int64]) -> Tensor:
        early, color = self._features.pictures(pictures, mirrored)
        tokens: Tensor = self._model.image_tokens(early.to(self._device), color.to(self._device))
        return tokens

    def _contrast(self, image: Tensor, text: Tensor, mask: Tensor, owners: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return similarities (2A, 2A), pictures in rows, and their contrastive loss.

        Products of one identity are matches of each other. Source: Radford et al. 2021; Khosla et al. 2020.
        """
        model = self._model
        scale = model.log_temperature.exp().clamp(max=_MAX_TEMPERATURE)
        similarity = scale * model.image_embedding(image) @ model.text_embedding(text, mask).T
        target = self._alike(owners).float()
        target = target / target.sum(dim=1, keepdim=True)
        by_picture = -(target * similarity.log_softmax(dim=1)).sum(dim=1).mean()
        by_text = -(target.T * similarity.T.log_softmax(dim=1)).sum(dim=1).mean()
        return similarity.detach(), (by_picture + by_text) / 2

    def _choose(self, similarity: Tensor, owners: NDArray[np.int64]) -> Tensor:
        """Return which texts each picture is compared with, int64 (2A, K): its own, its partner's, alike ones, any."""
        alike = self._alike(owners)
        rows = torch.arange(len(owners), device=self._device)
        partner = (rows + len(owners) // 2) % len(owners)
        weights = (similarity / 2).softmax(dim=1).masked_fill(alike, 0.0) + 1e-6 * ~alike
        scarce = int((~alike).sum(dim=1).min()) < self._recipe.hard_texts  # an epoch's last batch may be one anchor
        hard = torch.multinomial(weights, self._recipe.hard_texts, replacement=scarce)
        easy = torch.multinomial((~alike).float(), 1)
        return torch.cat([rows[:, None], partner[:, None], hard, easy], dim=1)

    def _compare(
        self, image: Tensor, text: Tensor, mask: Tensor, chosen: Tensor, owners: NDArray[np.int64]
    ) -> tuple[Tensor, float]:
        """Return the loss of each picture with each of its texts (2A, K), and the share of pairs told right."""
        texts = chosen.flatten()
        logits = self._model.compare(image, text[texts], mask[texts]).view_as(chosen)
        labels = (~self._alike(owners).gather(1, chosen)).float()
        told = ((logits > 0) == (labels > 0))[:, :2].float().mean()  # its own and its partner's
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none"), float(told)

    def _reworded(self, image: Tensor, owners: NDArray[np.int64]) -> Tensor:
        """Return the losses of the pictures with a text of their own that is wrong in one attribute."""
        reworded = self._features.reworded
        if reworded is None:
            return image.new_zeros(0)
        having, rows = reworded.draw(owners, self._generator)
        if not len(having):
            return image.new_zeros(0)
        text, mask = read_texts(self._model, reworded, rows)
        logits = self._model.compare(image[torch.from_numpy(having)], text, mask)
        return F.softplus(-logits)  # binary cross-entropy with label 1

    def _trimmed(self, losses: Tensor, progress: float) -> Tensor:
        """Return the losses of matches (2A,), the largest set to 0."""
        self._match_losses.extend(losses.detach().tolist())
        if progress < _TRIM_FROM or not self._recipe.trimmed_share:
            return losses
        limit = float(np.quantile(np.array(self._match_losses), 1 - self._recipe.trimmed_share))
        return losses * (losses.detach() <= limit)

    def _alike(self, owners: NDArray[np.int64]) -> Tensor:
        identity = self._identity[torch.from_numpy(owners)]
        return identity[:, None] == identity[None, :]

    @torch.no_grad()
    def _vectors(self) -> NDArray[np.float32]:
        """Return what each product's first picture looks like to the model as it is now, (N, J)."""
        self._model.eval()
        first = self._catalog.first_picture[:-1]
        parts = np.split(first, range(_BATCH, len(first), _BATCH))
        tokens = (self._image_tokens(p, np.full(len(p), AS_IT_IS)) for p in parts)
        vectors = np.concatenate([self._model.image_embedding(image).cpu().numpy() for image in tokens])
        self._model.train()
        return vectors

    def _save(self, file: Path) -> None:
        """Write all that goes on, whole or not at all.

        Raises:
            OSError: the disk is full; the checkpoint before is still there.
        """
        state = {
            "number": self.number,
            "model": self._model.state_dict(),
            "facets": self._facets.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.state_dict(),
            "generators": [self._generator.bit_generator.state, self._miner.state],
            "torch": torch.get_rng_state(),
            "match_losses": list(self._match_losses),
        }
        partial = file.with_suffix(".partial")
        buffer = io.BytesIO()  # torch tells a full disk from other errors by no type
        torch.save(state, buffer)
        partial.write_bytes(buffer.getbuffer())
        partial.replace(file)

    def _restore(self, file: Path) -> None:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        self.number = state["number"]
        self._model.load_state_dict(state["model"])
        self._facets.load_state_dict(state["facets"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._average.load_state_dict(state["average"])
        self._generator.bit_generator.state, self._miner.state = state["generators"]
        torch.set_rng_state(state["torch"])
        self._match_losses.extend(state["match_losses"])
        self._miner.look(self._vectors())


def _preferred(similarity: Tensor) -> float:
    """Return the share of pictures that are more like their own text than like their partner's."""
    own = similarity.diagonal()
    return float((own > similarity.roll(len(own) // 2, dims=1).diagonal()).float().mean())


def _groups(model: CompactFusion, facets: nn.Module, recipe: AdaptRecipe) -> list[dict[str, Any]]:
    """Return optimizer groups: the backbone learns slowly, its early blocks and the text backbone not at all."""
    backbone = list(model.backbone.late_parameters())
    fixed = {id(parameter) for half in (model.backbone, model.text_backbone) for parameter in half.parameters()}
    own = [p for p in (*model.parameters(), *facets.parameters()) if id(p) not in fixed]
    return [
        {"params": [p for p in own if p.ndim > 1], "lr": recipe.learning_rate, "weight_decay": recipe.weight_decay},
        {"params": [p for p in own if p.ndim <= 1], "lr": recipe.learning_rate, "weight_decay": 0.0},
        {"params": backbone, "lr": recipe.backbone_learning_rate, "weight_decay": 0.01},
    ]


def _schedule(number: int, progress: float) -> float:
    """Return the factor on the learning rates: a linear warm-up, constant, half a cosine down to 2 %."""
    warm = min(1.0, (number + 1) / _WARM_UP_STEPS)
    decayed = max(0.0, progress - _CONSTANT_UNTIL) / (1 - _CONSTANT_UNTIL)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * decayed)))
