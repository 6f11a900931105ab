"""`engines.build.reach`: a precision that no threshold reaches, and why."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from engines.build.reach import Shortfall, shortfall
from engines.build.thresholds import Scored, Target


def judged(wrong_share: float, *, told: bool = True) -> Scored:
    """Return 1,000 matches, of which a share is wrong and looks so, and 1,000 mismatches that all look so, or none."""
    errors = round(1000 * wrong_share)
    scores = np.concatenate([np.full(errors, 0.9), np.full(1000 - errors, 0.1), np.full(1000, 0.9 if told else 0.1)])
    labels = np.repeat([0, 1], 1000)
    return Scored(scores, labels, np.full(2000, ""), np.arange(2000), np.ones(2000))


def test_shortfall_of_a_sound_catalogue_is_none() -> None:
    """One wrong pair in a hundred leaves room for the target."""
    assert shortfall(judged(0.01), Target(0.5, 0.05)) is None


def test_shortfall_names_the_share_of_own_pairs_that_explains_it() -> None:
    """An engine without a fault reaches 0.34 where a tenth of the catalogue is wrong, and says which share it is."""
    found = shortfall(judged(0.1), Target(0.5, 0.05))
    assert found is not None
    assert found.best == pytest.approx(0.05 / (0.05 + 0.95 * 0.1))
    assert found.wrong_share == pytest.approx(0.1)
    assert "e = 10.0 % allows" in found.words().replace("%", " %")
    assert found.as_dict()["best_precision"] == 0.3448


def test_shortfall_is_not_hidden_by_one_lucky_pair() -> None:
    """The one wrong picture that stands before all errors of the catalogue makes no threshold."""
    pairs = judged(0.1)
    pairs.scores[-1] = 0.95
    found = shortfall(pairs, Target(0.5, 0.05))
    assert found is not None
    assert found.best == pytest.approx(0.3448, abs=1e-3)


def test_shortfall_where_nothing_is_told_apart_does_not_blame_the_catalogue() -> None:
    """Nobody believes that all of a catalogue is wrong."""
    found = shortfall(judged(0.0, told=False), Target(0.5, 0.05))
    assert found is not None
    assert found.best == pytest.approx(0.05)
    assert "p / (p" not in found.words()
    assert "more epochs" in found.words()


def test_shortfall_is_readable_above_a_progress_bar() -> None:
    """What brackets and numbers it has is not taken for markup."""
    shown = io.StringIO()
    with Progress(console=Console(file=shown, width=60)) as progress:
        progress.console.print(Shortfall(0.5, 0.05, 0.34).words(), highlight=False, soft_wrap=True)
    assert "p / (p + (1 - p) e)" in shown.getvalue()
