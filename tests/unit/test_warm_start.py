"""`engines.build.warm_start`: what comes along from another catalogue, and which catalogues it is kept from."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import torch
from PIL import Image
from rich.progress import Progress

from engines.build import adapt, warm_start
from engines.build.dataset import Catalog
from engines.build.models.compact import CompactConfig, CompactFusion, Reader
from engines.build.models.palette import Palette
from engines.build.recipe import AdaptRecipe
from engines.build.schedule import steps
from engines.build.warm_start import WarmStart

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CONFIG = CompactConfig(width=32, heads=2, joint=16, readers=2, facets=(3,), max_tokens=8)


@dataclass
class Readers:
    """A model without its backbones."""

    each: list[Reader]

    def each_reader(self) -> list[Reader]:
        """Return the readers."""
        return self.each


def model(config: CompactConfig = CONFIG, *, seed: int = 0) -> CompactFusion:
    """Return two readers that were drawn from this seed."""
    torch.manual_seed(seed)
    return cast("CompactFusion", Readers([Reader(config, Palette().size) for _ in range(2)]))


def photos(count: int, *, seed: int) -> NDArray[np.uint8]:
    """Return pictures of some blots, uint8 (P, 3, 256, 256)."""
    coarse = np.random.default_rng(seed).integers(0, 256, size=(count, 6, 6, 3), dtype=np.uint8)
    each = [np.asarray(Image.fromarray(one).resize((256, 256), Image.Resampling.BICUBIC)) for one in coarse]
    return np.stack(each).transpose(0, 3, 1, 2)


def saved_again(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture as it comes back from a smaller JPEG of it."""
    buffer = io.BytesIO()
    Image.fromarray(picture.transpose(1, 2, 0)).resize((200, 200)).save(buffer, "JPEG", quality=70)
    return np.asarray(Image.open(buffer).resize((256, 256))).transpose(2, 0, 1)


@pytest.fixture
def start(tmp_path: Path) -> WarmStart:
    """What readers of seed 1 have learned from 20 pictures."""
    file = tmp_path / "begun" / "compact.safetensors"
    warm_start.write(model(seed=1), photos(20, seed=1), file)
    return WarmStart.read(file)


def test_readers_begin_with_what_was_learned(start: WarmStart) -> None:
    """All but what belongs to one catalogue is taken over, up to half precision."""
    begun, teacher, chance = model(), model(seed=1), model()
    start.begin(begun)
    own = ("center", "deviation", "shown.", "stated.")
    for reader, taught, untaught in zip(begun.each_reader(), teacher.each_reader(), chance.each_reader(), strict=True):
        for name, value in reader.state_dict().items():
            wanted = (untaught if name.startswith(own) else taught).state_dict()[name]
            torch.testing.assert_close(value, wanted, atol=2e-3, rtol=1e-3)


def test_texts_may_be_longer_than_those_learned_from(start: WarmStart) -> None:
    """The places of a text that were learned are taken over, those behind them stay as they were drawn."""
    longer = replace(CONFIG, max_tokens=12)
    begun, teacher, chance = model(longer), model(seed=1), model(longer)
    assert start.fits(begun.each_reader()[0])
    start.begin(begun)
    found = begun.each_reader()[0].text_positions
    torch.testing.assert_close(found[:, :8], teacher.each_reader()[0].text_positions, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(found[:, 8:], chance.each_reader()[0].text_positions[:, 8:])


@pytest.mark.parametrize("other", [{"width": 48}, {"layers": 2}, {"joint": 8}])
def test_readers_of_other_sizes_begin_with_nothing(start: WarmStart, other: dict[str, int]) -> None:
    """Weights fit readers of the same sizes only."""
    assert start.fits(model().each_reader()[0])
    assert not start.fits(Reader(replace(CONFIG, **other), Palette().size))


def test_copies_are_known_and_other_pictures_are_not(start: WarmStart) -> None:
    """A picture that was saved smaller and again still counts as one that was learned from."""
    known, others = photos(20, seed=1), photos(20, seed=2)
    assert start.shared([known]) == 1.0
    assert start.shared([np.stack([saved_again(one) for one in known])]) > 0.5
    assert start.shared([others]) == 0.0
    assert start.shared([known, others]) == pytest.approx(0.5)


def test_a_catalogue_that_was_learned_from_is_begun_with_nothing(
    start: WarmStart, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its figures would be of products that are known."""
    monkeypatch.setattr(adapt, "shipped", lambda: start)

    def chosen(*parts: NDArray[np.uint8]) -> WarmStart | None:
        catalogs = [Catalog((), (), pictures, np.arange(len(pictures))) for pictures in parts]
        return adapt._start(CONFIG, (catalogs[0], catalogs[1], catalogs[2]), Progress(disable=True))

    others = photos(60, seed=2)
    assert chosen(others[:40], others[40:50], others[50:]) is start
    assert chosen(others[:40], others[40:50], np.concatenate([others[50:], photos(10, seed=1)])) is None


def test_a_small_catalogue_takes_few_steps_from_there() -> None:
    """Readers that have learned elsewhere know a small catalogue by heart in a thousand steps."""
    recipe = AdaptRecipe(seed=0)
    assert steps(175, recipe) == AdaptRecipe.LEAST_STEPS
    assert steps(175, recipe.warm()) == 200
    assert steps(5360, recipe.warm()) == steps(5360, recipe)
