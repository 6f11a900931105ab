"""`engines.build.finetune` on made-up features: what it lowers, and that an interruption changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from engines.build.dataset import Catalog, Product
from engines.build.facets import Facets
from engines.build.features import Features, Reworded
from engines.build.finetune import Step, Trainer
from engines.build.mining import Miner
from engines.build.models.compact import CompactConfig, Reader
from engines.build.models.palette import Palette
from engines.build.recipe import AdaptRecipe
from engines.build.schedule import HEADS, steps
from engines.build.texts import Texts

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.usefixtures("one_torch_thread")

N, TOKENS = 16, 6
RECIPE = AdaptRecipe(
    seed=0, epochs=6, max_tokens=TOKENS, anchors_per_step=8, hard_texts=1, learning_rate=3e-3, trimmed_share=0.1
)
CONFIG = CompactConfig(max_tokens=TOKENS, width=32, heads=2, joint=16, dropout=0.0, readers=1, facets=(2,))


def catalog() -> Catalog:
    """Return products of two colors."""
    products = tuple(
        Product(fields={}, facets=("red", "blue")[i % 2 : i % 2 + 1], identity=i, group=str(i // 2), category="thing")
        for i in range(N)
    )
    return Catalog(products, ("color",), np.zeros((N, 3, 1, 1), dtype=np.uint8), np.arange(N))


def features() -> Features:
    """Return pictures that are red or blue and otherwise noise, and texts that say which."""
    generator = np.random.default_rng(0)
    pixels = torch.zeros(N, 3, 256, 256, dtype=torch.uint8)
    pixels[0::2, 0], pixels[1::2, 2] = 220, 220
    ids = np.stack([np.array([1, 10 + i % 2, 20 + i % 5, 2, 0, 0], dtype=np.int32) for i in range(N)])
    words = generator.normal(size=(50, 384))
    return Features(
        middle=generator.normal(size=(N, 2, 88, 16, 16)).astype(np.float16),
        final=generator.normal(size=(N, 2, 352, 8, 8)).astype(np.float16),
        palette=Palette()(pixels).half().numpy()[:, None].repeat(2, axis=1),
        looks=generator.normal(size=(N, 8)).astype(np.float32),
        states=words[ids].astype(np.float16),
        texts=Texts(ids, (ids > 0).astype(np.int32)),
    )


def reader() -> Reader:
    """Return an untrained reader."""
    torch.manual_seed(0)
    return Reader(CONFIG, Palette().size)


def labels() -> NDArray[np.int64]:
    """Return the colors as numbers."""
    return Facets.of(catalog()).labels(catalog())


def trainer() -> Trainer:
    """Return a run at its start."""
    return Trainer(reader(), catalog(), features(), labels(), RECIPE)


class CutError(Exception):
    """The run is killed here."""


def test_run_lowers_the_losses() -> None:
    """Twelve steps already tell something."""
    steps: list[Step] = []
    trainer().run(steps.append)
    assert [step.number for step in steps] == list(range(1, 13))
    assert np.mean([s.pair_loss for s in steps[-3:]]) < np.mean([s.pair_loss for s in steps[:3]])
    assert np.mean([s.facet_loss for s in steps[-3:]]) < np.mean([s.facet_loss for s in steps[:3]])


def test_run_looks_for_neighbours_of_pictures_and_texts_between_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both in the space of the reader as it then is, not once more at the end; equal texts have one place there."""
    looked: list[tuple[NDArray[np.floating], ...]] = []

    class Recorded(Miner):
        def look(self, *vectors: NDArray[np.floating]) -> None:
            looked.append(vectors)
            super().look(*vectors)

    monkeypatch.setattr("engines.build.finetune.Miner", Recorded)
    Trainer(reader(), catalog(), features(), labels(), replace(RECIPE, epochs=3)).run(lambda _: None)
    first, *epochs = looked
    assert len(first) == 1
    assert [[part.shape for part in vectors] for vectors in epochs] == [[(N, 16), (N, 16)]] * 2
    for _, texts in epochs:
        np.testing.assert_allclose(texts[0], texts[10], rtol=1e-5)
        assert not np.allclose(texts[0], texts[1], rtol=1e-2)


def test_run_that_compares_nothing_trains_a_dual_encoder() -> None:
    """The fusion layers stay as they are; the similarity learns which picture goes with which text."""
    steps: list[Step] = []
    recipe = replace(RECIPE, pair_weight=0.0, contrastive_weight=1.0)
    untrained = reader()
    before = {name: value.clone() for name, value in untrained.layers.state_dict().items()}
    trained = Trainer(untrained, catalog(), features(), labels(), recipe).run(steps.append)
    assert {step.pair_loss for step in steps} == {0.0}
    assert np.mean([s.contrastive_loss for s in steps[-3:]]) < np.mean([s.contrastive_loss for s in steps[:3]])
    assert all(torch.equal(value, before[name]) for name, value in trained.layers.state_dict().items())


def test_run_compares_texts_that_are_wrong_in_one_attribute() -> None:
    """Those products that have such texts are compared with them, too."""
    right = features()
    ids = right.texts.input_ids.copy()
    ids[:, 1] = 21 - ids[:, 1]  # the other color's word
    reworded = Reworded((np.arange(N) < N // 2)[:, None], right.states, Texts(ids, right.texts.attention_mask))
    having, rows = reworded.draw(np.array([1, 12, 3]), np.random.default_rng(0))
    assert (having.tolist(), rows.tolist()) == ([0, 2], [1, 3])

    def first_step(**changes: Reworded) -> Step:
        steps: list[Step] = []
        changed = replace(right, **changes)
        Trainer(reader(), catalog(), changed, labels(), replace(RECIPE, epochs=0.5)).run(steps.append)
        return steps[0]

    without, beside = first_step(), first_step(reworded=reworded)
    assert beside.contrastive_loss == without.contrastive_loss
    assert beside.pair_loss != without.pair_loss


@pytest.mark.parametrize("hard_texts", [1, 3])
def test_run_whose_last_batch_is_one_product_ends(hard_texts: int) -> None:
    """Sixteen products in batches of five leave one: it has its partner only to be compared with."""
    recipe = replace(RECIPE, epochs=1, anchors_per_step=5, hard_texts=hard_texts)
    steps: list[Step] = []
    Trainer(reader(), catalog(), features(), labels(), recipe).run(steps.append)
    assert [step.number for step in steps] == [1, 2, 3, 4]


def test_run_cut_and_started_again_gives_the_same_model(tmp_path: Path) -> None:
    """A run that is killed in its fourth epoch goes on from the third and ends where the other one does."""
    whole = trainer().run(lambda _: None)

    def cut(step: Step) -> None:
        if step.number == 7:
            raise CutError

    file = tmp_path / "checkpoint.pt"
    with pytest.raises(CutError):
        trainer().run(cut, file)
    seen: list[Step] = []
    again = trainer().run(seen.append, file)
    assert seen[0].number == 7
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("products", "epochs", "expected"), [(160, None, 1000), (16_000, None, 8000), (160, 0.5, 5), (16_000, 0.5, 500)]
)
def test_steps_of_a_small_catalogue_are_not_few_unless_told(products: int, epochs: float | None, expected: int) -> None:
    """Eight epochs of 160 products teach nothing; whoever says how many gets them."""
    assert steps(products, replace(RECIPE, epochs=epochs, anchors_per_step=16)) == expected


def test_taggers_have_their_share_of_the_readers_epochs() -> None:
    """Half the epochs for readers are half of them for taggers, too."""
    assert replace(RECIPE, epochs=4.0).tagged == 15.0
    assert replace(RECIPE, epochs=None).tagged is None
    assert replace(RECIPE, epochs=4.0, tag_epochs=1.0).tagged == 1.0


def test_what_only_this_catalogue_can_teach_learns_faster() -> None:
    """Readers that have learned elsewhere begin with classifiers of facets that know nothing."""

    def moved(rate: float) -> tuple[float, float]:
        """Return how far the classifiers' weights went, on average, and those of all else."""
        before = dict(reader().named_parameters())
        after = dict(
            Trainer(reader(), catalog(), features(), labels(), replace(RECIPE, head_rate=rate))
            .run(lambda _: None)
            .named_parameters()
        )
        far = {name: (after[name] - value).detach().abs().mean() for name, value in before.items() if value.ndim > 1}
        heads = [far[name] for name in far if name.startswith(HEADS)]
        return float(torch.stack(heads).mean()), float(
            torch.stack([far[n] for n in far if not n.startswith(HEADS)]).mean()
        )

    (usual, rest), (fast, other) = moved(1.0), moved(5.0)
    assert fast > 2 * usual
    assert other == pytest.approx(rest, rel=0.2)
