"""`engines.build.models.novelty`: words of a text that no single known text has."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the extra train: pip install '.[train]'")

import torch

from engines.build.models import novelty
from engines.build.models.novelty import Novelty

KNOWN = torch.tensor([[5, 6, 7, 6], [5, 8, 9, 0]], dtype=torch.int32)
SAID = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]], dtype=torch.int32)


def model() -> Novelty:
    """Return one that knows two texts."""
    made = Novelty(2, 4, 20)
    made.know(KNOWN, SAID)
    return made


@pytest.mark.parametrize(
    ("text", "mask", "expected"),
    [
        ([5, 6, 7, 6], [1, 1, 1, 1], 0),
        ([5, 6, 7, 3], [1, 0, 1, 0], 0),  # the first, with one word left out, and another behind the mask
        ([0, 0, 0, 0], [1, 0, 0, 0], 1),  # what pads known texts is no word of theirs
        ([7, 8, 9, 0], [1, 1, 1, 0], 1 / 3),  # all words are known, of two texts
        ([3, 3, 3, 5], [1, 1, 1, 1], 1 / 2),  # each word counts once
    ],
)
def test_share_is_of_words_that_no_single_known_text_has(text: list[int], mask: list[int], expected: float) -> None:
    """Words may be left out of what is known, and what stands behind the mask is not read."""
    asked = torch.tensor([text], dtype=torch.int32), torch.tensor([mask], dtype=torch.int32)
    torch.testing.assert_close(model().share(*asked), torch.tensor([float(expected)]))


def test_novelty_stays_within_what_was_weighed() -> None:
    """A text of another language is no newer than the newest held-out one, and one that was trained on no older."""
    made = model()
    made.bounds.copy_(torch.tensor([0.1, 0.4]))
    asked = torch.tensor([[5, 6, 7, 6], [11, 12, 13, 14], [5, 6, 7, 1]], dtype=torch.int32)
    torch.testing.assert_close(made(asked, torch.ones_like(asked)), torch.tensor([[0.1], [0.4], [0.25]]))


def test_what_is_learned_is_known_once_beside_what_was() -> None:
    """Texts all of whose words one known text has are not new."""
    made = model()
    texts = torch.tensor([[5, 6, 0, 0], [1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 3, 9]], dtype=torch.int32)
    made.learn(texts, (texts > 0).int())
    assert made.known.tolist() == [[5, 6, 21, 7], [5, 8, 9, 21], [1, 2, 3, 4], [1, 2, 3, 9]]
    assert made.share(texts, (texts > 0).int()).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("most", [1, 3, 4])
def test_where_too_many_are_known_those_of_before_make_room(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Of more new ones than there is room for, so many from end to end are known."""
    monkeypatch.setattr(novelty, "MOST_KNOWN", most)
    made = Novelty(0, 4, 20)
    made.know(KNOWN, SAID)
    new = torch.tensor([[1, 2, 3, 4], [10, 11, 12, 13], [14, 15, 16, 17]], dtype=torch.int32)
    made.learn(new, torch.ones_like(new))
    assert len(made.known) == most
    assert (made.share(new, torch.ones_like(new)) == 0).sum() == min(most, 3)
    assert (made.share(KNOWN, SAID) == 0).sum() == max(0, most - 3)
