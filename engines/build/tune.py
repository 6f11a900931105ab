"""A pretrained family on a catalogue's pictures: fine-tuned through `accelerate`, on a CPU, one GPU or several.

A step takes A products and a hard partner for each. Every picture of these 2A products is shown with its own text (a
match) and with its partner's (a mismatch): each picture and each text stands on both sides equally often. What a step
draws follows from the seed and its number alone, so every process draws the same and takes its share, and a run that
was killed goes on as if it had not been.

`accelerate launch -m engines.build adapt …` starts several processes; mixed precision is its option, too.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines.build.mining import Miner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from engines.build.dataset import Catalog
    from engines.build.recipe import TuneRecipe
    from engines.build.texts import Texts

_MAX_GRADIENT_NORM: Final = 1.0
_SAVED_EVERY: Final = 500  # steps; and at the end


LOGGED: Final = ("loss", "accuracy")
"""What of each step is tracked."""


class Step(NamedTuple):
    """What one step did in this process, for the progress bar and the learning curve."""

    number: int
    total: int
    loss: float
    accuracy: float


class Tuner:
    """One run: a model, its optimizer, its draws.

    Args:
        model: `forward(pixel_values, input_ids, attention_mask[, attributes]) -> logits`.
        catalog: what is trained on.
        texts: what its products say.
        looks: (N, D), what each product looks like, to find hard partners by.
        recipe: of the run.
    """

    def __init__(
        self, model: nn.Module, catalog: Catalog, texts: Texts, looks: NDArray[np.floating], recipe: TuneRecipe
    ) -> None:
        torch.manual_seed(recipe.seed)
        # A checkpoint may have parts that matching does not use, such as projections of a contrastive half.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(kwargs_handlers=[unused])
        self._catalog, self._texts, self._recipe = catalog, texts, recipe
        self._miner = Miner(catalog, looks, seed=recipe.seed)
        optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.learning_rate)
        prepared: Any = self.accelerator.prepare(model.train(), optimizer)
        self._model, self._optimizer = prepared
        self.total = max(1, int(np.ceil(recipe.epochs * len(catalog.products) / recipe.anchors_per_step)))
        self.number = 0

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return bool(self.accelerator.is_main_process)

    def run(self, on_step: Callable[[Step], None], checkpoints: Path) -> nn.Module:
        """Train to the end, from the last checkpoint in the directory if there is one; return the model on the CPU.

        Raises:
            CatalogInvalid: all products show the same.
            OSError: the disk is full; the checkpoint before is still there.
        """
        self._restore(checkpoints)
        while self.number < self.total:
            on_step(self._step())
            if self.number % _SAVED_EVERY == 0 or self.number == self.total:
                self._save(checkpoints)
        model: nn.Module = self.accelerator.unwrap_model(self._model, keep_fp32_wrapper=False)
        return model.cpu().eval()

    def _step(self) -> Step:
        recipe, progress = self._recipe, self.number / self.total
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(progress, recipe.warmup_share)
        pictures, products, labels = self._share(*self._draw())
        losses: list[Tensor] = []
        told: list[Tensor] = []
        parts = np.split(np.arange(len(labels)), range(recipe.pairs_at_once, len(labels), recipe.pairs_at_once))
        self._optimizer.zero_grad()
        for part in parts:
            if part is not parts[-1]:
                with self.accelerator.no_sync(self._model):  # gradients meet once a step
                    loss, right = self._backward(pictures[part], products[part], labels[part], len(labels))
            else:
                loss, right = self._backward(pictures[part], products[part], labels[part], len(labels))
            losses.append(loss)
            told.append(right)
        self.accelerator.clip_grad_norm_(self._model.parameters(), _MAX_GRADIENT_NORM)
        self._optimizer.step()
        self.number += 1
        return Step(self.number, self.total, float(torch.stack(losses).sum()), float(torch.cat(told).float().mean()))

    def _backward(
        self, pictures: NDArray[np.uint8], products: NDArray[np.int64], labels: NDArray[np.float32], of: int
    ) -> tuple[Tensor, Tensor]:
        """Add the gradients of some of a step's pairs; return their part of its loss, and which were told right."""
        batch = self._texts.batch(pictures, products)
        tensors = [batch.pixel_values, batch.input_ids, batch.attention_mask]
        tensors += [] if batch.attributes is None else [batch.attributes]
        device = self.accelerator.device
        logits: Tensor = self._model(*(torch.from_numpy(array).to(device) for array in tensors))
        labeled = torch.from_numpy(labels).to(device)
        loss = F.binary_cross_entropy_with_logits(logits.float(), labeled, reduction="sum") / of
        self.accelerator.backward(loss)
        return loss.detach(), (logits.detach() > 0) == (labeled > 0)

    def _draw(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the step's pictures (2A, 3, H, W), some mirrored, and whose they are: anchors, then their partners."""
        recipe, count = self._recipe, len(self._catalog.products)
        places = self.number * recipe.anchors_per_step + np.arange(recipe.anchors_per_step)
        epochs = range(places[0] // count, places[-1] // count + 1)
        order = np.concatenate([_generator(recipe.seed, 0, epoch).permutation(count) for epoch in epochs])
        anchors = order[places - epochs[0] * count]
        self._miner.state = dict(_generator(recipe.seed, 1, self.number).bit_generator.state)
        owners = np.concatenate([anchors, self._miner.partners(anchors, recipe.mix)])
        generator = _generator(recipe.seed, 2, self.number)
        pictures = self._catalog.pixel_values[self._catalog.any_picture(owners, generator)]
        mirrored = generator.integers(2, size=len(owners)).astype(np.bool_)
        return np.where(mirrored[:, None, None, None], pictures[..., ::-1], pictures), owners

    def _share(
        self, pictures: NDArray[np.uint8], owners: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]:
        """Return this process's pairs: pictures, products whose text stands beside them, and 1 for a mismatch."""
        own = np.arange(self.accelerator.process_index, len(owners), self.accelerator.num_processes)
        partner = (own + len(owners) // 2) % len(owners)
        pairs = np.stack([owners[own], owners[partner]], axis=1)  # match and mismatch side by side
        labels = np.tile(np.array([0.0, 1.0], dtype=np.float32), len(own))
        return np.repeat(pictures[own], 2, axis=0), pairs.flatten(), labels

    def _save(self, checkpoints: Path) -> None:
        """Write all that goes on, whole or not at all, then remove what was written before."""
        partial = checkpoints / "partial"
        if self.is_main:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.is_main:
            before = _saved(checkpoints)
            partial.rename(checkpoints / str(self.number))
            for number in before:
                shutil.rmtree(checkpoints / str(number))
        self.accelerator.wait_for_everyone()

    def _restore(self, checkpoints: Path) -> None:
        saved = _saved(checkpoints)
        if saved:
            self.accelerator.load_state(str(checkpoints / str(max(saved))))
            self.number = max(saved)


def _saved(checkpoints: Path) -> list[int]:
    return [int(path.name) for path in checkpoints.glob("*") if path.name.isdecimal()]


def _generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return optimizer groups: weight decay on matrices, none on biases, norms and their like."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _schedule(progress: float, warmup_share: float) -> float:
    """Return the factor on the learning rate: a linear warm-up, then linear down to 0. Source: Devlin et al. 2018."""
    if progress < warmup_share:
        return (progress + 1e-3) / warmup_share
    return (1 - progress) / max(1e-9, 1 - warmup_share)
