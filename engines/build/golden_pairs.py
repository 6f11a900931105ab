"""Golden pairs of a release: what it answers here for some products, for every scorer that loads it to ask again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from engines import golden, releases
from engines.build.gather import gather_folder, gather_rendered
from engines.build.texts import encode
from engines.runtime import loader
from engines.runtime.onnx import OnnxEngine

if TYPE_CHECKING:
    from rich.progress import Progress

    from engines.build.dataset import Catalog
    from engines.build.texts import Texts
    from engines.contract import Engine
    from engines.text import Tokenizer


def write(engine: Engine, tokenizer: Tokenizer, catalog: Catalog, texts: Texts, path: Path) -> Path:
    """Write what the engine answers for the first products of the catalogue, and return the file.

    Raises:
        InferenceFailed: it cannot score them.
    """
    chosen = range(min(golden.PAIRS, len(catalog.products)))
    products = [(catalog.products[i].fields, catalog.pixel_values[catalog.first_picture[i]]) for i in chosen]
    attributes = None if texts.attributes is None else texts.attributes[: len(chosen)]
    path.write_bytes(golden.encode(golden.make(engine, tokenizer, products, attributes)))
    return path


def add(directory: Path, out: Path, *, folder: Path | None, seed: int, progress: Progress) -> Path:
    """Publish a release once more, with golden pairs, and return its new directory: another name, the same model.

    Args:
        directory: the release; what golden pairs it has are replaced.
        out: where the new one goes.
        folder: a catalogue to take products from; None: they are drawn.
        seed: of the drawn products.
        progress: shows how far it is.

    Raises:
        ManifestInvalid, ReleaseCorrupt: the release is not whole.
        CatalogInvalid, TextRefused: the catalogue cannot be read, or has nothing that the engine reads.
        EngineUnavailable, InferenceFailed: it does not load or run.
    """
    manifest = releases.verify(directory)
    if folder is None:
        catalog = gather_rendered(golden.PAIRS, seed=seed, image=manifest.image, progress=progress)
    else:
        catalog, _ = gather_folder(folder, image=manifest.image, progress=progress)
    tokenizer = loader.load_tokenizer(directory)
    engine = OnnxEngine(directory / releases.MODEL_FILE, manifest, threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        texts = encode(catalog, tokenizer, manifest.attributes)
        made = write(engine, tokenizer, catalog, texts, Path(scratch) / releases.GOLDEN_FILE)
        engine.close()
        files = {name: directory / name for name in manifest.files} | {releases.GOLDEN_FILE: made}
        return releases.write_release(out, manifest, files)
