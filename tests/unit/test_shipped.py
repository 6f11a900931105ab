"""The release that ships in the package: whole, small, and ready to score."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image

from engines import calibration, golden, releases
from engines.contract import Batch
from engines.image import decode
from engines.runtime.loader import load, load_checked, load_tokenizer
from engines.text import compose

MAX_RELEASE_BYTES = 12_000_000


def test_shipped_release_is_whole_and_small() -> None:
    """Every file is as its manifest says, and together they stay below 12 MB."""
    manifest = releases.verify(releases.shipped())
    names = {*manifest.files, releases.MANIFEST_FILE}
    assert {path.name for path in releases.shipped().iterdir()} == names
    assert sum((releases.shipped() / name).stat().st_size for name in names) <= MAX_RELEASE_BYTES


def test_shipped_release_says_nothing_of_the_machine_that_made_it() -> None:
    """No file of it holds the lines of code, with their paths, that torch notes with each node of a graph."""
    for path in releases.shipped().iterdir():
        assert not re.search(rb"stack_trace|site-packages|\.py\b", path.read_bytes()), path.name


def test_shipped_release_answers_its_golden_pairs_as_where_it_was_made() -> None:
    """Runtime, tokenizer and decoder of this machine do with them what they should; another tokenizer would not."""
    engine, tokenizer = load_checked(releases.shipped(), threads=1)
    pairs = golden.read(releases.shipped(), engine.manifest)
    assert pairs is not None
    assert len(pairs.pairs) == golden.PAIRS
    assert golden.check(engine, tokenizer, pairs) < 1e-3
    engine.close()


def test_shipped_engine_scores_bytes_and_fields() -> None:
    """Bytes and fields become a probability, batched as single."""
    engine, tokenizer = load(threads=1), load_tokenizer()
    picture = io.BytesIO()
    Image.new("RGB", (224, 224), (200, 30, 30)).save(picture, "JPEG")
    pixels = decode(picture.getvalue(), engine.manifest.image, max_pixels=100_000)
    texts = [compose({"title": f"{color} cotton pillow", "color": color}, tokenizer.spec) for color in ("red", "blue")]
    ids, mask = tokenizer.encode(texts)
    together = engine.infer(Batch(np.stack([pixels, pixels]), ids, mask))
    alone = engine.infer(Batch(pixels[None], ids[:1], mask[:1]))
    assert abs(together[0] - alone[0]) < 1e-4
    probabilities = calibration.apply(engine.manifest.calibration, together)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
