"""The whole loop, small: real workers and topics, labels, a retraining, the gate opened wide, a swap under load."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from streamer.loop.display import PHASES

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_loop_goes_round_once_and_loses_nothing(tmp_path: Path) -> None:
    """A challenger is trained on what people said, promoted, and swapped in; each update is judged once."""
    done = subprocess.run(
        [sys.executable, "-m", "streamer.cli", "loop", "--fast", "--json", "--report", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["lost"], told["doubled"]) == (0, 0)
    assert set(told["recalls"]) == {"new", "old"}
    assert told["labels"] > 0
    assert set(told["seconds"]) == set(told["cpu_seconds"]) == set(PHASES)
    assert told["challenger"] not in {None, told["champion"]}
    (card,) = tmp_path.glob("runs/*/card/index.html")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert str(card.relative_to(tmp_path)) in page
    assert told["challenger"] in page
    assert told["challenger"] in (tmp_path / "scorer.log").read_text(encoding="utf-8")
