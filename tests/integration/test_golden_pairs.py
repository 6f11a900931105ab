"""Golden pairs for a release that was made without: the same model under another name, which is asked from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engines import golden, releases
from engines.build import golden_pairs
from engines.errors import ReleaseRefused
from engines.runtime import loader
from streamer.policy import Policy
from tests import tiny_release

if TYPE_CHECKING:
    from pathlib import Path


def test_release_made_without_golden_pairs_is_given_them(tmp_path: Path) -> None:
    """It scores as it did; a release with other weights in its place is refused now."""
    before = tiny_release.write(tmp_path / "made", with_golden=False)
    after = golden_pairs.add(before, tmp_path / "out")
    old, new = releases.read_manifest(before), releases.verify(after)
    assert old.release != new.release
    assert Policy(old).model == Policy(new).model
    engine, tokenizer = loader.load_checked(after, threads=1)
    pairs = golden.read(after, engine.manifest)
    assert pairs is not None
    assert len(pairs.pairs) == golden.PAIRS
    engine.close()
    other = loader.load(tiny_release.write(tmp_path / "made", bias=1.0, with_golden=False), threads=1)
    with pytest.raises(ReleaseRefused):
        golden.check(other, tokenizer, pairs)
