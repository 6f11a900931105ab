"""How often the field that an alert names is the one that is wrong, on a rendered catalogue that nothing was tuned on.

    python benchmarks/attribution.py [--release DIR] [--products N] [--seed S] [--json]

Each product is given the picture of a sibling that differs in one attribute (or, for `kind`, of something else that
is alike otherwise). Those that reach the release's own threshold are true alerts, and are attributed as
the stream does it, through the same batcher. Named right: the attribute's own field, or words elsewhere that say it.
"""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from engines import calibration
from engines.catalogs.rendered import differing_attribute, jpeg, render_catalog, siblings
from engines.catalogs.rendered.attributes import KINDS, patterns_of
from engines.catalogs.rendered.wording import words_for
from engines.image import decode
from engines.runtime.loader import load, load_tokenizer
from engines.text import compose
from streamer.batch import Batcher
from streamer.demo.attribution import is_right
from streamer.demo.evaluation import wilson_interval
from streamer.demo.products import Difference
from streamer.explain import Explainer
from streamer.pairs import Pair

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engines.catalogs.rendered import RenderedProduct
    from engines.contract import Engine
    from engines.text import Tokenizer
    from streamer.batch import BatchReport

UNUSED_SEED = 20_261_125
"""Far from the seeds of training, validation and test, and not the one that claims were developed on."""

MAX_PIXELS = 10_000_000
KIND_SHARE = 0.2  # of the swaps: kinds never differ between siblings


@dataclass(frozen=True)
class Swap:
    """A product's text, and the product whose picture it was given."""

    text_of: RenderedProduct
    picture_of: RenderedProduct
    attribute: str

    @property
    def difference(self) -> Difference:
        """What is untrue, and the words that say it."""
        says = self.text_of.attributes[self.attribute]
        shows = self.picture_of.attributes[self.attribute]
        # The text names what it is by `product_type`.
        field = "product_type" if self.attribute == "kind" else self.attribute
        phrases = words_for(self.attribute, says)
        return Difference(attribute=field, says=says, shows=shows, phrases=phrases)


@dataclass(frozen=True)
class Answer:
    """What an alert names; `right` is 1.0 where that is what is wrong."""

    attribute: str
    right: float
    inferences: int
    seconds: float


def swaps(products: Sequence[RenderedProduct], seed: int) -> Iterator[Swap]:
    """Yield one swap of each product that has a sibling or could be something else."""
    rng = np.random.default_rng(seed)
    by_id = {product.id: product for product in products}
    for product_id, others in siblings(products).items():
        product = by_id[product_id]
        kinds = [kind for kind in KINDS if kind != product.kind and _could_be(product, kind)]
        if kinds and (not others or rng.random() < KIND_SHARE):
            kind = kinds[int(rng.integers(len(kinds)))]
            yield Swap(product, replace(product, kind=kind, attributes=product.attributes | {"kind": kind}), "kind")
        elif others:
            other = by_id[others[int(rng.integers(len(others)))]]
            yield Swap(product, other, differing_attribute(product, other))


async def attribute(engine: Engine, tokenizer: Tokenizer, todo: Sequence[Swap], progress: Progress) -> list[Answer]:
    """Return what the true alerts among the swaps name."""
    spec, ran = engine.manifest, 0

    def count(report: BatchReport) -> None:
        nonlocal ran
        ran += report.size

    batcher = Batcher(engine, max_batch=spec.max_batch, report=count)
    answers: list[Answer] = []
    with ThreadPoolExecutor(1) as executor:
        explainer = Explainer(tokenizer=tokenizer, lane=batcher.lane, executor=executor, share=1.0)
        for swap in progress.track(todo, description="attributing"):
            text = compose(swap.text_of.fields, spec.text)
            input_ids, attention_mask = tokenizer.encode([text])
            pixels = decode(jpeg(swap.picture_of), spec.image, max_pixels=MAX_PIXELS)
            pair = Pair(pixels, input_ids[0], attention_mask[0])
            logit = (await batcher.lane.logit(pair)).logit
            if not alerts(engine, logit):
                continue
            before, started = ran, time.perf_counter()
            named = await explainer.contradictions(text, pair, logit, lambda one: alerts(engine, one))
            seconds = time.perf_counter() - started
            answers.append(Answer(swap.attribute, float(is_right(named, swap.difference)), ran - before, seconds))
    await batcher.close()
    return answers


def alerts(engine: Engine, logit: float) -> bool:
    """Whether a logit calls for an alert at the release's threshold."""
    manifest = engine.manifest
    return bool(calibration.apply(manifest.calibration, np.asarray([logit]))[0] >= manifest.threshold)


def measure(
    release: Annotated[Path | None, typer.Option(help="Release directory; the shipped one when left out.")] = None,
    products: Annotated[int, typer.Option(min=20)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the catalogue.")] = UNUSED_SEED,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON line.")] = False,
) -> None:
    """Print the share of true alerts that name what is wrong, by attribute, and what naming costs."""
    engine, tokenizer = load(release), load_tokenizer(release)
    todo = list(swaps(render_catalog(products, seed), seed))
    with Progress(console=Console(stderr=True)) as progress:
        answers = asyncio.run(attribute(engine, tokenizer, todo, progress))
    lines = {name: figures(answers, name) for name in ("all", *sorted({answer.attribute for answer in answers}))}
    inferences = np.array([answer.inferences for answer in answers])
    cost = {
        "inferences_mean": float(inferences.mean()),
        "inferences_max": int(inferences.max()),
        "ms_median": 1000 * float(np.median([answer.seconds for answer in answers])),
    }
    title = f"{engine.manifest.release}, {len(todo)} one-attribute swaps of seed {seed}"
    Console(width=int(os.environ.get("COLUMNS", "100"))).print(table(lines, title))
    print(
        f"{cost['inferences_mean']:.1f} more inferences per alert (at most {cost['inferences_max']}), "
        f"{cost['ms_median']:.0f} ms on an idle engine"
    )
    if as_json:
        facts = {"release": engine.manifest.release, "seed": seed, "products": products}
        print(msgspec.json.encode(facts | {"named_right": lines, "cost": cost}).decode())


def figures(answers: Sequence[Answer], attribute: str) -> dict[str, float]:
    """Return how many alerts there are, the share named right, and its 95 % interval (Wilson's).

    Resampling would give an interval of no width where all are right.
    """
    right = np.array([answer.right for answer in answers if attribute in {"all", answer.attribute}])
    low, high = wilson_interval(int(right.sum()), len(right))
    return {"alerts": len(right), "share": float(right.mean()), "low": low, "high": high}


def table(lines: dict[str, dict[str, float]], title: str) -> Table:
    """Return the figures as people read them, in per cent."""
    made = Table(title=title)
    for heading in ("differs in", "true alerts", "named right"):
        made.add_column(heading, justify="left" if heading == "differs in" else "right")
    for name, line in lines.items():
        share = f"{100 * line['share']:.1f} ({100 * line['low']:.1f} to {100 * line['high']:.1f})"
        made.add_row(name, f"{line['alerts']:.0f}", share)
    return made


def _could_be(product: RenderedProduct, kind: str) -> bool:
    """Whether a thing of another kind comes in the product's material and pattern."""
    material, pattern = product.attributes["material"], product.attributes["pattern"]
    return material in KINDS[kind].materials and pattern in patterns_of(kind, material)


if __name__ == "__main__":
    typer.run(measure)
