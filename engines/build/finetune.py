"""Features of a catalogue → a trained reader of a compact model.

A step takes A products and a hard partner for each. Every picture of these 2A products is compared with several of
their texts: its own (the match), its partner's, and those that the contrastive half of the reader finds most alike.
A picture is encoded once, so further texts are cheap. Matches and mismatches weigh the same.

The catalogue's own pairs are taken for right, though some are not, and a reader that learns them by heart ranks its own
mistakes first. So labels are soft, words are left out at random, and (with `trimmed_share`) after a third of the steps
the matches with the largest losses are not learned (small-loss selection, Han et al. 2018, "Co-teaching").
"""

from __future__ import annotations

import copy
import io
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines.build.features import Said, said
from engines.build.mining import Miner
from engines.build.models.compact import Sight
from engines.build.precision import half
from engines.build.schedule import groups, rate, steps, steps_per_epoch
from engines.build.train import Average
from engines.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from engines.build.dataset import Catalog
    from engines.build.features import Features
    from engines.build.models.compact import Looked, Reader
    from engines.build.recipe import AdaptRecipe

_MAX_GRADIENT_NORM: Final = 1.0
_TRIM_FROM: Final = 0.33  # of the steps: before, a large loss only says that nothing is learned yet
_RECENT_LOSSES: Final = 2000
_MAX_TEMPERATURE: Final = 60.0
_SMOOTHING: Final = 0.05  # of labels
_UNKNOWN: Final = -100  # torch's label for "no loss here"
_BATCH: Final = 64

LOGGED: Final = ("pair_loss", "contrastive_loss", "facet_loss", "accuracy")
"""What of each step is tracked."""


@dataclass(frozen=True)
class Doubted:
    """Items that people take for mismatches, or may: D products, each with its picture.

    Attributes:
        features: of them.
        mismatch: how likely each is one, float64 (D,).
        chance: how likely each is the next that is drawn, float64 (D,), the sum 1.
        per_step: how many are drawn in a step.
        weight: of their loss.
    """

    features: Features
    mismatch: NDArray[np.float64]
    chance: NDArray[np.float64]
    per_step: int
    weight: float


class Step(NamedTuple):
    """What one step did, for the progress bar and the learning curve."""

    number: int
    total: int
    pair_loss: float
    contrastive_loss: float
    facet_loss: float
    accuracy: float


class _Losses(NamedTuple):
    """Of a step: `all` is what is lowered."""

    all: Tensor
    pair: Tensor
    contrastive: Tensor
    facet: Tensor


class Trainer:
    """One reader's run: its optimizer, its draws; saved and restored between epochs. On the GPU, if there is one.

    Args:
        reader: is trained in place.
        catalog: what it learns from.
        features: of that.
        labels: of its facets, (N, F).
        recipe: of the run.
        chance: how likely each product is the next anchor, float64 (N,); without, each is one once an epoch.
        doubted: pairs that people have judged; None: there are none.

    Raises:
        EngineUnavailable: there are several processes.
    """

    def __init__(
        self,
        reader: Reader,
        catalog: Catalog,
        features: Features,
        labels: NDArray[np.int64],
        recipe: AdaptRecipe,
        *,
        chance: NDArray[np.float64] | None = None,
        doubted: Doubted | None = None,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self._accelerator = Accelerator()
        if self._accelerator.num_processes > 1:
            raise EngineUnavailable("compact is small: it trains in one process; start it without `accelerate launch`")
        self._device = self._accelerator.device
        self._reader = reader.to(self._device).train()
        self._catalog, self._features, self._recipe = catalog, features, recipe
        self._chance, self._doubted = chance, doubted
        self._labels = torch.from_numpy(labels).to(self._device)
        self._optimizer = torch.optim.AdamW(groups(reader, recipe), lr=recipe.learning_rate)
        self._average = Average(reader, recipe.average_decay)
        self._generator = np.random.default_rng(recipe.seed)
        self._miner = Miner(catalog, features.looks, seed=recipe.seed + 1)
        self._match_losses: deque[float] = deque(maxlen=_RECENT_LOSSES)
        self.total = steps(len(catalog.products), recipe)
        self.number = 0

    def run(
        self,
        on_step: Callable[[Step], None],
        checkpoint: Path | None = None,
        on_epoch: Callable[[int, Reader], None] | None = None,
    ) -> Reader:
        """Train to the end, from the checkpoint where there is one, and return the averaged reader, on the CPU.

        `on_epoch` is given the number of each epoch, from 1, and the average as it is after it, to be looked at.

        Raises:
            CatalogInvalid: all products show the same.
        """
        if checkpoint is not None and checkpoint.exists():
            self._restore(checkpoint)
        while self.number < self.total:
            self._epoch(on_step)
            self._look_again()
            if checkpoint is not None:
                self._save(checkpoint)
            if on_epoch is not None:
                average = copy.deepcopy(self._reader)
                self._average.copy_to(average)
                epochs = math.ceil(self.number / steps_per_epoch(len(self._catalog.products), self._recipe))
                on_epoch(epochs, average.to("cpu").eval())
        self._average.copy_to(self._reader)
        return self._reader.to("cpu").eval()

    def _epoch(self, on_step: Callable[[Step], None]) -> None:
        order = self._order()
        size = self._recipe.anchors_per_step
        for start in range(0, len(order), size):
            if self.number == self.total:
                return
            on_step(self._step(order[start : start + size]))

    def _order(self) -> NDArray[np.int64]:
        """Return the anchors of an epoch."""
        count = len(self._catalog.products)
        if self._chance is None:
            return self._generator.permutation(count)
        return self._generator.choice(count, size=count, p=self._chance)

    def _step(self, anchors: NDArray[np.int64]) -> Step:
        progress = self.number / self.total
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate * group["factor"] * rate(self.number, progress)
        with half(self._device):
            losses, accuracy = self._losses(anchors, progress)
        self._optimizer.zero_grad(set_to_none=True)
        self._accelerator.backward(losses.all)
        self._accelerator.clip_grad_norm_(self._reader.parameters(), _MAX_GRADIENT_NORM)
        self._optimizer.step()
        self._average.update(self._reader, self.number)
        self.number += 1
        pair, contrastive, facet = (float(value.detach()) for value in (losses.pair, losses.contrastive, losses.facet))
        return Step(self.number, self.total, pair, contrastive, facet, accuracy)

    def _losses(self, anchors: NDArray[np.int64], progress: float) -> tuple[_Losses, float]:
        """Return the losses of a step, and the share of pairs that were told right."""
        recipe = self._recipe
        owners = np.concatenate([anchors, self._miner.partners(anchors, recipe.mix)])
        looked = self._look(owners)
        texts = self._to_device(said(self._features, owners))
        text, mask = self._reader.read(texts.states, self._thinned(texts.mask), texts.attributes)
        similarity, contrastive = self._contrast(self._reader.image_embedding(looked), text, mask, owners)
        facet = self._facet_loss(looked, texts, owners)
        loss = recipe.contrastive_weight * contrastive + recipe.facet_weight * facet
        if recipe.pair_weight:
            chosen = self._choose(similarity, owners)
            losses, accuracy = self._compare(looked.tokens, text, mask, chosen, owners)
            mismatches = torch.cat([losses[:, 1:].flatten(), self._reworded(looked.tokens, owners)])
            pair = self._trimmed(losses[:, 0], progress).mean() / 2 + mismatches.mean() / 2
            loss = loss + recipe.pair_weight * pair
        else:
            pair, accuracy = torch.zeros(()), _preferred(similarity)
        if self._doubted is not None:
            loss = loss + self._doubted.weight * self._doubted_loss(self._doubted)
        return _Losses(loss, pair, contrastive, facet), accuracy

    def _look(self, owners: NDArray[np.int64]) -> Looked:
        """Return what the reader makes of a picture of each of these products, in any of its views."""
        pictures = self._catalog.any_picture(owners, self._generator)
        views = self._generator.integers(self._features.views, size=len(owners))
        return self._reader.look(self._sight(self._features.pictures(pictures, views)))

    def _sight(self, sight: Sight) -> Sight:
        return Sight(*(part.to(self._device) for part in sight))

    def _to_device(self, texts: Said) -> Said:
        return Said(*(None if part is None else part.to(self._device) for part in texts))  # type: ignore[arg-type]

    def _thinned(self, mask: Tensor) -> Tensor:
        """Return the mask without some words: what is left of a text still matches, and cannot be learned by heart."""
        kept = torch.rand(mask.shape, device=mask.device) >= self._recipe.word_dropout
        kept[:, 0] = True
        return mask * kept

    def _facet_loss(self, looked: Looked, texts: Said, owners: NDArray[np.int64]) -> Tensor:
        """Return the cross-entropies of what pictures show and of what texts state, their sum over the facets.

        A picture of a product whose text states nothing is not asked.
        """
        loss = looked.summary.new_zeros(())
        labels = self._labels[torch.from_numpy(owners).to(self._device)]
        stated = self._reader.states_of(texts.states, texts.mask)
        for shown, said_so, label in zip(looked.facets, stated, labels.T, strict=True):
            known = label < shown.shape[1]
            asked = torch.where(known, label, _UNKNOWN)
            loss = loss + F.cross_entropy(said_so, label)
            if known.any():
                loss = loss + F.cross_entropy(shown, asked, ignore_index=_UNKNOWN, label_smoothing=_SMOOTHING)
        return loss

    def _contrast(self, image: Tensor, text: Tensor, mask: Tensor, owners: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return similarities (2A, 2A), pictures in rows, and their contrastive loss.

        Products that may show the same are matches of each other. Source: Radford et al. 2021; Khosla et al. 2020.
        """
        scale = self._reader.log_temperature.exp().clamp(max=_MAX_TEMPERATURE)
        vectors = self._reader.text_embedding(text, mask)
        with torch.autocast(self._device.type, enabled=False):  # times the scale, bfloat16 would be off by a quarter
            similarity = scale * image.float() @ vectors.float().T
        target = self._alike(owners).float()
        target = target / target.sum(dim=1, keepdim=True)
        by_picture = -(target * similarity.log_softmax(dim=1)).sum(dim=1).mean()
        by_text = -(target.T * similarity.T.log_softmax(dim=1)).sum(dim=1).mean()
        return similarity.detach(), (by_picture + by_text) / 2

    def _choose(self, similarity: Tensor, owners: NDArray[np.int64]) -> Tensor:
        """Return which texts each picture is compared with, int64 (2A, K): its own, its partner's, those most alike."""
        alike = self._alike(owners)
        rows = torch.arange(len(owners), device=self._device)
        partner = (rows + len(owners) // 2) % len(owners)
        weights = (similarity / 2).softmax(dim=1).masked_fill(alike, 0.0) + 1e-6 * ~alike
        scarce = int((~alike).sum(dim=1).min()) < self._recipe.hard_texts  # an epoch's last batch may be one anchor
        hard = torch.multinomial(weights, self._recipe.hard_texts, replacement=scarce)
        return torch.cat([rows[:, None], partner[:, None], hard], dim=1)

    def _compare(
        self, image: Tensor, text: Tensor, mask: Tensor, chosen: Tensor, owners: NDArray[np.int64]
    ) -> tuple[Tensor, float]:
        """Return the loss of each picture with each of its texts (2A, K), and the share of pairs told right."""
        texts = chosen.flatten()
        logits = self._reader.compare(image, text[texts], mask[texts]).view_as(chosen)
        labels = (~self._alike(owners).gather(1, chosen)).float()
        told = ((logits > 0) == (labels > 0))[:, :2].float().mean()  # its own and its partner's
        return _binary(logits, labels), float(told)

    def _reworded(self, image: Tensor, owners: NDArray[np.int64]) -> Tensor:
        """Return the losses of the pictures with a text of their own that is wrong in one attribute."""
        reworded = self._features.reworded
        if reworded is None:
            return image.new_zeros(0)
        having, rows = reworded.draw(owners, self._generator)
        if not len(having):
            return image.new_zeros(0)
        texts = self._to_device(said(reworded, rows))
        text, mask = self._reader.read(texts.states, self._thinned(texts.mask), texts.attributes)
        logits = self._reader.compare(image[torch.from_numpy(having)], text, mask)
        return _binary(logits, torch.ones_like(logits))

    def _doubted_loss(self, doubted: Doubted) -> Tensor:
        """Return the mean loss of some pairs whose labels are likelihoods."""
        rows = self._generator.choice(len(doubted.chance), size=doubted.per_step, p=doubted.chance)
        views = self._generator.integers(doubted.features.views, size=len(rows))
        pictures = self._sight(doubted.features.pictures(rows, views))
        texts = self._to_device(said(doubted.features, rows))
        text, mask = self._reader.read(texts.states, self._thinned(texts.mask), texts.attributes)
        logits = self._reader.compare(self._reader.look(pictures).tokens, text, mask)
        return _binary(logits, torch.from_numpy(doubted.mismatch[rows]).to(logits)).mean()

    def _trimmed(self, losses: Tensor, progress: float) -> Tensor:
        """Return the losses of matches (2A,), the largest set to 0."""
        self._match_losses.extend(losses.detach().tolist())
        if progress < _TRIM_FROM or not self._recipe.trimmed_share:
            return losses
        limit = float(np.quantile(np.array(self._match_losses), 1 - self._recipe.trimmed_share))
        return losses * (losses.detach() <= limit)

    def _alike(self, owners: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._miner.same(owners)[:, owners]).to(self._device)

    def _look_again(self) -> None:
        """Find neighbours as the reader now sees them, unless it has learned all that it will."""
        if self.number < self.total:
            self._miner.look(*self._vectors())

    @torch.no_grad()
    def _vectors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what each product's first picture, and its text, is to the reader as it is now, both (N, J)."""
        reader = self._reader.eval()
        first = self._catalog.first_picture[:-1]
        pictures: list[NDArray[np.float32]] = []
        texts: list[NDArray[np.float32]] = []
        for rows in chunks(np.arange(len(first))):
            _, states, mask, attributes = self._to_device(said(self._features, rows))
            with half(self._device):
                looked = reader.look(self._sight(self._features.as_they_are(first[rows])))
                picture = reader.image_embedding(looked)
                text = reader.text_embedding(*reader.read(states, mask, attributes))
            pictures.append(picture.float().cpu().numpy())
            texts.append(text.float().cpu().numpy())
        reader.train()
        return np.concatenate(pictures), np.concatenate(texts)

    def _save(self, file: Path) -> None:
        """Write all that goes on, whole or not at all.

        Raises:
            OSError: the disk is full; the checkpoint before is still there.
        """
        state = {
            "number": self.number,
            "reader": self._reader.state_dict(),
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
        self._reader.load_state_dict(state["reader"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._average.load_state_dict(state["average"])
        self._generator.bit_generator.state, self._miner.state = state["generators"]
        torch.set_rng_state(state["torch"])
        self._match_losses.extend(state["match_losses"])
        self._look_again()


def steps_done(checkpoint: Path) -> int:
    """Return how many steps of a run its checkpoint has behind it, 0 where there is none."""
    if not checkpoint.exists():
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["number"])


def _preferred(similarity: Tensor) -> float:
    """Return the share of pictures that are more like their own text than like their partner's."""
    own = similarity.diagonal()
    return float((own > similarity.roll(len(own) // 2, dims=1).diagonal()).float().mean())


def _binary(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the losses; labels are softened, since some pairs are not what they are taken for."""
    softened = labels * (1 - 2 * _SMOOTHING) + _SMOOTHING
    return F.binary_cross_entropy_with_logits(logits, softened, reduction="none")


def chunks(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the rows in parts that memory bears."""
    return np.split(rows, range(_BATCH, len(rows), _BATCH))
