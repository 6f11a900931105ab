"""A world of colored tiles for tests of retraining: a catalogue folder, a champion trained on it, and what people say.

A title names the tile's color. The champion knows three colors; labels are of party goods in two new ones. Everything
is so small that training and export take seconds.
"""

from __future__ import annotations

import hashlib
import io
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import orjson
import pytest
import torch
from PIL import Image
from rich.progress import Progress

from engines import calibration
from engines.build import run as building
from engines.build.dataset import Catalog, Product
from engines.build.evaluate import MATCH, Pairs
from engines.build.recipe import Recipe, RetrainRecipe
from engines.build.retrain.decision import GateRules
from engines.build.retrain.facts import Retraining
from engines.build.retrain.frozen import FrozenSet
from engines.build.retrain.run import retrain
from engines.catalogs.judged import Judged, Pinned, image_path, write_pinned
from engines.contract import top_level
from engines.runtime.loader import Place, load_checked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.killed import Point

SIDE: Final = 32
KNOWN: Final = {"red": (210, 30, 30), "blue": (30, 30, 210), "green": (30, 160, 30)}
NEW: Final = {"amber": (240, 190, 20), "violet": (140, 40, 160)}
CATEGORIES: Final = ("Home > Tiles", "Office > Tiles")
NEW_CATEGORY: Final = "Party > Tiles"
MOMENT: Final = datetime(2026, 3, 1, tzinfo=UTC)

RECIPE: Final = Recipe(
    epochs=24,
    seed=0,
    image_size=SIDE,
    image_sizes=(),
    max_tokens=12,
    model={"channels": (4, 8, 8, 16), "width": 16, "layers": 2, "heads": 2},
    vocabulary_size=160,
    learning_rate=4e-3,
    warmup_steps=10,
    average_decay=0.95,
    looking=0.3,
)
RETRAIN: Final = RetrainRecipe(
    seed=0, steps=80, word_steps=120, learning_rate=4e-3, average_decay=0.9, warmup_steps=5, new_word_products=5
)
RULES: Final = GateRules(samples=200, benchmark_margin=0.06, labels_margin=0.06, least_labels=5)


class World(NamedTuple):
    """Where the catalogue and the champion stand."""

    catalog: Path
    champion: Path


def make(folder: Path) -> World:
    """Write the catalogue and train the champion."""
    catalog = folder / "shop"
    write_catalogue(catalog)
    with Progress(disable=True) as progress, pytest.MonkeyPatch.context() as patched:
        patched.setattr(building, "rehearse", lambda _: None)  # an export takes longer than all the rest
        champion = building.build_folder(catalog, folder / "releases", RECIPE, precision=0.5, progress=progress)
    return World(catalog, champion)


def retraining(world: World, labels: Path, work: Path) -> Retraining:
    """Return a run."""
    return Retraining(
        champion=world.champion, labels=labels, catalog=world.catalog, work=work, recipe=RETRAIN, rules=RULES
    )


def run_until(point: Point, world: World, labels: Path, work: Path) -> None:
    """Retrain, and end by SIGKILL at this point; for a process of its own."""
    torch.set_num_threads(1)
    point.arm()
    with Progress(disable=True) as progress:
        retrain(retraining(world, labels, work), progress)


def tile(color: tuple[int, int, int], seed: int) -> bytes:
    """Return a PNG of a tile, never the same twice."""
    return _png(_pixels(color, seed))


def _pixels(color: tuple[int, int, int], seed: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, 12, (SIDE, SIDE, 3))
    return (np.array(color) + noise).clip(0, 255).astype(np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_catalogue(folder: Path, *, count: int = 480) -> None:
    """Write a folder of tiles: groups of three colors."""
    (folder / "images").mkdir(parents=True)
    colors = list(KNOWN)
    with (folder / "catalog.jsonl").open("wb") as lines:
        for number in range(count):
            color, group = colors[number % 3], number // 3
            (folder / "images" / f"{number}.png").write_bytes(tile(KNOWN[color], number))
            product = {
                "id": f"tile-{number}",
                "title": f"{color} tile number{group}",
                "color": color,
                "product_type": CATEGORIES[group % 2],
                "brand": ("Acme", "Bolt")[group % 2],
                "item_group_id": f"group-{group}",
                "image_link": f"images/{number}.png",
            }
            lines.write(orjson.dumps(product) + b"\n")


def write_labels(
    folder: Path,
    *,
    count: int = 300,
    wrong_share: float = 0.2,
    says: Callable[[str, bool], bool] = lambda _, wrong: wrong,
) -> Path:
    """Write pinned labels on tiles, half of known colors and half of new ones, each judged by two people.

    Args:
        folder: where they go.
        count: of items.
        wrong_share: of them whose picture has another color.
        says: what people say of an item of this category that is wrong, or not.
    """
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(5)
    judged = [_judged(folder, number, generator, wrong_share, says) for number in range(count)]
    write_pinned(folder, judged, Pinned(dataset="labels", version=3, items=count, verdicts=2 * count))
    return folder


def write_sampled_labels(
    folder: Path,
    world: World,
    *,
    audit: float,
    says: Callable[[str, bool], bool],
    scored: int = 8000,
    wrong_share: float = 0.05,
    errors: float = 0.05,
) -> Path:
    """Write pinned labels as production samples them: all that the champion alerts on, and this share of the rest.

    Args:
        folder: where they go.
        world: whose champion alerts, on tiles of the colors that it knows.
        audit: the chance of what does not alert.
        says: as of `write_labels`.
        scored: how many tiles there are.
        wrong_share: of them, whose picture has another color.
        errors: of the one verdict that each gets.
    """
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(6)
    colors = list(KNOWN)
    own = generator.integers(3, size=scored)
    wrong = generator.random(scored) < wrong_share
    shown = (own + wrong * generator.integers(1, 3, size=scored)) % 3
    drawn = [_pixels(KNOWN[colors[color]], 50_000 + number) for number, color in enumerate(shown.tolist())]
    fields = [
        {
            "title": f"{colors[color]} tile number{number}",
            "color": colors[color],
            "product_type": CATEGORIES[number % 2],
        }
        for number, color in enumerate(own.tolist())
    ]
    probability, threshold = _asked(world.champion, drawn, fields)
    alerts = probability >= threshold
    chosen = alerts | (generator.random(scored) < audit)
    judged = []
    for number in np.nonzero(chosen)[0].tolist():
        picture = _png(drawn[number])
        digest = hashlib.sha256(picture).hexdigest()
        image_path(folder, digest).write_bytes(picture)
        mismatch = says(fields[number]["product_type"], bool(wrong[number])) != bool(generator.random() < errors)
        judged.append(
            Judged(
                item_id=hashlib.sha256(str(number).encode()).hexdigest()[:32],
                product_id=f"sampled-{number}",
                item_group_id=None,
                category=top_level(fields[number]["product_type"]),
                fields=fields[number],
                columns={},
                image_sha256=digest,
                release=world.champion.name,
                probability=float(probability[number]),
                scored_at=MOMENT,
                sampled="alert" if alerts[number] else "audit",
                sampling_probability=1.0 if alerts[number] else audit,
                mismatches=int(mismatch),
                matches=int(not mismatch),
            )
        )
    write_pinned(folder, judged, Pinned(dataset="labels", version=3, items=len(judged), verdicts=len(judged)))
    return folder


def _asked(
    champion: Path, drawn: list[NDArray[np.uint8]], fields: list[dict[str, str]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the champion's probabilities and thresholds."""
    products = tuple(
        Product(fields=one, facets=(), identity=number, group=str(number), category=one["product_type"])
        for number, one in enumerate(fields)
    )
    pixels = np.ascontiguousarray(np.stack(drawn).transpose(0, 3, 1, 2))
    own = np.arange(len(products))
    pairs = Pairs(own, own, np.zeros_like(own), np.repeat(MATCH, len(own)))
    asked = FrozenSet("scored", Catalog(products, (), pixels, own), pairs, np.ones(len(own)), 0.05)
    engine, tokenizer = load_checked(champion, place=Place(runtime="cpu"))
    with closing(engine), Progress(disable=True) as progress:
        logits = asked.ask(engine, tokenizer, progress)
    manifest = engine.manifest
    threshold = [manifest.threshold_of(top_level(product.category)) for product in products]
    return calibration.apply(manifest.calibration, logits), np.array(threshold)


def _judged(
    folder: Path,
    number: int,
    generator: np.random.Generator,
    wrong_share: float,
    says: Callable[[str, bool], bool],
) -> Judged:
    new = number % 2 == 1
    colors = NEW if new else KNOWN
    own = list(colors)[int(generator.integers(len(colors)))]
    wrong = bool(generator.random() < wrong_share)
    shown = next(name for name in colors if name != own) if wrong else own
    picture = tile(colors[shown], 10_000 + number)
    digest = hashlib.sha256(picture).hexdigest()
    image_path(folder, digest).write_bytes(picture)
    category = NEW_CATEGORY if new else CATEGORIES[number % 4 // 2]
    mismatch = says(category, wrong)
    return Judged(
        item_id=hashlib.sha256(str(number).encode()).hexdigest()[:32],
        product_id=f"judged-{number}",
        item_group_id=f"judged-group-{number // 4}",
        category=category.split(" > ", maxsplit=1)[0],
        fields={"title": f"{own} tile number{number}", "color": own, "product_type": category, "brand": "Acme"},
        columns={},
        image_sha256=digest,
        release="small-000000000000",
        probability=0.3,
        scored_at=MOMENT,
        sampled="alert" if number % 10 == 0 else "audit",
        sampling_probability=1.0 if number % 10 == 0 else 0.5,
        mismatches=2 * mismatch,
        matches=2 * (not mismatch),
    )
