"""The demo's report page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from PIL import Image

from streamer.demo.charts import precision_recall_chart, score_histogram
from streamer.demo.evaluation import precision_recall
from streamer.demo.report import MAX_CARDS, Report, highlight, thumbnail
from streamer.demo.summary import RunFacts
from streamer.events import Contradiction
from tests.unit.demo_records import Run, products

if TYPE_CHECKING:
    from pathlib import Path

FACTS = RunFacts(
    options=["--events", "3"], catalogue="mugs & more", broker="embedded broker", seed=1, ready_s=1.0, started_ms=0
)


def _run_of(caught: int) -> Run:
    run = Run()
    for number in range(caught):
        run.score(run.publish(f"mug-{number}-red", kind="swapped", shown_id=f"mug-{number}-blue"), 0.9)
    run.score(run.publish("mug-0-green", kind="swapped", shown_id="mug-0-black"), 0.2)
    run.score(run.publish("mug-0-black"), 0.8)
    run.reject(run.publish("mug-0-blue", order=None, kind="malformed_json"), "malformed_json")
    run.raise_alerts()
    return run


def _write(run: Run, folder: Path, groups: int = 1, heat: dict[tuple[str, str], str] | None = None) -> str:
    catalogue = {item.id: item for item in products(groups * 4)}
    for item in catalogue.values():
        Image.new("RGB", (300, 200), (90, 120, 30)).save(folder / item.picture)
    return Report(run.evaluation, catalogue, folder, FACTS, heat).write(folder / "report").read_text("utf-8")


def test_report_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    """Opened from a disk without a network, the page is whole."""
    page = _write(_run_of(1), tmp_path)
    assert not re.findall(r'(?:src|href)="(?!data:image/jpeg;base64,|#)', page)
    assert "url(http" not in page
    assert "<script" not in page


def test_report_product_text_is_escaped(tmp_path: Path) -> None:
    """Product text is somebody else's: its angle brackets stay text, marked words or not."""
    page = _write(_run_of(1), tmp_path)
    assert "<mark>Red</mark> mug &lt;0&gt;" in page
    assert "<0>" not in page
    assert "mugs &amp; more" in page


def test_report_shows_caught_missed_and_false(tmp_path: Path) -> None:
    """Each has its section with its cards."""
    page = _write(_run_of(1), tmp_path)
    sections = {m[1]: m[2] for m in re.finditer(r'<section id="(\w+)">(.*?)</section>', page, re.DOTALL)}
    assert "mug-0-red" in sections["caught"]
    assert "mug-0-green" in sections["missed"]
    assert "mug-0-black" in sections["false"]
    assert "malformed_json in words" in sections["outcomes"]


def test_report_names_the_field_and_says_whether_it_is_the_wrong_one(tmp_path: Path) -> None:
    """Beside each alert; the share of true alerts that are right stands at the top, and a heat map over its picture."""
    run = Run()
    for number, (field, value) in enumerate((("color", "<Red>"), ("capacity", "0.3 l"))):
        named = (Contradiction(field=field, value=value, share=0.876),)
        source = run.publish(f"mug-{number}-red", kind="swapped", shown_id=f"mug-{number}-blue")
        run.score(source, 0.9, contradicts=named)
    run.raise_alerts()
    heat = {("mug-0-red", "mug-0-blue"): "data:image/png;base64,AAAA"}
    page = _write(run, tmp_path, groups=2, heat=heat)
    assert "<b>color: &lt;Red&gt;</b> <span>88 % of the case, right</span>" in page
    assert "88 % of the case, wrong" in page
    assert "1 of 2 true alerts" in page
    assert page.count('<img class="heat" src="data:image/png;base64,AAAA" alt="where it contradicts color">') == 1


def test_report_many_alerts_are_capped(tmp_path: Path) -> None:
    """A page of thousands of pictures would not open: the first are shown, and how many there are is said."""
    page = _write(_run_of(MAX_CARDS + 5), tmp_path, groups=MAX_CARDS + 5)
    assert page.count('<article class="card">') == MAX_CARDS + 2
    assert f"{MAX_CARDS + 5}, {MAX_CARDS} shown" in page


def test_report_run_without_scores_is_written(tmp_path: Path) -> None:
    """A run in which nothing was scored still has its page."""
    run = Run()
    run.reject(run.publish("mug-0-red", order=None, kind="malformed_json"), "malformed_json")
    assert "Nothing was scored" in _write(run, tmp_path)


def test_highlight_longest_phrase_wins_and_words_stay_whole() -> None:
    """`set of 2` is marked, `settle` and `red` in `tailored` are not."""
    marked = highlight("Settle: Set of 2 tailored <b>", ("set", "set of 2", "red"))
    assert marked == "Settle: <mark>Set of 2</mark> tailored &lt;b&gt;"


def test_thumbnail_is_small_and_a_data_url(tmp_path: Path) -> None:
    """The picture travels inside the page."""
    Image.new("RGBA", (900, 600)).save(tmp_path / "big.png")
    url = thumbnail(tmp_path / "big.png", 64)
    assert url.startswith("data:image/jpeg;base64,")
    assert len(url) < 2000


def test_charts_are_well_formed_and_take_the_page_colour() -> None:
    """Both are SVG elements that can stand in HTML, and the same twice."""
    verdicts = _run_of(3).evaluation.verdicts
    curve = precision_recall(verdicts)
    assert curve is not None
    for chart in (score_histogram(verdicts), precision_recall_chart(curve, 0.75, 0.75)):
        assert ET.fromstring(chart).tag.endswith("svg")
        assert "currentColor" in chart
    assert score_histogram(verdicts) == score_histogram(verdicts)
