"""How many pairs one thread of the CPU engine should take at a time.

    python benchmarks/engine.py [--release DIR] [--seconds S] [--json]

One batch of the release's largest size, again and again: all threads sharing each operator, as ONNX Runtime does by
itself, against threads that run whole chunks. Ways take turns, several rounds, and each is compared with the first of
its round, since machines drift.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import onnxruntime
import typer
from rich.console import Console
from rich.table import Table

from engines import releases
from engines.runtime import loader

if TYPE_CHECKING:
    from collections.abc import Callable

SHARED = "shared operators"
CHUNKS = (1, 2, 4, 8, 16)
ROUNDS = 3


def session(model: Path, threads: int) -> Any:  # noqa: ANN401 - the runtime has no types
    """Return the model, each operator run by so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def batch_of(release: Path | None) -> tuple[Path, dict[str, Any]]:
    """Return the release's model and one batch of noise of its largest size, by input name."""
    path = releases.shipped() if release is None else release
    manifest = loader.load(release).manifest
    generator = np.random.default_rng(0)
    size = manifest.max_batch
    shapes = {spec.name: (size, *(d or size for d in spec.shape[1:])) for spec in manifest.inputs}
    return path / releases.MODEL_FILE, {
        "pixel_values": generator.integers(0, 256, shapes["pixel_values"], dtype=np.uint8),
        "input_ids": generator.integers(1, 100, shapes["input_ids"], dtype=np.int32),
        "attention_mask": np.ones(shapes["attention_mask"], dtype=np.int32),
    }


def pairs_per_s(run: Callable[[], object], pairs: int, seconds: float) -> float:
    """Return how many pairs a second `run` scores, once it is warm."""
    run()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        run()
        done += pairs
    return done / (time.perf_counter() - started)


def main(
    release: Annotated[Path | None, typer.Option(help="Release directory; the shipped one when left out.")] = None,
    seconds: Annotated[float, typer.Option(help="Of each way in each round.")] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON line.")] = False,
) -> None:
    """Print pairs/s of each way, and its ratio to threads that share operators."""
    threads = len(os.sched_getaffinity(0))
    model, batch = batch_of(release)
    size = len(batch["input_ids"])
    shared, alone = session(model, threads), session(model, 1)
    rates: dict[str, list[float]] = defaultdict(list)
    with ThreadPoolExecutor(threads) as pool:

        def chunked(step: int) -> Callable[[], object]:
            chunks = [{name: tensor[at : at + step] for name, tensor in batch.items()} for at in range(0, size, step)]
            return lambda: list(pool.map(lambda chunk: alone.run(None, chunk), chunks))

        ways = {SHARED: lambda: shared.run(None, batch)} | {f"chunks of {step}": chunked(step) for step in CHUNKS}
        for _ in range(ROUNDS):
            for name, run in ways.items():
                rates[name].append(pairs_per_s(run, size, seconds))
    table = Table("way", "pairs/s", f"ratio to {SHARED}", title=f"batches of {size}, {threads} threads")
    ratios = {n: statistics.median(a / b for a, b in zip(r, rates[SHARED], strict=True)) for n, r in rates.items()}
    for name, found in rates.items():
        table.add_row(name, f"{statistics.median(found):.1f}", f"{ratios[name]:.3f}")
    Console(stderr=True).print(table)
    if as_json:
        print(json.dumps({name: round(ratio, 4) for name, ratio in ratios.items()}))


if __name__ == "__main__":
    typer.run(main)
