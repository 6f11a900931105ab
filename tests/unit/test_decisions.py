"""`docs/adr`: one form of head for all decisions, and an index that has each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parents[2] / "docs/adr"
_HEAD = re.compile(
    r"# (\d+)\. ([^\n]+)\n\nStatus: \w[^\n]*, \d{4}-\d\d-\d\d\n\n## Context\n\n.+\n## Decision\n\n", re.DOTALL
)


@pytest.mark.parametrize("path", sorted(_FOLDER.glob("0*.md")), ids=lambda path: path.name[:4])
def test_decision_has_the_head_and_its_line_in_the_index(path: Path) -> None:
    """Number, status, date, context and decision stand where a reader looks, and the index names the title."""
    head = _HEAD.match(path.read_text())
    assert head is not None
    assert int(head[1]) == int(path.name[:4])
    assert f"\n{head[1]}. [{head[2]}]({path.name})\n" in (_FOLDER / "README.md").read_text()
