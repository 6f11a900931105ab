"""What it costs to decode pictures in processes of their own instead of in the worker's threads.

    python benchmarks/decoding.py [--count 2000]

Decodes the same pictures (photo-like JPEGs of 224 and 1,200 px, and a PNG of 1,200 px) in two threads of this process
and through `streamer.decoding`, in turn, as many at a time as a busy worker has, and prints for each: CPU per picture
in the worker and in the decoders, pictures per second, how long an event loop beside them waits for its turn, and what
a crash costs.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import resource
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
import uvloop
from cpu_time import children_of, cpu_s, descendants
from PIL import Image
from rich.console import Console
from rich.table import Table

from engines.contract import ImageSpec
from engines.image import decode
from streamer.decoding import DecoderPool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from numpy.typing import NDArray

    Work = Callable[[bytes], Awaitable[NDArray[np.uint8]]]

SPEC = ImageSpec(height=224, width=224)
THREADS = 2
UNDER_WAY = 64  # pictures at a time
MAX_PIXELS = 50_000_000
TICK_S = 0.002


def picture(side: int, kind: str, seed: int) -> bytes:
    """Return a smooth random picture with some noise, of about a photo's bytes per pixel."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, kind, quality=85)
    return buffer.getvalue()


async def _measure(work: Work, pictures: list[bytes], count: int) -> dict[str, float]:
    """Return CPU in milliseconds per picture, pictures per second, and the loop's lateness in milliseconds."""
    late: list[float] = []
    todo = (pictures[i % len(pictures)] for i in range(count))

    async def some() -> None:
        for one in todo:
            await work(one)

    await asyncio.gather(*map(work, pictures))
    children = descendants()
    cpu, child_cpu, started = time.process_time(), cpu_s(children), time.perf_counter()
    done = asyncio.gather(*(some() for _ in range(UNDER_WAY)))
    while not done.done():
        before = time.perf_counter()
        await asyncio.sleep(TICK_S)
        late.append((time.perf_counter() - before - TICK_S) * 1e3)
    wall = time.perf_counter() - started
    return {
        "worker_cpu_ms": 1e3 * (time.process_time() - cpu) / count,
        "decoder_cpu_ms": 1e3 * (cpu_s(children) - child_cpu) / count,
        "pictures_per_s": count / wall,
        "loop_late_p99_ms": float(np.percentile(late, 99)),
    }


async def _crash_ms(pool: DecoderPool, good: bytes) -> float:
    """Return how long it takes until a picture is decoded where the decoders before it were killed."""
    times = []
    for _ in range(20):
        await pool.decode(good)
        for pid in _decoders():
            os.kill(pid, 9)
        started = time.perf_counter()
        await asyncio.gather(*(pool.decode(good) for _ in range(THREADS)))
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def _decoders() -> list[int]:
    """Return the processes below the nursery."""
    (nursery, *_) = descendants()
    return children_of(nursery)


async def _measure_all(table: Table, count: int, turns: int, seed: int) -> dict[str, Any]:
    """Measure both ways in turn; return medians, by picture and way."""
    kinds = {"JPEG 224": (224, "JPEG"), "JPEG 1200": (1200, "JPEG"), "PNG 1200": (1200, "PNG")}
    figures: dict[str, Any] = {}
    limits = {"max_bytes": 20 * 2**20, "max_pixels": MAX_PIXELS, "memory_bytes": 2**30}
    with ThreadPoolExecutor(THREADS) as threads:
        async with DecoderPool(SPEC, size=THREADS, cpu_s=2.0, **limits) as pool:
            in_thread = partial(decode, spec=SPEC, max_pixels=MAX_PIXELS)
            beside = partial(asyncio.get_running_loop().run_in_executor, threads, in_thread)
            ways: dict[str, Work] = {"threads": beside, "processes": pool.decode}
            for name, (side, kind) in kinds.items():
                pictures = [picture(side, kind, seed + i) for i in range(16)]
                runs = count if side < 1000 else count // 10
                results: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
                for _ in range(turns):
                    for way, work in ways.items():
                        results[way].append(await _measure(work, pictures, runs))
                for way, found in results.items():
                    medians = {key: round(statistics.median(one[key] for one in found), 3) for key in found[0]}
                    table.add_row(f"{name}, {len(pictures[0]) // 1024} KiB", way, *map(str, medians.values()))
                    figures[f"{name} {way}"] = medians
            figures["decoders_private_mb"] = round(sum(map(_private_kib, descendants())) / 1024)
            figures["crash_ms"] = round(await _crash_ms(pool, picture(224, "JPEG", seed)), 1)
    return figures


def main(
    count: Annotated[int, typer.Option(min=100)] = 2000, turns: Annotated[int, typer.Option(min=1)] = 3, seed: int = 1
) -> None:
    """Measure both ways in turn; print medians and, last, one JSON object."""
    table = Table("picture", "where", "worker CPU, ms", "decoder CPU, ms", "pictures/s", "loop late p99, ms")
    figures = uvloop.run(_measure_all(table, count, turns, seed))
    Console(stderr=True).print(table)
    own_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**figures, "own_mb": round(own_mb)}))


def _private_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


if __name__ == "__main__":
    typer.run(main)
