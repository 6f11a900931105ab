"""Golden pairs, and the gate that compares a plan with ONNX Runtime in float32 on them.

They are made when a plan is: drawn products from a seed, so that every release has them, whoever trained it and however
long ago; or, with a catalogue, its own products, which are what the scorer will see. Half of the pairs are right, half
have the picture of another product, most of them of one that is alike. What they should score is what the release's
`model.onnx` says on the CPU, in this run: there is no file of expected numbers to go stale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from engines import calibration
from engines.build import evaluate
from engines.build.evaluate import mixed_pairs
from engines.build.gather import gather_listed, gather_rendered
from engines.build.listing import list_folder
from engines.build.texts import encode
from engines.errors import ParityExceeded, TextRefused

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.progress import Progress

    from engines.build.dataset import Catalog
    from engines.build.evaluate import Pairs
    from engines.build.texts import Texts
    from engines.contract import AttributeColumns, Engine, Manifest
    from engines.text import Tokenizer

PAIRS: Final = 512
MAX_DIFFERENCE: Final = 0.02
"""Largest |plan - ONNX| of a calibrated probability, unless told otherwise: less than people see in a score."""

MAX_FLIPS: Final = 0.005
"""Largest share of pairs that alert with one and not with the other, unless told otherwise."""

LEAST_SPREAD: Final = 0.005
"""Least standard deviation of the probabilities: on pairs that score alike, a plan that reads nothing would pass."""

_MIX: Final = {"random": 0.3, "neighbour": 0.7}
_KNOWN: Final = 0.7  # of the drawn attributes
_WORST: Final = 5  # pairs in a refusal


@dataclass(frozen=True)
class Golden:
    """Pairs to score, and where they come from."""

    catalog: Catalog
    texts: Texts
    pairs: Pairs
    origin: str

    def score(self, engine: Engine, progress: Progress) -> NDArray[np.float32]:
        """Return the engine's logit of each pair, float32 (M,).

        Raises:
            InferenceFailed: it does not run.
        """
        return evaluate.score(engine, self.catalog, self.texts, self.pairs, progress)


class Tolerance(NamedTuple):
    """How far a plan may be from ONNX: of one probability, and the share of pairs whose alert flips."""

    difference: float = MAX_DIFFERENCE
    flips: float = MAX_FLIPS


class Parity(NamedTuple):
    """A plan beside ONNX on M pairs: probabilities float64 (M,), thresholds float64 (M,) of each pair's category."""

    expected: NDArray[np.float64]
    found: NDArray[np.float64]
    thresholds: NDArray[np.float64]

    @property
    def differences(self) -> NDArray[np.float64]:
        """|plan - ONNX| of each pair."""
        return np.abs(self.found - self.expected)

    @property
    def flipped(self) -> NDArray[np.bool_]:
        """Which pairs alert with one and not with the other."""
        return np.asarray((self.expected >= self.thresholds) != (self.found >= self.thresholds))

    @property
    def spread(self) -> float:
        """The standard deviation of what is expected: pairs that all score alike prove little."""
        return float(self.expected.std())

    def facts(self) -> dict[str, Any]:
        """Return the comparison as plain numbers."""
        return {
            "pairs": len(self.expected),
            "largest": float(self.differences.max()),
            "mean": float(self.differences.mean()),
            "flips": int(self.flipped.sum()),
            "alerts": int((self.expected >= self.thresholds).sum()),
            "spread": self.spread,
        }


def gather(
    manifest: Manifest,
    tokenizer: Tokenizer,
    *,
    folder: Path | None = None,
    count: int = PAIRS,
    seed: int = 0,
    progress: Progress,
) -> Golden:
    """Return about `count` pairs, the same for the same seed.

    Args:
        manifest: What the engine takes.
        tokenizer: Of the release.
        folder: A catalogue's; None: products are drawn.
        count: How many pairs.
        seed: Which products, and which pictures are exchanged.
        progress: Shows how far it is.

    Raises:
        CatalogInvalid: the folder cannot be read.
        TextRefused: the engine reads no field that these products have.
    """
    products = max(2, count // 2)
    if folder is None:
        catalog = gather_rendered(products, seed=seed, image=manifest.image, progress=progress)
    else:
        whole = list_folder(folder, progress)
        chosen = np.random.default_rng(seed).permutation(len(whole))[:products]
        part = whole.subset(sorted(chosen.tolist()))
        catalog = gather_listed(part, image=manifest.image, progress=progress)
    try:
        texts = encode(catalog, tokenizer, manifest.attributes)
    except TextRefused as error:
        raise TextRefused(f"{error}; name a catalogue that has what this engine reads: --catalog DIR") from error
    if folder is None and manifest.attributes is not None:
        texts = texts._replace(attributes=_drawn_attributes(manifest.attributes, products, seed))
    origin = f"drawn products, seed {seed}" if folder is None else f"catalogue {folder.name}, seed {seed}"
    return Golden(catalog, texts, mixed_pairs(catalog, _MIX, seed=seed, rounds=1), origin)


def compare(golden: Golden, manifest: Manifest, expected: NDArray[np.float32], found: NDArray[np.float32]) -> Parity:
    """Return a plan's logits beside ONNX's, both (M,), as what products get: calibrated, under their thresholds."""
    return Parity(
        calibration.apply(manifest.calibration, expected),
        calibration.apply(manifest.calibration, found),
        evaluate.thresholds(manifest, golden.catalog)[golden.pairs.product],
    )


def check(parity: Parity, golden: Golden, tolerance: Tolerance, *, precision: str) -> None:
    """Let a plan pass that does as ONNX does.

    Raises:
        ParityExceeded: it does not; the message names the worst pairs and says what to try.
    """
    if parity.spread < LEAST_SPREAD:
        raise ParityExceeded(
            f"the golden pairs ({golden.origin}) prove nothing: their probabilities spread by {parity.spread:.5f}. "
            "They are unlike what this engine was trained on; name a catalogue that is not: --catalog DIR"
        )
    largest, flips = float(parity.differences.max()), float(parity.flipped.mean())
    if largest <= tolerance.difference and flips <= tolerance.flips:  # also refuses what is not a number
        return
    worst = np.argsort(-parity.differences)[:_WORST]
    lines = [
        f"  {golden.catalog.products[golden.pairs.product[row]].id or row}: ONNX {parity.expected[row]:.4f}, plan "
        f"{parity.found[row]:.4f}, threshold {parity.thresholds[row]:.4f}"
        for row in worst.tolist()
    ]
    other = {"fp16": "bf16, or fp32", "bf16": "fp16, or fp32"}.get(precision)
    advice = f"Try --precision {other}." if other else "No precision is left to try: report it, with this TensorRT."
    raise ParityExceeded(
        f"the {precision} plan is refused: on {len(parity.expected)} pairs ({golden.origin}) it differs from ONNX by "
        f"up to {largest:.4f} in a probability (allowed: {tolerance.difference:g}), and {flips:.2%} of the alerts flip "
        f"(allowed: {tolerance.flips:.2%}). The worst pairs:\n" + "\n".join(lines) + f"\n{advice}"
    )


def _drawn_attributes(columns: AttributeColumns, products: int, seed: int) -> NDArray[np.float32]:
    """Return attributes (N, A, 2) of which some are not known; drawn products have none of their own."""
    generator = np.random.default_rng(seed)
    numbers = generator.normal(3.0, 1.5, (products, columns.count))  # log(1 + price) of prices around 20
    start = len(columns.numbers)
    for index, values in enumerate(columns.categories.values()):
        numbers[:, start + index] = generator.integers(0, len(values) + 1, products)
    known = generator.random((products, columns.count)) < _KNOWN
    return np.stack([np.where(known, numbers, 0.0), known], axis=-1).astype(np.float32)
