"""`engines.build.tagging` and its model: words that pictures teach, and what a picture denies of a text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engines.build.models.tagger import Tagger
from engines.build.tagging import frequent_tokens, train_tagger
from engines.build.texts import Texts

pytestmark = pytest.mark.usefixtures("one_torch_thread")

RED, BLUE, MUG, BRAND, RARE = 11, 12, 13, 14, 15
N, WIDTH = 60, 4


def texts() -> Texts:
    """Return texts of red and blue mugs, every third of a brand that no picture shows, one with a word of its own."""
    ids = np.zeros((N, 5), dtype=np.int32)
    for i in range(N):
        ids[i, :2] = (RED, BLUE)[i % 2], MUG
        ids[i, 2] = BRAND if i % 3 == 0 else 0
    ids[0, 3] = RARE
    return Texts(ids, (ids > 0).astype(np.int32))


def trained(seed: int = 0) -> tuple[Tagger, np.ndarray]:
    """Return a tagger of the frequent words, and the words."""
    tokens = frequent_tokens(texts())
    pictures = torch.zeros(N, 2, WIDTH)
    pictures[0::2, :, 0] = pictures[1::2, :, 1] = 1.0
    torch.manual_seed(seed)
    tagger = Tagger(WIDTH, len(tokens), vocabulary=20)
    train_tagger(tagger, tokens, pictures, np.arange(N), texts(), epochs=300, seed=seed, on_step=lambda: None)
    return tagger, tokens


def denied(tagger: Tagger, picture: int, *tokens: int, mask: tuple[int, ...] | None = None) -> torch.Tensor:
    """Return what a red (0) or blue (1) picture denies of a text of these tokens, (2,)."""
    shown = torch.eye(WIDTH)[[picture]]
    real = torch.tensor([mask or (1,) * len(tokens)])
    with torch.no_grad():
        return tagger.denial(tagger(shown), torch.tensor([tokens], dtype=torch.int32), real)[0]


def test_frequent_tokens_leave_out_what_few_or_nearly_all_texts_say() -> None:
    """A word that one text has cannot be learned; one that stands everywhere tells nothing; padding is no word."""
    assert frequent_tokens(texts()).tolist() == [RED, BLUE, BRAND]


def test_tagger_denies_the_word_that_contradicts_its_picture() -> None:
    """Blue under a red picture is denied, red is not, and a brand hardly; each word counts once."""
    tagger, _ = trained()
    right, wrong, brand = denied(tagger, 0, RED), denied(tagger, 0, BLUE), denied(tagger, 0, BRAND)
    assert right[0] < 0
    assert wrong[0] > 1
    assert abs(brand[0]) < 0.7 < wrong[0]
    assert wrong[1] == pytest.approx(float(wrong[0]))
    assert torch.equal(denied(tagger, 0, BLUE, BLUE, MUG), wrong)


def test_tagger_does_not_read_what_is_masked() -> None:
    """A word that is left out, as when an alert is explained, is not denied."""
    tagger, _ = trained()
    assert torch.equal(denied(tagger, 0, RED, BLUE, mask=(1, 0)), denied(tagger, 0, RED))


def test_tagger_of_the_same_seed_is_the_same() -> None:
    """Training draws from its seed alone."""
    torch.testing.assert_close(denied(trained(1)[0], 0, BLUE), denied(trained(1)[0], 0, BLUE))
