"""Golden pairs of a release: what it answers here for some products, for every scorer that loads it to ask again.

The products are drawn, whatever the release was trained on: it stands in stores and on workers for good, and so holds
nothing of a catalogue that may have to be forgotten one day.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from engines import golden, releases
from engines.attributes import AttributeReader
from engines.catalogs import rendered
from engines.image import decode
from engines.runtime import loader
from engines.runtime.onnx import OnnxEngine

if TYPE_CHECKING:
    from engines.contract import Engine
    from engines.text import Tokenizer

SEED: Final = 3
_MAX_PIXELS: Final = 2**20  # of a drawn picture


def write(engine: Engine, tokenizer: Tokenizer, path: Path) -> Path:
    """Write what the engine answers for drawn products, and return the file.

    Raises:
        InferenceFailed: it cannot score them.
    """
    manifest = engine.manifest
    drawn = rendered.render_catalog(golden.PAIRS, SEED)
    products = [(one.fields, decode(rendered.jpeg(one), manifest.image, max_pixels=_MAX_PIXELS)) for one in drawn]
    attributes = None
    if manifest.attributes is not None:
        reader = AttributeReader(manifest.attributes)
        attributes = np.stack([reader.read({**one.fields, "price": one.price}) for one in drawn])
    path.write_bytes(golden.encode(golden.make(engine, tokenizer, products, attributes)))
    return path


def add(directory: Path, out: Path) -> Path:
    """Publish a release once more, with golden pairs, and return its new directory: another name, the same model.

    Args:
        directory: the release; what golden pairs it has are replaced.
        out: where the new one goes.

    Raises:
        ManifestInvalid, ReleaseCorrupt: the release is not whole.
        EngineUnavailable, InferenceFailed: it does not load or run.
    """
    manifest = releases.verify(directory)
    tokenizer = loader.load_tokenizer(directory)
    engine = OnnxEngine(directory / releases.MODEL_FILE, manifest, threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        made = write(engine, tokenizer, Path(scratch) / releases.GOLDEN_FILE)
        engine.close()
        files = {name: directory / name for name in manifest.files} | {releases.GOLDEN_FILE: made}
        return releases.write_release(out, manifest, files)
