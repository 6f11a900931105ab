"""An exported graph reproduces its source: in every batch size, and each pair whoever stands beside it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import torch

from engines.build import export
from engines.build.models.small import SmallConfig, SmallFusion
from engines.contract import Batch, ImageSpec, TextSpec
from engines.errors import ParityExceeded
from engines.runtime.onnx import OnnxEngine
from tests.fakes import manifest

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = ImageSpec(height=32, width=32)
TEXT = TextSpec(max_tokens=8, fields=("title",))


MANIFEST = manifest(inputs=export.input_specs(IMAGE, TEXT), image=IMAGE, text=TEXT)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallFusion, OnnxEngine]:
    """Give a random model and its exported twin."""
    torch.manual_seed(0)
    config = SmallConfig(150, 32, 8, channels=(4, 8, 8, 16), width=16, layers=2, heads=2)
    model = SmallFusion(config).eval()
    path: Path = tmp_path_factory.mktemp("export") / "model.onnx"
    export.export(model, MANIFEST.inputs, path)
    return model, OnnxEngine(path, MANIFEST, threads=1)


def random_batch(size: int) -> Batch:
    """Return random pairs whose texts have different lengths."""
    generator = np.random.default_rng(size)
    return Batch(
        pixel_values=generator.integers(0, 256, (size, 3, 32, 32), dtype=np.uint8),
        input_ids=generator.integers(1, 100, (size, 8), dtype=np.int32),
        attention_mask=(np.arange(8) <= generator.integers(1, 8, (size, 1))).astype(np.int32),
    )


@pytest.mark.parametrize("size", [1, 2, 5])
def test_onnx_equals_torch(pair: tuple[SmallFusion, OnnxEngine], size: int) -> None:
    """The same logits within 1e-4, whatever the batch size."""
    model, engine = pair
    batch = random_batch(size)
    with torch.no_grad():
        expected = cast(
            "torch.Tensor",
            model(
                torch.from_numpy(batch.pixel_values),
                torch.from_numpy(batch.input_ids),
                torch.from_numpy(batch.attention_mask),
            ),
        )
    assert np.abs(engine.infer(batch) - expected.numpy()).max() < 1e-4


def test_batched_equals_single(pair: tuple[SmallFusion, OnnxEngine]) -> None:
    """A pair's logit does not depend on the pairs beside it."""
    _, engine = pair
    batch = random_batch(6)
    single = [
        engine.infer(Batch(batch.pixel_values[i : i + 1], batch.input_ids[i : i + 1], batch.attention_mask[i : i + 1]))
        for i in range(6)
    ]
    assert np.abs(engine.infer(batch) - np.concatenate(single)).max() < 1e-5


def test_padding_does_not_change_the_logit(pair: tuple[SmallFusion, OnnxEngine]) -> None:
    """What stands behind the mask is not read."""
    _, engine = pair
    batch = random_batch(3)
    other = Batch(batch.pixel_values, np.where(batch.attention_mask == 1, batch.input_ids, 7), batch.attention_mask)
    assert np.abs(engine.infer(batch) - engine.infer(other)).max() < 1e-5


def test_check_parity_sees_every_word_of_the_vocabulary(pair: tuple[SmallFusion, OnnxEngine]) -> None:
    """A graph that is wrong in some of the words is refused, though it is right in the first hundred."""
    model, engine = pair
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.words.weight[100:] += 1
    assert export.check_parity(other, engine) < 1e-4
    with pytest.raises(ParityExceeded, match="differ by"):
        export.check_parity(other, engine, words=model.config.vocabulary_size)


def test_check_parity_of_another_model_is_exceeded(pair: tuple[SmallFusion, OnnxEngine]) -> None:
    """A graph of other weights is refused."""
    model, engine = pair
    assert export.check_parity(model, engine) < 1e-4
    torch.manual_seed(1)
    with pytest.raises(ParityExceeded, match="differ by"):
        export.check_parity(SmallFusion(model.config).eval(), engine)
