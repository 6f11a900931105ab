"""The share of wrong pictures that figures are stated for is chosen, passed on, and said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from engines.build.cli import app
from engines.build.report.audit import Facts, Judged, write_audit

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = {
    "adapt": ["--prevalence", "0.02", "--precision", "0.8", "--shares", "0.4", "0.3", "0.3"],
    "audit": ["--prevalence", "0.02", "--precision", "0.8"],
}


@pytest.mark.parametrize("command", ["adapt", "audit"])
def test_commands_pass_the_prevalence_on(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the precision that is to be kept there, and the shares of the parts."""
    asked: list[dict[str, Any]] = []

    def record(*arguments: object, **options: object) -> Path:
        asked.append({"recipe": arguments[3], **options})
        return tmp_path

    monkeypatch.setattr(f"engines.build.{command}.{command}_folder", record)
    options = [command, str(tmp_path), "--out", str(tmp_path / "out"), *OPTIONS[command]]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    (one,) = asked
    assert (one["prevalence"], one["precision"]) == (0.02, 0.8)
    assert one["recipe"].shares == ((0.4, 0.3, 0.3) if command == "adapt" else (0.7, 0.15, 0.15))


def test_audit_says_for_which_share_of_wrong_pictures_it_expects_so_many(tmp_path: Path) -> None:
    """Half a per cent is not rounded to none."""
    listed = [Judged("1", "mug", "mugs", 0.9, alert=True, contradicts="", fold=0)]
    page = write_audit(listed, [], Facts("shop", 2, 0, prevalence=0.005), tmp_path).read_text(encoding="utf-8")
    assert "a catalogue in which 0.5 % of the pictures are wrong" in page
    assert "expected, if 0.5 % of all are wrong" in page
