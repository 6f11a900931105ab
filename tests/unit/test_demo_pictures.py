"""The pictures behind the demo's traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from streamer.demo.pictures import write_pictures
from streamer.demo.products import rendered_catalogue
from streamer.demo.traffic import plan

if TYPE_CHECKING:
    from pathlib import Path


async def test_write_pictures_leaves_what_the_traffic_says(tmp_path: Path) -> None:
    """Each picture is there whole, cut in the middle, or not at all, as its event's truth has it."""
    catalogue = rendered_catalogue(count=40, seed=1)
    planned = plan(catalogue.products, events=40, seed=1, image_url=lambda name: f"http://127.0.0.1/{name}")
    await write_pictures(catalogue, planned, tmp_path, Console(quiet=True))
    for truth in (event.truth for event in planned if event.truth.picture):
        file = tmp_path / (truth.picture or "")
        if truth.kind == "image_missing":
            assert not file.exists()
        elif truth.kind != "malformed_json":
            assert file.read_bytes().endswith(b"\xff\xd9") == (truth.kind != "image_truncated")
