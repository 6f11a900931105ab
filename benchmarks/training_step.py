"""How long a training step of the compact family takes on one core, and what bfloat16 and cheap dropout save of it.

    python benchmarks/training_step.py [--steps N]

The step is the recipe's, of 16 anchors with a partner each, on made-up features; texts have 35 words. Both ways take
turns, so that other work on the machine meets both. A CPU without bfloat16's instructions trains in float32: there the
two differ by the dropout alone.
"""

from __future__ import annotations

import statistics
import time
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


def main(steps: Annotated[int, typer.Option(min=2, help="Of each way.")] = 60) -> None:
    """Time both ways on one thread and print their medians and the ratio."""
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


if __name__ == "__main__":
    typer.run(main)
