"""What the demo's alerts name, against the truth, and which pictures of the report get a heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from engines.catalogs.rendered import jpeg, render_catalog
from streamer.demo.attribution import heat_maps, is_right
from streamer.demo.products import DemoProduct, Difference
from streamer.events import Contradiction
from tests.unit.demo_records import Run

if TYPE_CHECKING:
    from pathlib import Path

WRONG = Difference(attribute="pattern", says="dotted", shows="solid", phrases=("dotted", "polka dot"))


@pytest.mark.parametrize(
    ("field", "value", "right"),
    [
        ("pattern", "Polka Dot", True),
        ("title", "Dotted", True),
        ("description", "Finished in a polka dot design.", True),
        ("title", "undotted", False),
        ("color", "Navy", False),
    ],
)
def test_named_field_is_right_where_it_says_what_is_untrue(field: str, value: str, right: bool) -> None:
    """The attribute's own field, or words elsewhere that name its value."""
    assert is_right((Contradiction(field=field, value=value, share=0.9),), WRONG) == right


def test_named_field_only_the_first_counts() -> None:
    """An alert that names everything would always be right; one that names nothing never is."""
    others = tuple(Contradiction(field=name, value="x", share=0.5) for name in ("color", "pattern"))
    assert not is_right(others, WRONG)
    assert not is_right((), WRONG)


def test_heat_maps_of_an_alert_are_drawn_for_what_it_names(tmp_path: Path) -> None:
    """The shipped engine draws one for an alert that names a claim, none for another, and none without time."""
    one, other = render_catalog(2, 11)
    products = {
        made.id: DemoProduct(
            id=made.id, fields=made.fields, facts={}, item_group_id=None, picture=f"{made.id}.jpg", siblings=()
        )
        for made in (one, other)
    }
    for made in (one, other):
        (tmp_path / f"{made.id}.jpg").write_bytes(jpeg(made))
    named = (Contradiction(field="product_type", value=one.fields["product_type"], share=1.0),)
    run = Run()
    run.score(run.publish(one.id, kind="swapped", shown_id=other.id), 0.9, contradicts=named)
    run.score(run.publish(other.id, kind="swapped", shown_id=one.id), 0.8)
    for budget_s, drawn in ((60.0, {(one.id, other.id)}), (0.0, set[tuple[str, str]]())):
        maps = heat_maps(
            run.evaluation, products, tmp_path, release=None, console=Console(quiet=True), budget_s=budget_s
        )
        assert maps.keys() == drawn


def test_heat_maps_without_named_claims_load_no_engine(tmp_path: Path) -> None:
    """A run without alerts has nothing to draw."""
    missing = tmp_path / "no-release"
    assert heat_maps(Run().evaluation, {}, tmp_path, release=missing, console=Console(quiet=True)) == {}
