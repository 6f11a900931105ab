"""What the demo's alerts name, against the truth, and the heat maps of the report."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from engines.catalogs.rendered import jpeg, render_catalog
from engines.contract import ImageSpec
from streamer.demo.attribution import heat_maps, is_right, overlay
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


def _drawn(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))


def _save(folder: Path, width: int, height: int) -> Path:
    path = folder / "picture.jpg"
    Image.new("RGB", (width, height)).save(path)
    return path


def test_overlay_wide_picture_leaves_the_engine_s_margins_out(tmp_path: Path) -> None:
    """The engine sees a wide picture between two margins; what is warm in its left half is so on the page."""
    heat = np.zeros((6, 6), dtype=np.float32)
    heat[:, :3] = 2.0
    url = overlay(heat, _save(tmp_path, 200, 100), ImageSpec(height=96, width=96))
    assert url is not None
    alpha = np.asarray(_drawn(url))[:, :, 3]
    assert alpha.shape == (32, 64)
    assert alpha[:, :24].min() > 150
    assert alpha[:, 40:].max() == 0


def test_overlay_warm_margin_is_not_drawn_on_the_picture(tmp_path: Path) -> None:
    """Only the middle of the engine's picture is there to see."""
    heat = np.zeros((6, 6), dtype=np.float32)
    heat[0] = 1.0
    url = overlay(heat, _save(tmp_path, 200, 100), ImageSpec(height=96, width=96))
    assert url is not None
    assert np.asarray(_drawn(url))[8:, :, 3].max() == 0


def test_overlay_of_a_cold_picture_is_none(tmp_path: Path) -> None:
    """There is nothing to draw where every region speaks for the match."""
    assert overlay(-np.ones((6, 6), np.float32), _save(tmp_path, 9, 9), ImageSpec(height=8, width=8)) is None


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
