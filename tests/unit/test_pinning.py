"""`streamer.pinning`: what a retraining reads of the label data set, and what it cannot."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from engines.catalogs import judged
from streamer.dataset import LabelDataset
from streamer.labels import Joined
from streamer.pinning import items_of, pin
from tests.review import IMAGE_SHA256, ITEM, PICTURE, item, label

if TYPE_CHECKING:
    from pathlib import Path


def test_item_whose_picture_is_gone_is_left_out_and_told(tmp_path: Path) -> None:
    """A retraining that learns from fewer labels than people have given says so."""
    dataset = LabelDataset(str(tmp_path / "labels"))
    other = item("mug-red", picture=b"another picture")
    verdicts = [Joined(label(ITEM, reviewer=name), ITEM) for name in ("ana", "ben")] + [Joined(label(other), other)]
    dataset.keep(other.image_sha256, lambda: b"another picture")
    dataset.write({one.key: one for one in verdicts})
    with capture_logs() as told:
        pinned = pin(dataset, "labels", tmp_path / "pinned", lambda _, __: None)
    assert (pinned.items, pinned.verdicts, pinned.left_out) == (1, 1, 1)
    assert [one.product_id for one in judged.read_judged(tmp_path / "pinned")] == ["mug-red"]
    assert [(one["event"], one["items"]) for one in told] == [("labels.left_out", 1)]
    dataset.keep(IMAGE_SHA256, lambda: PICTURE)
    with capture_logs() as told:
        pinned = pin(dataset, "labels", tmp_path / "pinned", lambda _, __: None)
    assert (pinned.items, pinned.left_out, told) == (2, 0, [])
    assert judged.read_pinned(tmp_path / "pinned") == pinned


def test_item_that_was_drawn_again_between_verdicts_has_its_greatest_chance(tmp_path: Path) -> None:
    """Whoever judged it first: draws are by one hash, so that is how likely people were to see it."""
    for number, chances in enumerate(permutations((("audit", 0.1), ("audit", 0.4), ("alert", 1.0)), 2)):
        dataset = LabelDataset(str(tmp_path / str(number)))
        for reviewer, (sampled, chance) in zip(("ana", "ben"), chances, strict=True):
            drawn = item(sampled=sampled, sampling_probability=chance)
            said = Joined(label(drawn, reviewer=reviewer), drawn)
            dataset.write({said.key: said})
        (found,) = items_of(dataset.rows(dataset.version or 0))
        assert (found.sampled, found.sampling_probability) == max(chances, key=lambda drawn: drawn[1])
        assert found.mismatches == 2
