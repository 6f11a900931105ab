"""Every pretrained family, exported: the graph gives the model's logits, in every batch size, whatever the padding."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from rich.progress import Progress
from torch import nn

from engines import releases
from engines.build import evaluate, export
from engines.build.assemble import HeldOut, assemble
from engines.build.gather import gather_rendered
from engines.build.models.attributes import AttributeSpec
from engines.build.texts import encode
from engines.build.thresholds import Target
from engines.contract import Batch, Manifest
from engines.errors import InferenceFailed
from engines.runtime.loader import load, load_tokenizer
from engines.runtime.onnx import OnnxEngine
from engines.text import Tokenizer
from tests import tiny_families
from tests.fakes import manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engines.build.assemble import Source

pytestmark = pytest.mark.usefixtures("one_torch_thread")


ATTRIBUTES = AttributeSpec(numbers=2, categories=(3, 5), history=4, latents=3)


def manifest_of(source: Source, *, attributes: int = 0) -> Manifest:
    """Return the manifest of a tiny engine."""
    inputs = export.input_specs(source.image, source.text, attributes=attributes)
    return manifest(inputs=inputs, image=source.image, text=source.text)


@pytest.fixture(scope="module", params=tiny_families.NAMES)
def exported(
    request: pytest.FixtureRequest, exported_family: Callable[[str], tuple[Source, Path]]
) -> tuple[Source, OnnxEngine]:
    """Give a random model and its exported twin."""
    source, path = exported_family(request.param)
    return source, OnnxEngine(path, manifest_of(source), threads=1)


def batch(size: int, *, seed: int) -> Batch:
    """Return random pairs whose texts have different lengths."""
    return Batch(*(tensor.numpy() for tensor in tiny_families.pairs(size, seed=seed)))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_onnx_equals_torch(exported: tuple[Source, OnnxEngine], size: int) -> None:
    """The same logits within 1e-4, whatever the batch size and the lengths of the texts."""
    source, engine = exported
    for seed in range(3):
        tensors = tiny_families.pairs(size, seed=seed)
        with torch.no_grad():
            expected = source.model(*tensors).numpy()
        assert np.abs(engine.infer(batch(size, seed=seed)) - expected).max() < 1e-4


def test_export_passes_the_releases_check(exported: tuple[Source, OnnxEngine]) -> None:
    """What is assembled to a release is compared by `check_parity` first."""
    source, engine = exported
    assert export.check_parity(source.model, engine) < 1e-4


@pytest.mark.parametrize("family", [*tiny_families.NAMES, *tiny_families.OWN])
def test_export_says_nothing_of_the_machine_that_made_it(
    family: str, exported_family: Callable[[str], tuple[Source, Path]]
) -> None:
    """A release is given away: torch notes with each node which line of which file it comes from."""
    made = exported_family(family)[1].read_bytes()
    assert export.__file__.encode().rpartition(b"/")[0] not in made
    assert b"stack_trace" not in made


def test_batched_equals_single(exported: tuple[Source, OnnxEngine]) -> None:
    """A pair's logit does not depend on the pairs beside it."""
    _, engine = exported
    together = batch(6, seed=4)
    single = [
        engine.infer(
            Batch(
                together.pixel_values[i : i + 1],
                together.input_ids[i : i + 1],
                together.attention_mask[i : i + 1],
            )
        )
        for i in range(6)
    ]
    assert np.abs(engine.infer(together) - np.concatenate(single)).max() < 1e-5


def test_padding_does_not_change_the_logit(exported: tuple[Source, OnnxEngine]) -> None:
    """What stands behind the mask is not read."""
    _, engine = exported
    padded = batch(5, seed=5)
    other = Batch(padded.pixel_values, np.where(padded.attention_mask == 1, padded.input_ids, 3), padded.attention_mask)
    assert np.abs(engine.infer(padded) - engine.infer(other)).max() < 1e-5


def test_token_that_is_left_out_is_not_read(exported: tuple[Source, OnnxEngine]) -> None:
    """A hole in the mask, as `engines.attribution` makes it, hides that token and nothing else."""
    source, engine = exported
    whole = batch(5, seed=6)
    hole = whole.attention_mask.copy()
    hole[hole.sum(axis=1) > 2, 1] = 0
    one = Batch(whole.pixel_values, whole.input_ids, hole)
    other = Batch(whole.pixel_values, np.where(hole == 1, whole.input_ids, 3), hole)
    assert (hole != whole.attention_mask).any()
    assert np.abs(engine.infer(one) - engine.infer(other)).max() < 1e-5
    with torch.no_grad():
        expected = source.model(*(torch.from_numpy(array) for array in (one.pixel_values, one.input_ids, hole))).numpy()
    assert np.abs(engine.infer(one) - expected).max() < 1e-4


@pytest.fixture(scope="module")
def exported_with_attributes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, OnnxEngine]:
    """Give a model that takes attributes and its exported twin."""
    source = tiny_families.source("blip", attributes=ATTRIBUTES)
    expected = manifest_of(source, attributes=ATTRIBUTES.columns)
    path = tmp_path_factory.mktemp("attributes") / "model.onnx"
    export.export(source.model, expected.inputs, path)
    return source, OnnxEngine(path, expected, threads=1)


def test_onnx_with_attributes_equals_torch(exported_with_attributes: tuple[Source, OnnxEngine]) -> None:
    """The same logits within 1e-4 with a fourth input, some of whose values are missing."""
    source, engine = exported_with_attributes
    engine.warm()
    for seed in range(3):
        assert export.check_parity(source.model, engine, seed=seed) < 1e-4


def test_engine_with_attributes_refuses_a_batch_without(exported_with_attributes: tuple[Source, OnnxEngine]) -> None:
    """A batch that lacks an input says which."""
    _, engine = exported_with_attributes
    with pytest.raises(InferenceFailed, match="no attributes"):
        engine.infer(batch(2, seed=6))


class LikesLight(nn.Module):
    """A model whose logit of a black picture is -inf."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return logits (B,)."""
        light: torch.Tensor = pixel_values.float().mean(dim=(1, 2, 3)).log()
        return self.model(pixel_values, input_ids, mask) + light


def test_assemble_publishes_nothing_that_no_scorer_could_warm_up(tmp_path: Path) -> None:
    """A graph without a logit for the black pictures of a warm-up is refused before anybody loads it."""
    source = tiny_families.source("clip")
    source = replace(source, model=LikesLight(source.model))
    with Progress(disable=True) as progress:
        catalog = gather_rendered(20, seed=1, image=source.image, progress=progress)
        held_out = HeldOut(catalog, source.encode(catalog), evaluate.hard_pairs(catalog, seed=1))
        with pytest.raises(InferenceFailed, match="finite"):
            assemble(source, [held_out], held_out, target=Target(0.5, 0.05), out=tmp_path / "out", progress=progress)
    assert not (tmp_path / "out").exists()


def test_assemble_publishes_a_release_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint with a tokenizer of its own, and weights in a file of their own, runs from its release.

    It has learned nothing: its manifest and its report say that the target is out of reach.
    """
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1000)  # bytes
    source = tiny_families.source("clip")
    with Progress(disable=True) as progress:
        catalog = gather_rendered(60, seed=1, image=source.image, progress=progress)
        texts = encode(catalog, Tokenizer(source.tokenizer, source.text))
        held_out = HeldOut(catalog, texts, evaluate.hard_pairs(catalog, seed=1))
        release = assemble(source, [held_out], held_out, target=Target(0.5, 0.05), out=tmp_path, progress=progress)
    manifest = releases.verify(release)
    assert "model.onnx.data" in manifest.files
    page = (tmp_path / f"{release.name}-report" / "index.html").read_text(encoding="utf-8")
    assert manifest.metrics["thresholds"]["out_of_reach"]["best_precision"] < 0.5
    assert "precision 0.50 is out of reach" in page
    ids, mask = load_tokenizer(release).encode(["title: red mug"])
    pixels = np.full((1, 3, tiny_families.SIZE, tiny_families.SIZE), 200, dtype=np.uint8)
    with torch.no_grad():
        expected = source.model(*(torch.from_numpy(array) for array in (pixels, ids, mask)))
    assert np.abs(load(release, threads=1).infer(Batch(pixels, ids, mask)) - expected.numpy()).max() < 1e-4
