"""`engines.build.sources`: work of other code is known by its digest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engines.build import sources

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a folder that stands for the package."""
    (tmp_path / "models").mkdir()
    for name in ("mining.py", "views.py", "cli.py", "models/compact.py"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(sources, "_HERE", tmp_path)
    sources.digest.cache_clear()
    yield tmp_path
    sources.digest.cache_clear()


@pytest.mark.parametrize(
    ("changed", "of_all", "of_views"),
    [
        ("mining.py", True, False),
        ("models/compact.py", True, False),
        ("views.py", True, True),
        ("cli.py", False, False),
    ],
)
def test_digest_changes_with_the_code_that_results_follow_from(
    code: Path, changed: str, *, of_all: bool, of_views: bool
) -> None:
    """A model, a miner; features only with what reads pictures; a help text changes nothing."""
    before = sources.digest(), sources.digest("views.py")
    sources.digest.cache_clear()
    (code / changed).write_text("other")
    after = sources.digest(), sources.digest("views.py")
    assert [one != other for one, other in zip(before, after, strict=True)] == [of_all, of_views]


def test_digest_of_the_package_covers_what_trains() -> None:
    """The names stand for files that are there."""
    here = Path(sources.__file__).parent
    for name in ("features.py", "views.py", "models/backbones.py", "models/palette.py", "finetune.py", "mining.py"):
        assert (here / name).is_file()
        assert sources.digest(name) != sources.digest()
