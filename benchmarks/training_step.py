"""How long a training step of the compact family takes, what bfloat16, cheap dropout and several cores save of it.

    python benchmarks/training_step.py [--steps N] [--cores N]

The step is the recipe's, of 16 anchors with a partner each, on made-up features; texts have 35 words. Both ways take
turns, so that other work on the machine meets both. A CPU without bfloat16's instructions trains in float32: there the
two differ by the dropout alone. Then the cores share the steps of one reader, and each has a reader of its own, as
`engines.build.parallel` trains them; these take turns as well.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any, Final
from unittest import mock

import numpy as np
import torch
import typer
from rich.progress import track
from torch import nn

from engines.build import finetune
from engines.build.dataset import Catalog, Product
from engines.build.features import Features
from engines.build.finetune import Trainer
from engines.build.models.compact import CompactConfig, Reader
from engines.build.models.dropout import Dropout
from engines.build.models.palette import Palette
from engines.build.recipe import AdaptRecipe
from engines.build.texts import Texts

if TYPE_CHECKING:
    import threading
    from collections.abc import Generator

_PRODUCTS: Final = 256
_WORDS: Final = 35


def trainer() -> Trainer:
    """Return a run at its start."""
    generator = np.random.default_rng(0)
    products = tuple(
        Product(fields={}, facets=(f"color {i % 9}",), identity=i, group=str(i), category=f"kind {i % 5}")
        for i in range(_PRODUCTS)
    )
    catalog = Catalog(products, ("color",), np.zeros((_PRODUCTS, 3, 1, 1), np.uint8), np.arange(_PRODUCTS))
    colors = Palette().size
    shares = generator.dirichlet(np.ones(colors), size=(_PRODUCTS, 1, 8, 8)).transpose(0, 1, 4, 2, 3)
    ids = generator.integers(5, 30_000, size=(_PRODUCTS, _WORDS), dtype=np.int32)
    features = Features(
        middle=generator.normal(size=(_PRODUCTS, 1, 88, 16, 16)).astype(np.float16),
        final=generator.normal(size=(_PRODUCTS, 1, 352, 8, 8)).astype(np.float16),
        palette=shares.astype(np.float16),
        looks=generator.normal(size=(_PRODUCTS, 8)).astype(np.float32),
        states=generator.normal(size=(_PRODUCTS, _WORDS, 384)).astype(np.float16),
        texts=Texts(ids, np.ones_like(ids)),
    )
    torch.manual_seed(0)
    reader = Reader(CompactConfig(facets=(9,)), colors)
    labels = np.array([[i % 9] for i in range(_PRODUCTS)])
    return Trainer(reader, catalog, features, labels, AdaptRecipe(seed=0, epochs=1000))


@contextmanager
def plain() -> Generator[None]:
    """Train in float32, with torch's own dropout."""
    with (
        mock.patch.object(finetune, "half", return_value=nullcontext()),
        mock.patch.object(Dropout, "forward", nn.Dropout.forward),
    ):
        yield


def steps_per_s(processes: int, threads: int, steps: int) -> float:
    """Return how many steps so many processes do in a second, together, each with so many threads."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_wait_at, initargs=(ready,)) as pool:
        return sum(pool.map(_speed, [threads] * processes, [steps] * processes))


_ready: threading.Barrier | None = None


def _wait_at(barrier: threading.Barrier) -> None:
    global _ready  # noqa: PLW0603 - of a process that does nothing else
    _ready = barrier


def _speed(threads: int, steps: int) -> float:
    """Return the steps/s of this process, after all have begun."""
    torch.set_num_threads(threads)
    run = trainer()
    anchors = np.arange(_PRODUCTS).reshape(-1, 16)
    run._step(anchors[0])  # noqa: SLF001 - as below
    assert _ready is not None
    _ready.wait()
    began = time.perf_counter()
    for number in range(steps):
        run._step(anchors[number % len(anchors)])  # noqa: SLF001 - as below
    return steps / (time.perf_counter() - began)


def main(
    steps: Annotated[int, typer.Option(min=2, help="Of each way.")] = 60,
    cores: Annotated[int, typer.Option(min=2, help="Shared by one reader, or one for each of so many.")] = 2,
    turns: Annotated[int, typer.Option(min=1, help="Of these two.")] = 3,
) -> None:
    """Time both ways on one thread, then both ways of using several cores; print medians and ratios."""
    torch.set_num_threads(1)
    run = trainer()
    anchors = np.arange(_PRODUCTS).reshape(-1, 16)
    took: dict[str, list[float]] = {"plain": [], "as it trains": []}
    for number in track(range(steps + 2), description="steps"):
        for name, way in (("plain", plain()), ("as it trains", nullcontext())):
            with way:
                began = time.perf_counter()
                run._step(anchors[number % len(anchors)])  # noqa: SLF001 - its steps, one by one
                took[name].append(time.perf_counter() - began)
    medians: dict[str, Any] = {name: statistics.median(each[2:]) * 1000 for name, each in took.items()}
    ratio = statistics.median(a / b for a, b in zip(took["plain"][2:], took["as it trains"][2:], strict=True))
    print(", ".join(f"{name}: {value:.0f} ms a step" for name, value in medians.items()) + f"; {ratio:.2f} times")
    shared, apart = zip(
        *(
            (steps_per_s(1, cores, steps), steps_per_s(cores, 1, steps))
            for _ in track(range(turns), description="cores")
        ),
        strict=True,
    )
    ratios = sorted(b / a for a, b in zip(shared, apart, strict=True))
    print(
        f"{cores} cores: {statistics.median(shared):.2f} steps/s where one reader has them all, "
        f"{statistics.median(apart):.2f} where each has a reader; {statistics.median(ratios):.2f} times "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    typer.run(main)
