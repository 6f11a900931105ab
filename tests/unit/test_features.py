"""`engines.build.features`: what an earlier run computed is used again, and only for what it was computed of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.progress import Progress

from engines.build import features
from engines.build.dataset import Catalog, Product
from engines.build.features import Features, extract, size_bytes
from engines.build.models.compact import CompactConfig, CompactFusion
from engines.build.texts import Texts

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_torch_thread")

N = 3
TEXTS = Texts(np.full((N, 5), 7, dtype=np.int32), np.ones((N, 5), dtype=np.int32))


def catalog() -> Catalog:
    """Return three products whose pictures are noise."""
    products = tuple(Product(fields={}, facets=(), identity=i, group=str(i), category="") for i in range(N))
    pixels = np.random.default_rng(0).integers(256, size=(N, 3, 64, 64)).astype(np.uint8)
    return Catalog(products, (), pixels, np.arange(N))


@pytest.fixture(scope="module")
def model() -> CompactFusion:
    """Return an untrained model."""
    return CompactFusion(CompactConfig(image_size=64, readers=1), pretrained=False)


def computed(model: CompactFusion, catalog: Catalog, texts: Texts, folder: Path) -> tuple[Features, int]:
    """Return the features, and how many times the text backbone was asked for them."""
    folder.mkdir(exist_ok=True)
    asked: list[None] = []
    hook = model.text_backbone.register_forward_hook(lambda *_: asked.append(None))
    try:
        with Progress(disable=True) as progress:
            return extract(model, catalog, texts, folder, progress), len(asked)
    finally:
        hook.remove()


def test_extract_a_second_time_reads_what_is_there(model: CompactFusion, tmp_path: Path) -> None:
    """A run that was cut while it trained does not look at the pictures again."""
    first, asked = computed(model, catalog(), TEXTS, tmp_path)
    again, asked_again = computed(model, catalog(), TEXTS, tmp_path)
    assert (asked > 0, asked_again) == (True, 0)
    for name in ("middle", "final", "palette", "looks", "states"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_many_pictures_are_seen_as_few_are(
    model: CompactFusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On ONNX Runtime, where its export is worth it, as in torch: alike to what float16 can tell."""
    few, _ = computed(model, catalog(), TEXTS, tmp_path / "few")
    features._on_onnx_runtime.cache_clear()
    monkeypatch.setattr(features, "_FEW", 0)
    many, _ = computed(model, catalog(), TEXTS, tmp_path / "many")
    assert features._on_onnx_runtime.cache_info().misses == 1, "an export has read them"
    for name in ("middle", "final", "palette"):
        np.testing.assert_allclose(getattr(few, name), getattr(many, name), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("changed", ["picture", "text"])
def test_extract_of_something_else_computes_it(model: CompactFusion, tmp_path: Path, changed: str) -> None:
    """Features of a catalogue that has changed since are not used."""
    shown, said = catalog(), TEXTS
    computed(model, shown, said, tmp_path)
    if changed == "picture":
        shown.pixel_values[0] = 0
    else:
        said = said._replace(input_ids=said.input_ids + 1)
    features, asked = computed(model, shown, said, tmp_path)
    (tmp_path / "fresh").mkdir()
    other, _ = computed(model, shown, said, tmp_path / "fresh")
    assert asked
    np.testing.assert_array_equal(features.states, other.states)
    np.testing.assert_array_equal(features.final, other.final)


def test_extract_that_was_cut_is_not_used(model: CompactFusion, tmp_path: Path) -> None:
    """Files that are there but were not finished are written again."""
    computed(model, catalog(), TEXTS, tmp_path)
    (tmp_path / "made-of").unlink()
    assert computed(model, catalog(), TEXTS, tmp_path)[1]


def test_size_of_features_is_that_of_their_files(model: CompactFusion, tmp_path: Path) -> None:
    """What a disk is asked for is what is written there, but for the headers."""
    computed(model, catalog(), TEXTS, tmp_path)
    written = sum(file.stat().st_size for file in tmp_path.glob("*.npy"))
    assert size_bytes(N, N, views=1, side_px=64, tokens=5) == written - 4 * 128
