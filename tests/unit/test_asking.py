"""`engines.build.asking`: what an engine has said of a product is kept, and not asked again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.progress import Progress

from engines.build import asking
from engines.build.asking import Asking
from engines.build.audit import ranked
from engines.build.listing import Listing, list_folder
from engines.errors import InferenceFailed
from engines.heat import GRID
from tests.fakes import MindfulEngine, WordTokenizer, png

if TYPE_CHECKING:
    from pathlib import Path

    from engines.contract import Engine
    from engines.text import Tokenizer

REDS = (0, 200, 210, 220, 230)
RED = (1, 2, 3, 4)
NAVY = "color: navy"


class Bench:
    """A shop of navy mugs, whose pictures are as red as `REDS`; `opened` counts how often the engine was needed."""

    def __init__(self, folder: Path) -> None:
        lines = []
        for number, red in enumerate(REDS):
            (folder / f"{number}.png").write_bytes(png(red))
            lines.append({"id": str(number), "title": "mug", "color": "navy", "image_link": f"{number}.png"})
        (folder / "catalog.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        self.engine = MindfulEngine()
        self.opened = 0
        self._folder = folder
        self.asking = self.of("one")

    def of(self, digest: str) -> Asking:
        """Return the questions of an audit."""
        progress = Progress(disable=True)
        return Asking(0, self._listing(progress), self._folder / "work", digest, self._open, progress)

    def pairs_asked(self) -> int:
        """Return how many pairs the engine was asked about since the last call."""
        count = sum(self.engine.batches)
        self.engine.batches.clear()
        return count

    def _listing(self, progress: Progress) -> Listing:
        return list_folder(self._folder, progress)

    def _open(self) -> tuple[Engine, Tokenizer]:
        self.opened += 1
        return self.engine, WordTokenizer()  # type: ignore[return-value]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a shop whose products are explained two at a time."""
    monkeypatch.setattr(asking, "EXPLAINED_AT_ONCE", 2)
    return Bench(tmp_path)


def test_judged_says_of_each_product_whether_it_alerts(bench: Bench) -> None:
    """In the order of the rows; once it is known, no engine is opened."""
    rows = range(len(REDS))
    judged = bench.asking.judged(rows)
    assert [(one.id, one.alert) for one in judged] == [(str(n), n in RED) for n in rows]
    assert bench.asking.judged(rows) == judged


def test_judged_tells_apart_what_is_all_but_sure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probabilities that a list shows as 1 still rank, and are read back as they were."""
    sure = 1 - np.array([1e-8, 1e-9, 1e-7, 1e-10, 0.5])
    monkeypatch.setattr(asking.Inquiry, "probabilities", lambda *_: sure)
    judged = bench.asking.judged(range(len(REDS)))
    assert ranked(judged) == [3, 1, 0, 2, 4]
    assert bench.asking.judged(range(len(REDS))) == judged
    assert bench.opened == 1


def test_explained_names_what_every_alert_contradicts(bench: Bench) -> None:
    """However many there are; the engine is opened once for all parts."""
    assert bench.asking.explained(RED) == [NAVY] * len(RED)
    assert bench.opened == 1


def test_explained_that_was_cut_goes_on_behind_what_is_kept(bench: Bench) -> None:
    """The part that failed is asked again, the one before it is not."""
    bench.engine.poison = REDS[3]
    with pytest.raises(InferenceFailed):
        bench.asking.explained(RED)
    bench.pairs_asked()
    bench.engine.poison = None
    assert bench.asking.explained(RED) == [NAVY] * len(RED)
    assert bench.pairs_asked() == 2 * 2  # two pairs, and each without its color


def test_explained_further_asks_about_the_further_alerts_only(bench: Bench) -> None:
    """Who wants more of them explained than the last time does not pay for those again."""
    bench.asking.explained(RED[:2])
    bench.pairs_asked()
    assert bench.asking.explained(RED) == [NAVY] * len(RED)
    assert bench.pairs_asked() == 2 * 2


def test_explained_of_other_products_is_not_what_was_kept(bench: Bench) -> None:
    """Where judging has changed the order, the answers of the old one are no answers."""
    assert bench.asking.explained((1, 2)) == [NAVY, NAVY]
    assert bench.asking.explained((1, 0)) == [NAVY, ""]


def test_asking_another_audit_knows_nothing_of_the_first(bench: Bench) -> None:
    """Its engine may be another."""
    bench.asking.explained(RED[:2])
    bench.of("two").explained(RED[:2])
    assert bench.opened == 2


def test_heat_maps_are_kept_and_there_is_none_without_a_contradiction(bench: Bench) -> None:
    """The picture of a black mug contradicts nothing, so nothing in it can be warm."""
    red, black = bench.asking.heat_maps((4, 0))
    assert black is None
    assert red is not None
    assert red.shape == (GRID, GRID)
    again, _ = bench.asking.heat_maps((4, 0))
    assert again is not None
    assert np.array_equal(again, red)
    assert bench.opened == 1
