"""`engines.golden`: a release is asked again what it was asked where it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from engines import golden, releases
from engines.contract import Batch
from engines.errors import EngineError
from engines.runtime import loader
from tests import tiny_release

if TYPE_CHECKING:
    from pathlib import Path


def test_golden_pairs_of_a_sound_release_are_answered_alike(tmp_path: Path) -> None:
    """Pictures and tokens come out of the file as they went in, so the same graph gives the same logits."""
    directory = tiny_release.write(tmp_path)
    engine, tokenizer = loader.load_checked(directory, threads=1)
    pairs = golden.read(directory, engine.manifest)
    assert golden.check(engine, tokenizer, pairs) < 1e-6
    assert pairs is not None
    assert len(pairs.pairs) == 3


def test_golden_pairs_fit_batches_of_any_cap(tmp_path: Path) -> None:
    """A worker's cap below the number of pairs splits them."""
    loader.load_checked(tiny_release.write(tmp_path), threads=1, max_batch=2)


@pytest.mark.parametrize(
    ("oddity", "code"),
    [
        ({"golden_bias": 0.5}, "golden_mismatch"),
        ({"golden_words": ("[PAD]", "mug", "title", ":", "red", "blue", "shoe")}, "tokenizer_mismatch"),
        ({"bias": float("nan")}, "inference_failed"),
        ({"bias": float("nan"), "with_golden": False}, "inference_failed"),
    ],
)
def test_release_that_answers_otherwise_is_refused(tmp_path: Path, oddity: dict[str, float], code: str) -> None:
    """Other weights, another tokenizer and weights that are no numbers have their digests right, and are found out."""
    directory = tiny_release.write(tmp_path, **oddity)  # type: ignore[arg-type]
    releases.verify(directory)
    with pytest.raises(EngineError) as caught:
        loader.load_checked(directory, threads=1)
    assert caught.value.code == code


def test_release_without_golden_pairs_is_asked_for_finite_answers(tmp_path: Path) -> None:
    """Releases of earlier versions can still be put to work."""
    engine, _ = loader.load_checked(tiny_release.write(tmp_path, with_golden=False), threads=1)
    assert np.isfinite(engine.infer(_one(engine.manifest.image.height, engine.manifest.text.max_tokens))).all()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"tolerance": 1, "pairs": []}'])
def test_golden_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    """A release whose golden pairs cannot be read is no release without them."""
    directory = tiny_release.write(tmp_path)
    (directory / releases.GOLDEN_FILE).write_bytes(content)
    with pytest.raises(EngineError) as caught:
        golden.read(directory, releases.read_manifest(directory))
    assert caught.value.code == "golden_invalid"


def _one(size: int, tokens: int) -> Batch:
    return Batch(
        pixel_values=np.zeros((1, 3, size, size), np.uint8),
        input_ids=np.zeros((1, tokens), np.int32),
        attention_mask=np.ones((1, tokens), np.int32),
    )
