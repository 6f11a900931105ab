"""How well an engine tells wrong pictures from right ones, on products that it has not seen. No torch in here.

Matches are each product's own pictures; mismatches are pictures of products that contradict its text. Figures are
stated for a prevalence, by weighing the pairs (see `engines.calibration`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from engines import calibration
from engines.build.dataset import split
from engines.build.negatives import PartnerSampler, single_difference
from engines.catalogs.groups import connected
from engines.contract import top_level
from engines.inference import infer_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from rich.progress import Progress

    from engines.build.dataset import Catalog
    from engines.build.texts import Texts
    from engines.calibration import Interval
    from engines.contract import Batch, Calibration, Engine, Manifest

PRECISIONS = (0.5, 0.8, 0.9)

MATCH, OTHER = "match", "several"
"""What `Pairs.difference` holds beside facet names: nothing differs; more than one thing does."""


_LEAST_HALF: Final = 200
"""Products: fewer say too little of a weight, or of a threshold."""


class Pairs(NamedTuple):
    """Pairs to score: text of `product`, `picture`, and in what they differ; arrays (M,)."""

    product: NDArray[np.int64]
    picture: NDArray[np.int64]
    label: NDArray[np.int64]
    difference: NDArray[np.str_]


class Figures(NamedTuple):
    """One line of the quality table: mismatches of one kind against all matches."""

    pairs: int
    auc: Interval
    recall_at_precision: dict[float, Interval]
    recall_at_threshold: Interval
    precision_at_threshold: Interval


def hard_pairs(catalog: Catalog, *, seed: int) -> Pairs:
    """Return every product with each of its pictures, and with a picture of each one-facet variant of its group."""
    generator = np.random.default_rng(seed)
    groups: dict[str, list[int]] = {}
    for index, product in enumerate(catalog.products):
        groups.setdefault(product.group, []).append(index)
    swaps = [
        (i, j, name)
        for i, product in enumerate(catalog.products)
        for j in groups[product.group]
        if catalog.products[j].identity != product.identity
        and (name := single_difference(product, catalog.products[j], catalog.facet_names))
    ]
    return _with_matches(catalog, swaps, generator)


def mixed_pairs(catalog: Catalog, mix: dict[str, float], *, seed: int, rounds: int = 3) -> Pairs:
    """Return every product with each of its pictures, and with `rounds` pictures of partners drawn from `mix`."""
    generator = np.random.default_rng(seed)
    sampler = PartnerSampler(catalog.products, seed=seed)
    anchors = np.tile(np.arange(len(catalog.products)), rounds)
    swaps = [
        (int(i), int(j), single_difference(catalog.products[i], catalog.products[j], catalog.facet_names) or OTHER)
        for i, j in zip(anchors, sampler.partners(anchors, mix), strict=True)
    ]
    return _with_matches(catalog, swaps, generator)


def score(engine: Engine, catalog: Catalog, texts: Texts, pairs: Pairs, progress: Progress) -> NDArray[np.float32]:
    """Return a logit for each pair, float32 (M,), in batches as large as the engine takes.

    Raises:
        InferenceFailed: the engine does not run.
    """
    size = engine.manifest.max_batch

    def batches() -> Iterator[Batch]:
        for start in range(0, len(pairs.label), size):
            product, picture = pairs.product[start : start + size], pairs.picture[start : start + size]
            yield texts.batch(catalog.pixel_values[picture], product)

    task = progress.add_task("scoring pairs", total=len(pairs.label))
    logits: list[NDArray[np.float32]] = []
    for scored in infer_all(engine, batches()):
        logits.append(scored)
        progress.advance(task, len(scored))
    return np.concatenate(logits)


def figures(
    logits: NDArray[np.float32],
    catalog: Catalog,
    pairs: Pairs,
    fitted: Calibration,
    *,
    thresholds: NDArray[np.float64],
    prevalence: float,
    samples: int = 300,
) -> dict[str, Figures]:
    """Return the quality of each kind of difference and of all together (`all`), with 95 % bootstrap intervals.

    `thresholds` (M,) are those of each pair's product, on the calibrated probability.
    """
    probabilities, groups = calibration.apply(fitted, logits), related(catalog, pairs)
    kinds = ["all", *sorted(set(pairs.difference.tolist()) - {MATCH})]
    return {kind: _figures_of(probabilities, pairs, groups, kind, thresholds, prevalence, samples) for kind in kinds}


def thresholds(manifest: Manifest, catalog: Catalog) -> NDArray[np.float64]:
    """Return the release's threshold for each product, float64 (N,)."""
    return np.array([manifest.threshold_of(top_level(product.category)) for product in catalog.products])


def related(catalog: Catalog, pairs: Pairs) -> NDArray[np.int64]:
    """Return for each pair a number that it shares with all pairs of the same item, int64 (M,)."""
    return np.asarray(items(catalog), dtype=np.int64)[pairs.product]


def items(catalog: Catalog) -> list[int]:
    """Return the item of each product.

    An item is its variants and what shows and says the same: their texts are alike, so their scores are, too.
    """
    return connected([[("group", p.group), ("identity", p.identity)] for p in catalog.products])


def halves(catalog: Catalog, *, seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return two halves of the products, bool (N,), no item in both; both are all where halves would be too small.

    They are, where there are few products, or one item is most of them.
    """
    count = len(catalog.products)
    if count < 2 * _LEAST_HALF:
        return np.ones(count, np.bool_), np.ones(count, np.bool_)
    one = np.zeros(count, np.bool_)
    one[split(items(catalog), (0.5, 0.5), seed=seed)[0]] = True
    if min(one.sum(), (~one).sum()) < _LEAST_HALF // 2:
        return np.ones(count, np.bool_), np.ones(count, np.bool_)
    return one, ~one


def of_products(pairs: Pairs, products: NDArray[np.bool_]) -> Pairs:
    """Return the pairs whose text is of these products, bool (N,)."""
    rows = products[pairs.product]
    return Pairs(pairs.product[rows], pairs.picture[rows], pairs.label[rows], pairs.difference[rows])


def summary(lines: dict[str, Figures]) -> dict[str, object]:
    """Return the figures as plain numbers, for a manifest or a JSON line."""
    return {
        kind: {
            "pairs": line.pairs,
            "auc": _rounded(line.auc),
            "recall_at_precision": {str(p): _rounded(interval) for p, interval in line.recall_at_precision.items()},
            "recall_at_threshold": _rounded(line.recall_at_threshold),
            "precision_at_threshold": _rounded(line.precision_at_threshold),
        }
        for kind, line in lines.items()
    }


def _with_matches(catalog: Catalog, swaps: Sequence[tuple[int, int, str]], generator: np.random.Generator) -> Pairs:
    pictures = np.arange(len(catalog.picture_owner))
    swapped = catalog.any_picture(np.array([j for _, j, _ in swaps], dtype=np.int64), generator)
    return Pairs(
        product=np.concatenate([catalog.picture_owner, np.array([i for i, _, _ in swaps], dtype=np.int64)]),
        picture=np.concatenate([pictures, swapped]),
        label=np.concatenate([np.zeros(len(pictures), dtype=np.int64), np.ones(len(swaps), dtype=np.int64)]),
        difference=np.array([MATCH] * len(pictures) + [name for _, _, name in swaps]),
    )


def _figures_of(  # noqa: PLR0917 - private, called once
    probabilities: NDArray[np.float64],
    pairs: Pairs,
    groups: NDArray[np.int64],
    kind: str,
    thresholds: NDArray[np.float64],
    prevalence: float,
    samples: int,
) -> Figures:
    chosen = (pairs.label == 0) | (kind == "all") | (pairs.difference == kind)
    label = pairs.label[chosen]
    columns = np.stack([probabilities[chosen], (probabilities - thresholds)[chosen]], axis=1)

    def statistics(drawn: NDArray[np.floating], labels: NDArray[np.integer]) -> list[float]:
        decided = calibration.at_threshold(drawn[:, 1], labels, prevalence=prevalence, threshold=0.0)
        curve = calibration.roc_curve(drawn[:, 0], labels)
        points = curve.at(prevalence)
        return [*decided, curve.auc(), *(points.recall_at(precision) for precision in PRECISIONS)]

    recall, precision, auc, *reached = calibration.bootstrap(
        statistics, columns, label, groups=groups[chosen], samples=samples
    )
    return Figures(int(label.sum()), auc, dict(zip(PRECISIONS, reached, strict=True)), recall, precision)


def _rounded(interval: Interval) -> list[float]:
    """Return [value, low, high] to four decimals."""
    return [round(number, 4) for number in interval]
