"""Golden pairs: what a release answered where it was made, so that wherever it is loaded it can be asked again.

`golden.json` is a file of the release like any other, digest and all. Each pair has a product's fields, the tokens that
they became, a picture and the logit. Digests tell that the files are those that were published; golden pairs tell that
they were the right files, and that this machine's runtime, decoder and tokenizer do with them what they should.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from PIL import Image

from engines.contract import Batch
from engines.errors import EngineError, ReleaseRefused
from engines.image import decode
from engines.releases import GOLDEN_FILE
from engines.text import compose

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.contract import Engine, Manifest
    from engines.text import Tokenizer

TOLERANCE: Final = 0.02
"""Of a logit, absolute below 1 and relative above: float16 on a GPU stays below it, another model does not."""

PAIRS: Final = 16
"""Enough to fill batches of more than one; a golden.json then has a few hundred kilobytes."""

_NOISE_PAIRS: Final = 4


class GoldenPair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One product as the release saw it.

    `image` is a PNG in base64, of the size that the engine takes; `input_ids` are those that are read, without
    padding; `attributes` is (A, 2), where the engine takes any.
    """

    fields: dict[str, str]
    image: str
    input_ids: list[int]
    logit: float
    attributes: list[tuple[float, float]] | None = None


class Golden(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`golden.json`."""

    tolerance: float
    pairs: list[GoldenPair]


def make(
    engine: Engine,
    tokenizer: Tokenizer,
    products: Sequence[tuple[Mapping[str, str], NDArray[np.uint8]]],
    attributes: NDArray[np.float32] | None = None,
    *,
    tolerance: float = TOLERANCE,
) -> Golden:
    """Return what the engine answers for these products.

    Args:
        engine: the release, loaded.
        tokenizer: of the release.
        products: fields and `pixel_values`, uint8 (3, H, W), of each.
        attributes: float32 (N, A, 2) where the engine takes any.
        tolerance: see `TOLERANCE`.

    Raises:
        TextRefused: a product has no text.
        InferenceFailed: the engine cannot score them.
    """
    spec = engine.manifest.text
    ids, mask = tokenizer.encode([compose(fields, spec) for fields, _ in products])
    pixels = np.stack([picture for _, picture in products])
    logits = _infer(engine, Batch(pixels, ids, mask, attributes))
    pairs = [
        GoldenPair(
            fields=dict(fields),
            image=_png(picture),
            input_ids=[int(one) for one in ids[row][mask[row] == 1]],
            logit=float(logits[row]),
            attributes=None if attributes is None else [(float(a), float(b)) for a, b in attributes[row]],
        )
        for row, (fields, picture) in enumerate(products)
    ]
    return Golden(tolerance=tolerance, pairs=pairs)


def encode(golden: Golden) -> bytes:
    """Return the bytes of `golden.json`."""
    return msgspec.json.encode(golden) + b"\n"


def read(directory: Path, manifest: Manifest) -> Golden | None:
    """Return the golden pairs of the release in `directory`, None where it was made without.

    Raises:
        ReleaseRefused: golden_invalid.
    """
    if GOLDEN_FILE not in manifest.files:
        return None
    try:
        golden = msgspec.json.decode((directory / GOLDEN_FILE).read_bytes(), type=Golden)
    except (OSError, msgspec.DecodeError) as error:
        raise ReleaseRefused(f"{directory / GOLDEN_FILE}: {error}", code="golden_invalid") from error
    if not golden.pairs:
        raise ReleaseRefused(f"{directory / GOLDEN_FILE} has no pairs", code="golden_invalid")
    return golden


def check(engine: Engine, tokenizer: Tokenizer, golden: Golden | None) -> float:
    """Return the largest |logit - golden logit|; without golden pairs only see that answers to noise are finite.

    Raises:
        ReleaseRefused: tokenizer_mismatch, golden_mismatch, golden_invalid.
        InferenceFailed: the engine cannot score them, or a logit is not finite.
    """
    if golden is None:
        _infer(engine, _noise(engine.manifest))
        return 0.0
    expected = np.array([pair.logit for pair in golden.pairs])
    found = _infer(engine, _batch(engine.manifest, tokenizer, golden))
    apart = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
    if not (apart <= golden.tolerance).all():
        worst = int(np.argmax(apart))
        raise ReleaseRefused(
            f"{engine.manifest.release} answers {found[worst]:.4f} to golden pair {worst}, it answered "
            f"{expected[worst]:.4f} where it was made: other weights, or a runtime that computes something else"
        )
    return float(np.abs(found - expected).max())


def _batch(manifest: Manifest, tokenizer: Tokenizer, golden: Golden) -> Batch:
    try:
        texts = [compose(pair.fields, manifest.text) for pair in golden.pairs]
        pictures = [decode(base64.b64decode(pair.image), manifest.image, max_pixels=2**24) for pair in golden.pairs]
        columns = [pair.attributes for pair in golden.pairs if pair.attributes is not None]
        attributes = np.array(columns, dtype=np.float32) if columns else None
    except (EngineError, ValueError) as error:
        raise ReleaseRefused(f"a golden pair cannot be read: {error}", code="golden_invalid") from error
    ids, mask = tokenizer.encode(texts)
    for number, pair in enumerate(golden.pairs):
        if ids[number][mask[number] == 1].tolist() != pair.input_ids:
            raise ReleaseRefused(
                f"golden pair {number} has other tokens here than where {manifest.release} was made: another "
                "tokenizer.json, or another version of what composes texts",
                code="tokenizer_mismatch",
            )
    return Batch(np.stack(pictures), ids, mask, attributes)


def _infer(engine: Engine, batch: Batch) -> NDArray[np.float32]:
    """Return the logits, in as many batches as the engine's cap asks for."""
    cap = engine.manifest.max_batch
    return np.concatenate([engine.infer(_rows(batch, slice(at, at + cap))) for at in range(0, len(batch), cap)])


def _rows(batch: Batch, rows: slice) -> Batch:
    attributes = None if batch.attributes is None else batch.attributes[rows]
    return Batch(batch.pixel_values[rows], batch.input_ids[rows], batch.attention_mask[rows], attributes)


def _noise(manifest: Manifest) -> Batch:
    random: Any = np.random.default_rng(0)
    size, image, tokens = _NOISE_PAIRS, manifest.image, manifest.text.max_tokens
    columns = manifest.attributes
    return Batch(
        pixel_values=random.integers(0, 256, (size, 3, image.height, image.width), dtype=np.uint8),
        input_ids=np.ones((size, tokens), np.int32),
        attention_mask=np.ones((size, tokens), np.int32),
        attributes=None if columns is None else np.zeros((size, columns.count, 2), np.float32),
    )


def _png(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
