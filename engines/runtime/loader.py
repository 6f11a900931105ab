"""A release's directory → an engine that is verified, loaded and warm. The only place that chooses a runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engines import golden, releases
from engines.runtime.onnx import OnnxEngine
from engines.text import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from engines.contract import Engine


def load(directory: Path | None = None, *, threads: int = 0, max_batch: int | None = None) -> Engine:
    """Return the engine of the release in `directory`, warm; None: the release that ships in this package.

    Args:
        directory: A release; see `engines.releases`.
        threads: CPU threads of one inference; 0: one per core.
        max_batch: A cap under the manifest's own; the engine's manifest then says this one.

    Raises:
        ManifestInvalid, ReleaseCorrupt: the release is not whole.
        EngineUnavailable: this machine cannot run it.
        InferenceFailed: it loads but does not run.
    """
    path = directory if directory is not None else releases.shipped()
    manifest = releases.verify(path)
    if max_batch is not None:
        manifest = msgspec.structs.replace(manifest, max_batch=min(max_batch, manifest.max_batch))
    engine = OnnxEngine(path / releases.MODEL_FILE, manifest, threads=threads)
    engine.warm()
    return engine


def load_checked(directory: Path, *, threads: int = 0, max_batch: int | None = None) -> tuple[Engine, Tokenizer]:
    """Return engine and tokenizer of the release in `directory`, after asking its golden pairs again.

    A release that was made without them is only asked for finite answers.

    Raises:
        ManifestInvalid, ReleaseCorrupt, EngineUnavailable, InferenceFailed: as `load`.
        ReleaseRefused: golden_mismatch, tokenizer_mismatch, golden_invalid.
    """
    engine = load(directory, threads=threads, max_batch=max_batch)
    try:
        tokenizer = load_tokenizer(directory)
        golden.check(engine, tokenizer, golden.read(directory, engine.manifest))
    except BaseException:
        engine.close()
        raise
    return engine, tokenizer


def load_tokenizer(directory: Path | None = None) -> Tokenizer:
    """Return the tokenizer of the release in `directory`; None: the release that ships in this package.

    Raises:
        ManifestInvalid: the manifest or the tokenizer cannot be read.
    """
    path = directory if directory is not None else releases.shipped()
    return Tokenizer.from_file(path / releases.TOKENIZER_FILE, releases.read_manifest(path).text)
