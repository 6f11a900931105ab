"""Golden pairs of a release: what it answers here for some products, for every scorer that loads it to ask again.

The products are drawn, whatever the release was trained on: it stands in stores and on workers for good, and so holds
nothing of a catalogue that may have to be forgotten one day.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engines import golden, releases
from engines.build.gather import gather_rendered
from engines.build.texts import encode
from engines.runtime import loader
from engines.runtime.onnx import OnnxEngine

if TYPE_CHECKING:
    from rich.progress import Progress

    from engines.contract import AttributeColumns, Engine
    from engines.text import Tokenizer

SEED: Final = 3


def write(
    engine: Engine, tokenizer: Tokenizer, attributes: AttributeColumns | None, path: Path, progress: Progress
) -> Path:
    """Write what the engine answers for drawn products, and return the file.

    Raises:
        InferenceFailed: it cannot score them.
    """
    catalog = gather_rendered(golden.PAIRS, seed=SEED, image=engine.manifest.image, progress=progress)
    texts = encode(catalog, tokenizer, attributes)
    products = [
        (product.fields, catalog.pixel_values[catalog.first_picture[number]])
        for number, product in enumerate(catalog.products)
    ]
    path.write_bytes(golden.encode(golden.make(engine, tokenizer, products, texts.attributes)))
    return path


def add(directory: Path, out: Path, *, progress: Progress) -> Path:
    """Publish a release once more, with golden pairs, and return its new directory: another name, the same model.

    Args:
        directory: the release; what golden pairs it has are replaced.
        out: where the new one goes.
        progress: shows how far it is.

    Raises:
        ManifestInvalid, ReleaseCorrupt: the release is not whole.
        EngineUnavailable, InferenceFailed: it does not load or run.
    """
    manifest = releases.verify(directory)
    tokenizer = loader.load_tokenizer(directory)
    engine = OnnxEngine(directory / releases.MODEL_FILE, manifest, threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        made = write(engine, tokenizer, manifest.attributes, Path(scratch) / releases.GOLDEN_FILE, progress)
        engine.close()
        files = {name: directory / name for name in manifest.files} | {releases.GOLDEN_FILE: made}
        return releases.write_release(out, manifest, files)
