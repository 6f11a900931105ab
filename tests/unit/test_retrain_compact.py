"""A compact release that goes on learning: its readers on untrained backbones, its weights as a file."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from rich.progress import Progress
from safetensors.torch import save_file

from engines.build import weights
from engines.build.assemble import Source
from engines.build.models.backbones import text_tokenizer
from engines.build.models.compact import CompactConfig, CompactFusion
from engines.build.recipe import RetrainRecipe
from engines.build.retrain import confirmed, taught, tune_compact
from engines.contract import ImageSpec, TextSpec
from engines.errors import ReleaseCorrupt, ReleaseNotRestorable
from tests import retraining

if TYPE_CHECKING:
    from pathlib import Path

    from engines.build.retrain.confirmed import Confirmed
    from engines.build.retrain.taught import Taught

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SIDE = 32
IMAGE, TEXT = ImageSpec(height=SIDE, width=SIDE), TextSpec(max_tokens=8, fields=("title", "color"))
CONFIG = CompactConfig(
    image_size=SIDE, max_tokens=8, width=32, heads=2, joint=16, dropout=0.0, readers=2, known_texts=2, facets=(3,)
)
RECIPE = RetrainRecipe(seed=0, steps=6, replayed=4, confirmed=4, doubted=4)


@pytest.fixture(scope="module")
def source() -> Source:
    """A model that nobody has trained; its backbones are random, which takes less time than to read them."""
    torch.manual_seed(0)
    model = CompactFusion(CONFIG, pretrained=False).eval()
    return Source("compact", model, text_tokenizer(), IMAGE, TEXT, {})


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    """What people say of some tiles, and as catalogue those of them that are for measuring."""
    folder = retraining.write_labels(tmp_path_factory.mktemp("labels"), count=60)
    with Progress(disable=True) as progress:
        people: Confirmed = confirmed.read_confirmed(folder, image=IMAGE, progress=progress)
    catalog = people.rows((people.part != confirmed.TRAINING) & (people.votes.mismatch < 0.1)).catalog
    return taught.teach(catalog, people, RECIPE)


def _copy(source: Source) -> Source:
    return replace(source, model=copy.deepcopy(source.model))


class CutError(Exception):
    """The run is killed here."""


def _tune(source: Source, learned: Taught, work: Path, cut_at: int | None = None) -> tuple[Source, list[int]]:
    work.mkdir(exist_ok=True)
    seen: list[int] = []

    def on_step(done: int, total: int) -> None:
        assert total == CONFIG.readers * RECIPE.steps
        seen.append(done)
        if done == cut_at:
            raise CutError

    with Progress(disable=True) as progress:
        return tune_compact.tune(_copy(source), learned, RECIPE, work, on_step=on_step, progress=progress), seen


def test_tuning_moves_what_compares_and_leaves_what_tells_facets(
    source: Source, learned: Taught, tmp_path: Path
) -> None:
    """Backbones and classifiers of facets stay; a run that was cut goes on to the same model, reader by reader."""
    whole, _ = _tune(source, learned, tmp_path / "whole")
    moved = {
        name
        for (name, value), other in zip(
            whole.model.state_dict().items(), source.model.state_dict().values(), strict=True
        )
        if not torch.equal(value, other)
    }
    assert {name.split(".")[0] for name in moved} == {"readers", "signal_biases", "novelty"}
    moved -= {"signal_biases", "novelty.known"}
    assert not {name for name in moved if name.split(".")[2] in {"summary", "shown", "stated", "center", "deviation"}}
    assert {name.split(".")[1] for name in moved} == {"0", "1"}
    with pytest.raises(CutError):
        _tune(source, learned, tmp_path / "cut", cut_at=8)
    again, seen = _tune(source, learned, tmp_path / "cut")
    assert 1 not in seen, "the first reader is not trained again"
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value)


def test_what_was_learned_from_is_no_longer_new(source: Source, learned: Taught, tmp_path: Path) -> None:
    """Texts of what people have confirmed are known beside those of before, each once, and the sizes say so."""
    tuned, _ = _tune(source, learned, tmp_path / "tuned")
    model, before = tuned.model, source.model
    assert isinstance(model, CompactFusion)
    assert isinstance(before, CompactFusion)
    learned_from = tuned.encode(learned.replayed.catalog.joined(learned.matches.catalog))
    ids, mask = torch.from_numpy(learned_from.input_ids), torch.from_numpy(learned_from.attention_mask)
    assert before.novelty is not None
    assert model.novelty is not None
    assert model.novelty.share(ids, mask).max() == 0
    assert before.novelty.share(ids, mask).min() > 0
    different = torch.unique(model.novelty.words_of(ids, mask), dim=0)
    assert torch.equal(model.novelty.known, torch.cat([before.novelty.known, different]))
    assert tuned.provenance["model"]["known_texts"] == 2 + len(different)


def test_a_release_that_does_not_ask_how_new_a_text_is_goes_on_as_it_was(learned: Taught, tmp_path: Path) -> None:
    """It is of a version before this signal."""
    torch.manual_seed(0)
    before = CompactFusion(replace(CONFIG, known_texts=0), pretrained=False).eval()
    tuned, _ = _tune(Source("compact", before, text_tokenizer(), IMAGE, TEXT, {}), learned, tmp_path / "tuned")
    assert isinstance(tuned.model, CompactFusion)
    assert tuned.model.config.known_texts == 0
    assert tuned.model.signal_weights.shape == before.signal_weights.shape


def test_weights_hold_what_was_trained_and_bring_it_back(source: Source, tmp_path: Path) -> None:
    """The file is a fraction of the model, whose backbones come with their packages; another model refuses it."""
    path = tmp_path / "weights.safetensors"
    assert weights.save(source.model, path)
    all_bytes = sum(value.nbytes for value in source.model.state_dict().values())
    assert path.stat().st_size < 0.1 * all_bytes
    other = _copy(source).model
    with torch.no_grad():
        for parameter in other.get_submodule("readers").parameters():
            parameter.add_(1.0)
    weights.load(other, path)
    for name, value in source.model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    wider = CompactFusion(replace(CONFIG, joint=24), pretrained=False)
    with pytest.raises(ReleaseCorrupt, match="another model"):
        weights.load(wider, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ReleaseCorrupt):
        weights.load(other, path)
    save_file({name: value for name, value in weights.trained(other).items() if name != "signal_biases"}, path)
    with pytest.raises(ReleaseNotRestorable, match=r"another version.*signal_biases.*streamer adapt"):
        weights.load(other, path)


def test_doubted_items_are_learned_as_likely_as_they_are(source: Source, learned: Taught, tmp_path: Path) -> None:
    """What people call mismatches scores higher once it was learned."""
    assert len(learned.doubted.chance) > 3

    def logits(tuned: Source) -> float:
        texts = tuned.encode(learned.doubted.catalog)
        with torch.no_grad():
            scored = tuned.model(
                torch.from_numpy(learned.doubted.catalog.pixel_values),
                torch.from_numpy(texts.input_ids),
                torch.from_numpy(texts.attention_mask),
            )
        return float(np.average(scored.numpy(), weights=learned.mismatch))

    only = replace(RECIPE, steps=20, doubted=8, doubted_weight=10.0)
    with Progress(disable=True) as progress:
        tuned = tune_compact.tune(_copy(source), learned, only, tmp_path, on_step=lambda *_: None, progress=progress)
    assert logits(tuned) > logits(source) + 0.1
