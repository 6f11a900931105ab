"""Cheap statistics of what an engine is given."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from engines.runtime import loader
from streamer.features import features_of
from streamer.pairs import Pair
from tests import tiny_release


def pair(pixels: np.ndarray, ids: list[int], read: int) -> Pair:
    """Return a pair whose first tokens are read."""
    mask = np.array([1] * read + [0] * (len(ids) - read), np.int32)
    return Pair(pixels.astype(np.uint8), np.array(ids, np.int32), mask)


def test_features_tell_a_white_picture_from_a_red_one() -> None:
    """Brightness, contrast and saturation, each 0..1."""
    white = features_of(pair(np.full((3, 64, 64), 255), [5, 6], 2), None)
    assert (white.brightness, white.contrast, white.saturation) == (1.0, 0.0, 0.0)
    red = np.zeros((3, 64, 64))
    red[0] = 255
    told = features_of(pair(red, [5, 6], 2), None)
    assert told.brightness == pytest.approx(1 / 3, abs=1e-3)
    assert told.contrast == pytest.approx(np.sqrt(2) / 3, abs=1e-3)
    assert told.saturation == 1.0


def test_features_count_tokens_that_are_read_and_those_that_nobody_knows() -> None:
    """Padding is neither, though it may have the id of unknown words."""
    told = features_of(pair(np.zeros((3, 8, 8)), [7, 1, 9, 1, 1, 1], 4), 1)
    assert (told.tokens, told.unknown_share) == (4, 0.5)
    assert features_of(pair(np.zeros((3, 8, 8)), [7, 1, 9, 1], 4), None).unknown_share == 0.0
    assert features_of(pair(np.zeros((3, 8, 8)), [7, 1], 0), 1).unknown_share == 0.0


def test_features_of_pictures_smaller_than_a_step_are_finite() -> None:
    """The tiniest engine's."""
    told = msgspec.to_builtins(features_of(pair(np.full((3, 4, 4), 9), [1], 1), None))
    assert all(np.isfinite(value) for value in told.values())


def test_tokenizer_says_which_token_stands_for_unknown_words(tmp_path: object) -> None:
    """The shipped one has one; a word that is not in a vocabulary of words becomes it."""
    tokenizer = loader.load_tokenizer()
    assert tokenizer.unknown_id is not None
    tiny = loader.load_tokenizer(tiny_release.write(tmp_path))  # type: ignore[arg-type]
    ids, mask = tiny.encode(["title: mug xylophone"])
    assert ids[0][mask[0] == 1].tolist().count(tiny.unknown_id) == 1
