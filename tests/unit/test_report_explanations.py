"""`engines.build.report`: why the alerts that a page shows are some, and where their pictures contradict them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.progress import Progress

from engines.build.report import EXAMPLES, Assessment, explain, write_report
from engines.build.report.audit import Facts, Judged, write_audit
from engines.build.report.page import Explanation, card
from engines.heat import GRID
from tests.fakes import MindfulEngine, WordTokenizer
from tests.unit.test_quality_report import N, assessment

if TYPE_CHECKING:
    from pathlib import Path

FALSE_ALARM = 7
ALERTING = 0.9


@pytest.fixture(scope="module")
def assessed() -> Assessment:
    """Return answers with one false alarm, about pictures that are red in the middle."""
    made = assessment()
    pixels = np.zeros_like(made.catalog.pixel_values)
    pixels[:, 0, 1:-1, 1:-1] = 255
    probabilities = made.probabilities.copy()
    probabilities[FALSE_ALARM] = ALERTING
    return replace(made, catalog=replace(made.catalog, pixel_values=pixels), probabilities=probabilities)


@pytest.fixture(scope="module")
def explanations(assessed: Assessment) -> dict[int, Explanation]:
    """Return what an engine says that minds the number in a title."""
    with Progress(disable=True) as progress:
        return explain(assessed, MindfulEngine(), WordTokenizer(), progress)  # type: ignore[arg-type]


def test_explain_names_the_claim_of_false_alarms_and_of_what_was_found(
    assessed: Assessment, explanations: dict[int, Explanation]
) -> None:
    """The false alarm and the surest dozen of both kinds; what does not alert accuses nobody."""
    assert all(assessed.probabilities[row] >= 0.5 for row in explanations)
    assert len(explanations) == 1 + 2 * EXAMPLES
    assert explanations[FALSE_ALARM].contradicts == f"title: {FALSE_ALARM}"
    assert all(one.contradicts == f"title: {row % N}" for row, one in explanations.items())


def test_explain_finds_a_heat_map_for_the_first_of_each_kind(explanations: dict[int, Explanation]) -> None:
    """They are dear: one for the false alarms, one for easy wrong pictures, one for hard ones."""
    warm = [row for row, one in explanations.items() if one.heat is not None]
    assert [row // N for row in sorted(warm)] == [0, 1, 2]


def test_explain_where_nothing_alerts_asks_nothing(assessed: Assessment) -> None:
    """An engine that believes everything has a report, too."""
    calm, engine = replace(assessed, probabilities=np.full_like(assessed.probabilities, 0.1)), MindfulEngine()
    with Progress(disable=True) as progress:
        assert explain(calm, engine, WordTokenizer(), progress) == {}  # type: ignore[arg-type]
    assert engine.batches == []


def test_report_shows_what_is_contradicted_and_where(
    assessed: Assessment, explanations: dict[int, Explanation], tmp_path: Path
) -> None:
    """Beside each alert stand its words; a heat map can be taken away, and every picture says what it is."""
    page = write_report(assessed, explanations, tmp_path).read_text(encoding="utf-8")
    for section in ("suspects", "easy", "hard"):
        shown = page.split(f'<section id="{section}">')[1].split("</section>", maxsplit=1)[0]
        assert shown.count('<img class="heat" src="data:image/png;base64,') == 1
        assert shown.count('type="checkbox"') == 1
        assert shown.count("contradicts title: ") == (1 if section == "suspects" else EXAMPLES)
    assert all(re.search(r'alt="[^"]+"', image) for image in re.findall(r"<img[^>]*>", page))


def audit_page(assessed: Assessment, explained: int, out: Path) -> str:
    """Return the page of an audit that has found two alerts."""
    listed = [Judged(str(n), "mug", "mugs", 0.9, alert=n < 2, contradicts="color: navy", fold=0) for n in range(3)]
    heat = np.ones((GRID, GRID), dtype=np.float32)
    cards = [card(assessed.catalog, n, n, 0.9, Explanation("color: <navy>", heat if n == 0 else None)) for n in (0, 1)]
    return write_audit(listed, cards, Facts("shop", 2, explained), out).read_text(encoding="utf-8")


def test_audit_page_shows_fields_and_heat_maps(assessed: Assessment, tmp_path: Path) -> None:
    """Words are a shop's, and text whatever stands in them."""
    page = audit_page(assessed, 10, tmp_path)
    assert page.count("contradicts color: &lt;navy&gt;") == 2
    assert page.count('<img class="heat"') == 1


@pytest.mark.parametrize(("explained", "said"), [(2, False), (1, True)])
def test_audit_page_says_where_alerts_were_not_explained(
    assessed: Assessment, explained: int, said: bool, tmp_path: Path
) -> None:
    """Nobody takes an alert beyond the bound for one that nothing can be said of."""
    assert ("most suspicious of its fold" in audit_page(assessed, explained, tmp_path)) == said
