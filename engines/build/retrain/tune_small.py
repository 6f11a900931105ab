"""A small release goes on learning: its eyes stay as they are, its words and what compares them move a little.

A champion that has learned to see tells new things apart as they are, too; what it lacks is what they are called. So
image tokens are computed once. First the words that it had to spell until now learn, alone, what they look like; then
everything but the convolutions is trained on confirmed matches, on what people doubt, and on the catalogue, where the
champion's own answers are the target as far as they are right: so it forgets little (knowledge distillation).

Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"; Li, Hoiem 2016, "Learning without
Forgetting".
"""

from __future__ import annotations

import copy
import io
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines.build import tracking
from engines.build.models.small import SmallFusion
from engines.build.restore import with_words
from engines.build.retrain.pools import Pool, pools_of, together
from engines.build.teachers import WordsTeacher
from engines.build.texts import written
from engines.build.train import Average, decayed_groups
from engines.build.vocabulary import new_words
from engines.errors import CatalogInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.progress import Progress
    from torch import Tensor

    from engines.build.assemble import Source
    from engines.build.recipe import RetrainRecipe
    from engines.build.retrain.taught import Taught

_SAVE_EVERY: Final = 40  # steps
_MAX_GRADIENT_NORM: Final = 1.0
_WORD_BATCH: Final = 64
_CONSTANT_UNTIL: Final = 0.2  # of the steps; then half a cosine


class Step(NamedTuple):
    """What one step did."""

    number: int
    total: int
    loss: float
    accuracy: float


LOGGED: Final = ("loss", "accuracy")


def tune(
    source: Source,
    taught: Taught,
    recipe: RetrainRecipe,
    work: Path,
    *,
    on_step: Callable[[int, int], None],
    progress: Progress,
) -> Source:
    """Return the model after it has gone on learning, from its last checkpoint in `work`.

    `on_step` is given how many steps are done, and how many there are.

    Raises:
        CatalogInvalid: there is nothing to exchange: all items show the same.
    """
    tuner = Tuner(source, taught, recipe, progress)

    def told(step: Step) -> None:
        on_step(step.number, step.total)

    return tuner.run(tracking.by_epoch(told, _SAVE_EVERY, LOGGED), work / "checkpoint.pt")


class Tuner:
    """One run: model, optimizer, draws; saved and restored between steps."""

    def __init__(self, source: Source, taught: Taught, recipe: RetrainRecipe, progress: Progress) -> None:
        torch.manual_seed(recipe.seed)
        learned = [taught.replayed.catalog, taught.matches.catalog]
        texts = [text for catalog in learned for text in written(catalog, source.text)]
        words = new_words(source.tokenizer, texts, least=recipe.new_word_products)
        self.source = with_words(source, words)
        model = self.source.model
        assert isinstance(model, SmallFusion)
        self._model, self._recipe, self._taught, self._new_words = model.eval(), recipe, taught, len(words)
        self._pools = {
            name: Pool(model, items, self.source.encode(items.catalog), recipe.seed + number, progress)
            for number, (name, items) in enumerate(pools_of(taught).items())
        }
        self._champion = copy.deepcopy(model)
        self._learned = [pool for name, pool in self._pools.items() if name != "doubted"]
        if not self._learned:
            raise CatalogInvalid("all items show the same: there is nothing to exchange")
        self._teacher = WordsTeacher(together([pool.texts for pool in self._learned]), model.config)
        self._generator = np.random.default_rng(recipe.seed)

    def run(self, on_step: Callable[[Step], None], checkpoint: Path) -> Source:
        """Train to the end, from the checkpoint where there is one, and return the averaged model."""
        model, recipe = self._model, self._recipe
        if not checkpoint.exists():
            self._learn_words()
        for part in (model.stem, model.project):
            part.requires_grad_(False)
        model.image_positions.requires_grad_(False)
        _train_mode(model)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(decayed_groups(parameters, recipe.weight_decay), betas=(0.9, 0.98))
        average = Average(model, recipe.average_decay)
        done = self._restore(checkpoint, optimizer, average) if checkpoint.exists() else 0
        for number in range(done, recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _rate(number, recipe)
            loss, accuracy = self._losses()
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
            optimizer.step()
            average.update(model, number)
            on_step(Step(number + 1, recipe.steps, float(loss.detach()), accuracy))
            if (number + 1) % _SAVE_EVERY == 0 or number + 1 == recipe.steps:
                self._save(checkpoint, number + 1, optimizer, average)
        average.copy_to(model)
        return replace(self.source, model=model.eval())

    def _learn_words(self) -> None:
        """Let the new words, and nothing else, learn which pictures they belong to."""
        model = self._model
        if not self._new_words:
            return
        known = model.config.vocabulary_size - self._new_words
        before = model.words.weight.detach()[:known].clone(), model.word_bias.detach()[:known].clone()
        optimizer = torch.optim.AdamW(
            [model.words.weight, model.word_bias], lr=self._recipe.word_learning_rate, weight_decay=0.0
        )
        each = _WORD_BATCH // len(self._learned)
        for _ in range(self._recipe.word_steps):
            drawn = [pool.draw(each, self._generator) for pool in self._learned]
            seen = [pool.seen(items, self._generator) for pool, items in zip(self._learned, drawn, strict=True)]
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(self._teach(torch.cat(seen), drawn))
            optimizer.step()
            with torch.no_grad():
                model.words.weight[:known], model.word_bias[:known] = before

    def _teach(self, seen: Tensor, drawn: list[NDArray[np.int64]]) -> Tensor:
        """Return how badly the words of texts are found in image tokens; `drawn`: the items of each learned pool."""
        firsts = np.cumsum([0, *(len(pool.texts.input_ids) for pool in self._learned)])[: len(drawn)]
        rows = np.concatenate([first + items for first, items in zip(firsts, drawn, strict=True)])
        taught: Tensor = self._teacher(self._model, seen, torch.from_numpy(rows))
        return taught

    def _losses(self) -> tuple[Tensor, float]:
        """Return the loss of a step, and the share of its pairs that are told right."""
        recipe = self._recipe
        parts = list(self._exchanged())
        pairs = sum(len(labels) for _, labels, _ in parts)
        loss = sum((weigh.sum() for weigh, _, _ in parts), torch.zeros(())) / pairs
        accuracy = sum(float(((logits > 0) == (labels > 0)).sum()) for _, labels, logits in parts) / pairs
        if (doubted := self._pools.get("doubted")) is not None:
            items = doubted.draw(recipe.doubted, self._generator)
            logits = self._model.compare(doubted.seen(items, self._generator), *doubted.said(items))
            target = torch.from_numpy(self._taught.mismatch[items]).float()
            loss = loss + recipe.doubted_weight * F.binary_cross_entropy_with_logits(logits, target)
        return loss, accuracy

    def _exchanged(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield of each pool the losses of its pairs, their labels, and their logits."""
        recipe = self._recipe
        for name, count, mix in (
            ("replayed", recipe.replayed, recipe.replay_mix),
            ("matches", recipe.confirmed, recipe.confirmed_mix),
        ):
            pool = self._pools.get(name)
            if pool is None:
                continue
            anchors = pool.draw(count, self._generator)
            owners = np.concatenate([anchors, pool.partners(anchors, mix)])
            seen = pool.seen(owners, self._generator)
            compared = np.concatenate([owners, owners[count:], owners[:count]])  # own texts, then the partners'
            said, labels = pool.said(compared), torch.cat([torch.zeros(2 * count), torch.ones(2 * count)])
            logits = self._model.compare(torch.cat([seen, seen]), *said)
            target = self._remembered(torch.cat([seen, seen]), said, labels) if name == "replayed" else labels
            losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            if name == "matches":
                drawn = [np.empty(0, np.int64)] * (len(self._learned) - 1) + [owners]
                losses = losses + recipe.teaching_weight * self._teach(seen, drawn)
            yield losses, labels, logits

    @torch.no_grad()
    def _remembered(self, seen: Tensor, said: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        """Return what the champion says where it is right, the labels where it is not."""
        logits = self._champion.compare(seen, *said)
        return torch.where((logits > 0) == (labels > 0), logits.sigmoid(), labels)

    def _save(self, file: Path, number: int, optimizer: torch.optim.Optimizer, average: Average) -> None:
        state = {
            "number": number,
            "model": self._model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.state_dict(),
            "generators": [self._generator.bit_generator.state, *(pool.state for pool in self._pools.values())],
            "torch": torch.get_rng_state(),
        }
        save_state(state, file)

    def _restore(self, file: Path, optimizer: torch.optim.Optimizer, average: Average) -> int:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        self._model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.load_state_dict(state["average"])
        self._generator.bit_generator.state, *pools = state["generators"]
        for pool, drawn in zip(self._pools.values(), pools, strict=True):
            pool.state = drawn
        torch.set_rng_state(state["torch"])
        return int(state["number"])


def save_state(state: dict[str, Any], file: Path) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        OSError: the disk is full; the checkpoint before is still there.
    """
    buffer = io.BytesIO()  # torch tells a full disk from other errors by no type
    torch.save(state, buffer)
    partial = file.with_suffix(".partial")
    partial.write_bytes(buffer.getbuffer())
    partial.replace(file)


def _train_mode(model: SmallFusion) -> None:
    """Turn dropout on; norms of the convolutions keep their statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _rate(number: int, recipe: RetrainRecipe) -> float:
    """Return the factor on the learning rate: a linear warm-up, constant, half a cosine down to 2 %."""
    warm = min(1.0, (number + 1) / recipe.warmup_steps)
    decayed = max(0.0, number / recipe.steps - _CONSTANT_UNTIL) / (1 - _CONSTANT_UNTIL)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * decayed)))
