"""What a challenger says against what runs: agreement, correlation, and which alerts would change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pytest

from streamer.comparison import Comparison, compare
from streamer.comparison_plot import draw
from streamer.shadow_events import Opinion, ShadowScore
from streamer.terminal import comparison_table
from streamer.wire import SourcePosition

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def opinion(release: str, logit: float, threshold: float = 0.5) -> Opinion:
    """Return what an uncalibrated release makes of a product."""
    return Opinion(release=release, logit=logit, probability=float(1 / (1 + np.exp(-logit))), threshold=threshold)


def scored(
    logits: Sequence[tuple[float, float]], *, category: str | None = "Mugs", start: int = 0, challenger: str = "new-1"
) -> list[ShadowScore]:
    """Return products with these logits of champion and challenger."""
    return [
        ShadowScore(
            product_id=f"p{number}",
            order=1,
            category=category,
            source=SourcePosition(topic="product-updates", partition=0, offset=number),
            scored_at=NOW,
            champion=opinion("old-1", champion),
            challenger=opinion(challenger, tried),
        )
        for number, (champion, tried) in enumerate(logits, start)
    ]


def only(scores: Sequence[ShadowScore]) -> Comparison:
    """Return the one comparison that these scores make."""
    (comparison,) = compare(scores)
    return comparison


def test_alerts_that_would_open_and_close_are_counted() -> None:
    """By the thresholds of either release."""
    found = only(scored([(2, 2), (-2, -2), (-2, 2), (2, -2), (-1, -1)]))
    assert dict(found.all.agreements) == {"both": 1, "neither": 2, "opens": 1, "closes": 1}
    assert found.all.agreeing == 0.6


def test_correlation_of_ranks_is_one_where_only_the_scale_differs() -> None:
    """A challenger whose logits are cubes of the champion's orders products as that one does."""
    found = only(scored([(x, x**3) for x in np.linspace(-3, 3, 41)])).all
    assert found.spearman == pytest.approx(1.0)
    assert found.pearson is not None
    assert found.pearson < 0.95


def test_correlation_of_ranks_shares_places_of_equal_values() -> None:
    """As the textbook has it: 1 - 6 Σd² / (n(n² - 1)) does not hold with ties, the correlation of mean ranks does."""
    found = only(scored([(1, 1), (1, 2), (2, 3), (3, 3)])).all
    assert found.spearman == pytest.approx(np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 3.5, 3.5])[0, 1])


def test_correlation_is_not_defined_for_one_product_or_equal_scores() -> None:
    """And says so, rather than nan."""
    assert only(scored([(1, 1)])).all.spearman is None
    assert only(scored([(1, 1), (1, 2)])).all.pearson is None


def test_comparison_by_category_adds_up_to_the_whole() -> None:
    """Products without a category have one of their own."""
    found = only([*scored([(1, 1)] * 5), *scored([(1, -1)] * 3, category=None, start=5)])
    assert {name: group.products for name, group in found.categories.items()} == {"Mugs": 5, "(none)": 3}
    assert [name for name, _ in found.largest(1)] == ["Mugs"]
    assert found.categories["(none)"].agreements["closes"] == 3


def test_update_that_was_compared_again_counts_once() -> None:
    """It was delivered again after a worker had been killed."""
    assert only(scored([(1, 1), (2, 2)]) * 2).all.products == 2


def test_each_pair_of_releases_has_a_comparison_the_largest_first() -> None:
    """Yesterday's challenger is no part of today's."""
    found = compare([*scored([(1, 1)]), *scored([(1, 1)] * 3, challenger="new-2", start=1)])
    assert [(one.challenger, one.all.products) for one in found] == [("new-2", 3), ("new-1", 1)]


def test_interval_of_agreement_holds_it_and_narrows_with_evidence() -> None:
    """Also where all agree, its lower end is below 1."""
    few, many = only(scored([(1, 1)] * 10)).all, only(scored([(1, 1)] * 1000)).all
    assert few.agreeing_interval[0] == pytest.approx(10 / (10 + 1.96**2))
    assert few.agreeing_interval[0] < many.agreeing_interval[0] < 1.0
    assert many.agreeing_interval[1] == pytest.approx(1.0)


def test_table_and_figure_show_every_group(tmp_path: Path) -> None:
    """In each format that the command takes; a category is shown as harmless text."""
    found = only([*scored([(2, 2), (-2, 2)]), *scored([(20, -20)], category="\x1b[31mShoes[/]", start=2)])
    table = comparison_table(found)
    assert table.row_count == 3
    assert next(str(cell) for cell in table.columns[0].cells) == "all"
    assert "\x1b" not in "".join(str(cell) for cell in table.columns[0].cells)
    for name, begins in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")):
        draw(found, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begins)
