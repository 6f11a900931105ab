"""`engines.build.report`: the page of an engine's quality."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from engines.build import evaluate, thresholds
from engines.build.dataset import Catalog, Product
from engines.build.evaluate import MATCH, Pairs
from engines.build.report import EXAMPLES, SUSPECTS, Assessment, write_report
from engines.build.thresholds import Target, Thresholds
from engines.calibration import Interval
from engines.contract import Calibration
from tests.fakes import manifest

if TYPE_CHECKING:
    from pathlib import Path

N = 90


def assessment(title: str = "red mug") -> Assessment:
    """Return answers that rank most swaps first, for products whose pictures are all one colour."""
    generator = np.random.default_rng(0)
    products = tuple(
        Product({"id": f"p{i}", "title": f"{title} {i}", "color": "red"}, (), i, str(i), f"kitchen {i % 3}")
        for i in range(N)
    )
    catalog = Catalog(products, (), np.full((N, 3, 16, 16), 200, np.uint8), np.arange(N))
    own = np.arange(N)
    pairs = Pairs(
        product=np.tile(own, 3),
        picture=np.concatenate([own, (own + 1) % N, (own + 2) % N]),
        label=np.repeat([0, 1, 1], N),
        difference=np.repeat([MATCH, "easy", "hard"], N),
    )
    logits = generator.normal(size=3 * N).astype(np.float32) + np.repeat([-3, 3, 0], N).astype(np.float32)
    figures = evaluate.figures(
        logits, catalog, pairs, Calibration(), thresholds=np.full(3 * N, 0.5), prevalence=0.05, samples=20
    )
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    target = Target(precision=0.5, prevalence=0.05)
    alone = Thresholds(Interval(0.5, 0.4, 0.6), {})
    own = Thresholds(alone.overall, {"kitchen 1": Interval(0.625, 0.6, 0.65)})
    scored = thresholds.scored(catalog, pairs, probabilities)
    compared = thresholds.compare(scored, alone.of(scored.categories), own.of(scored.categories), target)
    return Assessment(
        manifest(release="compact-abc", provenance={"catalog": "shop"}, thresholds={"kitchen 1": 0.625}),
        catalog,
        pairs,
        probabilities,
        figures,
        target,
        own,
        compared,
        compared,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the page."""
    return write_report(assessment(), {}, tmp_path_factory.mktemp("report")).read_text(encoding="utf-8")


def test_report_holds_figures_curves_and_categories(page: str) -> None:
    """One file: every kind has its line and its pictures, every category its slice."""
    assert "What compact-abc finds in shop" in page
    assert page.count("<svg") == 2
    for kind in ("easy", "hard"):
        assert f'<section id="{kind}">' in page
    assert all(f"<td>kitchen {number}</td>" in page for number in range(3))
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_report_compares_one_threshold_with_those_of_categories(page: str) -> None:
    """What was measured, the thresholds with their intervals, and each slice's own."""
    section = page.split('<section id="thresholds">')[1].split("</section>", maxsplit=1)[0]
    for words in ("validation, cross-fitted", "one for all", "per category", "62.5", "closed"):
        assert words in section
    slices = page.split('<section id="slices">')[1]
    assert slices.count("0.625") == 1


def test_report_shows_the_most_suspicious_products_first(page: str) -> None:
    """Their order is the engine's, and there are no more than a person looks through."""
    suspects = page.split('<section id="suspects">')[1].split("</section>", maxsplit=1)[0]
    shown = [float(part.split(" %")[0]) for part in suspects.split("<b>")[1:]]
    assert len(shown) == SUSPECTS
    assert shown == sorted(shown, reverse=True)


def test_report_shows_of_each_kind_the_best_and_the_worst(page: str) -> None:
    """Wrong pictures say whose they are."""
    hard = page.split('<section id="hard">')[1].split("</section>", maxsplit=1)[0]
    assert hard.count("<figure") == hard.count("picture of: red mug") == 2 * EXAMPLES
    shown = [float(part.split(" %")[0]) for part in hard.split("<b>")[1:]]
    assert shown[0] > 80
    assert shown[EXAMPLES] < 20


def test_report_escapes_what_a_shop_writes(tmp_path: Path) -> None:
    """A title is text, whatever stands in it."""
    page = write_report(assessment("<script>alert(1)</script>"), {}, tmp_path).read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
