"""The whole loop, small: real workers and topics, labels, a retraining, the gate opened wide, a swap under load."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from engines.build import tracking
from streamer.loop.display import PHASES

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 600
"""Far above the three minutes that it takes on two cores, for a machine that is busy with something else."""


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 60)
def test_loop_goes_round_once_and_loses_nothing(tmp_path: Path) -> None:
    """A challenger is trained on what people said, promoted, tracked and swapped in; each update is judged once."""
    command = [sys.executable, "-m", "streamer.cli", "loop", "--fast", "--json", "--report", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as loop:
        try:
            out, errors = loop.communicate(timeout=TIMEOUT_S)
        finally:
            loop.terminate()  # it then ends all that it has started
    assert loop.returncode == 0, errors
    told = json.loads(out.splitlines()[-1])
    assert (told["lost"], told["doubled"]) == (0, 0)
    assert told["superseded"] < 0.1 * told["published"]  # load that only overtakes itself is none
    assert set(told["recalls"]) == {"new", "old"}
    assert told["labels"] > 0
    assert set(told["seconds"]) == set(told["cpu_seconds"]) == set(PHASES)
    assert told["challenger"] not in {None, told["champion"]}
    registry = tmp_path / "runs/mlruns/models" / tracking.REGISTERED
    (alias,) = (registry / "aliases").iterdir()
    assert alias.name == tracking.CHAMPION
    assert (registry / f"version-{alias.read_text()}/tags/release").read_text() == told["challenger"]
    (card,) = tmp_path.glob("runs/*/card/index.html")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert str(card.relative_to(tmp_path)) in page
    assert told["challenger"] in page
    assert told["challenger"] in (tmp_path / "scorer.log").read_text(encoding="utf-8")
