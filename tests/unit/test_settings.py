"""What the environment may say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from streamer.errors import FatalError
from streamer.settings import load

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_settings_are_read_from_the_environment_and_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are read, the environment wins, and a variable that is not ours is nobody's business."""
    (tmp_path / ".env").write_text("STREAMER_FETCH__TIMEOUT_S=7\nSTREAMER_BROKER__GROUP=file\nOTHER=1\n")
    monkeypatch.setenv("STREAMER_BROKER__GROUP", "environment")
    settings = load()
    assert (settings.fetch.timeout_s, settings.broker.group) == (7.0, "environment")


@pytest.mark.parametrize("name", ["STREAMER_BROKR__GROUP", "STREAMER_BROKER__GRUOP", "STREAMER_FETCH__ATTEMPTS"])
def test_settings_that_no_section_reads_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt section, a misspelt name and a value out of range are named."""
    monkeypatch.setenv(name, "99")
    with pytest.raises(FatalError, match=name) as caught:
        load()
    assert caught.value.code == "settings_invalid"


def test_settings_cannot_be_changed() -> None:
    """They are read once."""
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.broker.group = "other"  # type: ignore[misc]
