"""The pictures that a demo's traffic leads to, written where the image host serves them."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from rich.progress import Progress

from streamer.demo.traffic import picture_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from streamer.demo.products import DemoCatalogue
    from streamer.demo.traffic import PlannedEvent


async def write_pictures(
    catalogue: DemoCatalogue, planned: Sequence[PlannedEvent], root: Path, console: Console
) -> None:
    """Write the picture of every product that the traffic names or shows, and cut those that come truncated."""
    named = {e.truth.product_id for e in planned} | {e.truth.shown_id for e in planned}
    products = [product for product in catalogue.products if product.id in named]
    # Threads: Pillow draws, resizes and encodes without holding the GIL.
    pool = ThreadPoolExecutor(os.cpu_count(), "pictures")
    try:
        writing = [asyncio.wrap_future(pool.submit(catalogue.write_picture, product, root)) for product in products]
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            for done in bar.track(asyncio.as_completed(writing), total=len(writing), description="pictures"):
                await done
    finally:
        pool.shutdown(cancel_futures=True)
    cut = {e.truth.product_id for e in planned if e.truth.kind == "image_truncated"}
    for product in products:
        if product.id in cut:
            whole = (root / product.picture).read_bytes()
            (root / picture_name("image_truncated", product.picture)).write_bytes(whole[: len(whole) // 2])
