"""A release on disk: read, verified, written. A directory that never changes and is named by what stands in it.

    <family>-<12 hex>/   manifest.json   model.onnx   tokenizer.json

No model is loaded here, and nothing here knows a runtime.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.resources
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import msgspec

from engines.contract import MANIFEST_SCHEMA, TEXT_VERSION, Manifest
from engines.errors import ManifestInvalid, ReleaseCorrupt

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

MANIFEST_FILE: Final = "manifest.json"
MODEL_FILE: Final = "model.onnx"
TOKENIZER_FILE: Final = "tokenizer.json"
GOLDEN_FILE: Final = "golden.json"  # see `engines.golden`
WEIGHTS_FILE: Final = "weights.safetensors"  # what training goes on from; read by no scorer
HELD_OUT_FILE: Final = "held-out.json"  # see `engines.held_out`

_REQUIRED_FILES: Final = frozenset({MODEL_FILE, TOKENIZER_FILE})
_BESIDE: Final = frozenset({GOLDEN_FILE, WEIGHTS_FILE, HELD_OUT_FILE})
"""Files that decide no logit."""


class _Schema(msgspec.Struct):
    schema_version: int


def shipped() -> Path:
    """Return the directory of the release that ships in this package."""
    return Path(str(importlib.resources.files("engines").joinpath("shipped")))


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of the release in `directory`; its files are not looked at.

    Raises:
        ManifestInvalid: it is missing, malformed, of an unknown schema, or contradicts itself.
    """
    path = directory / MANIFEST_FILE
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ManifestInvalid(f"{path} cannot be read ({error.strerror}): not the directory of a release?") from error
    try:
        schema = msgspec.json.decode(raw, type=_Schema).schema_version
        if schema != MANIFEST_SCHEMA:
            raise ManifestInvalid(f"{path} has schema {schema}, this version reads {MANIFEST_SCHEMA}")
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.DecodeError as error:
        raise ManifestInvalid(f"{path}: {error}") from error
    _check(manifest, path)
    return manifest


def verify(directory: Path) -> Manifest:
    """Return the manifest after comparing every file of the release with its SHA-256.

    Raises:
        ManifestInvalid: as `read_manifest`.
        ReleaseCorrupt: a file is missing or altered.
    """
    manifest = read_manifest(directory)
    for name, expected in manifest.files.items():
        path = directory / name
        try:
            found = sha256(path)
        except OSError as error:
            raise ReleaseCorrupt(f"{path} cannot be read ({error.strerror}): fetch the release again") from error
        if found != expected:
            raise ReleaseCorrupt(f"{path} has SHA-256 {found[:12]}…, the manifest says {expected[:12]}…")
    return manifest


def write_release(parent: Path, manifest: Manifest, files: Mapping[str, Path]) -> Path:
    """Publish a release atomically and return its directory, `parent/<family>-<12 hex>`.

    `manifest.release` and `manifest.files` are filled in here. A reader sees the whole directory or none: it is written
    beside its place, synced, and renamed. The same content published twice is the same directory.

    Raises:
        ManifestInvalid: the manifest contradicts itself.
        ReleaseCorrupt: the name is taken by a directory whose content is not what its manifest says.
    """
    digests = {name: sha256(path) for name, path in sorted(files.items())}
    release = f"{manifest.family}-{_content_digest(manifest, digests)[:12]}"
    complete = msgspec.structs.replace(manifest, release=release, files=digests)
    _check(complete, parent / release / MANIFEST_FILE)
    target = parent / release
    if target.exists():
        verify(target)
        return target
    _publish(target, encode_manifest(complete), files)
    return target


def install(directory: Path, parent: Path) -> Path:
    """Copy a whole release to `parent/<release>`, atomically as `write_release`, and return that directory.

    Raises:
        ManifestInvalid, ReleaseCorrupt: `directory` does not hold a whole release.
    """
    manifest = verify(directory)
    target = parent / manifest.release
    if not target.exists():
        _publish(target, (directory / MANIFEST_FILE).read_bytes(), {name: directory / name for name in manifest.files})
    verify(target)
    return target


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_digest(manifest: Manifest) -> str:
    """Return 16 hex digits of what decides a logit: the files and input specs, not calibration and thresholds."""
    files = sorted((name, digest) for name, digest in manifest.files.items() if name not in _BESIDE)
    decisive = (files or manifest.release, manifest.image, manifest.text, manifest.attributes)
    return hashlib.sha256(msgspec.json.encode(decisive)).hexdigest()[:16]


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of `manifest.json`, indented for people."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def _publish(target: Path, manifest: bytes, files: Mapping[str, Path]) -> None:
    parent = target.parent
    with scratch(parent, ".staging-") as staging:
        staging.chmod(0o755)  # 0700, as it is made, would keep a scorer that runs as another user out
        for name, source in files.items():
            _write_synced(staging / name, source.read_bytes())
        _write_synced(staging / MANIFEST_FILE, manifest)
        _sync_directory(staging)
        staging.rename(target)
    _sync_directory(parent)


def _check(manifest: Manifest, path: Path) -> None:
    for name in manifest.files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ManifestInvalid(f"{path} names the file {name!r}, which is outside the release")
    if missing := _REQUIRED_FILES - manifest.files.keys():
        raise ManifestInvalid(f"{path} lacks {', '.join(sorted(missing))} in `files`")
    if not all(0 <= value <= 1 for value in (manifest.threshold, *manifest.thresholds.values())):
        raise ManifestInvalid(f"{path}: a threshold is a probability, 0..1")
    if manifest.max_batch < 1:
        raise ManifestInvalid(f"{path}: max_batch is {manifest.max_batch}")
    if not 1 <= manifest.text.version <= TEXT_VERSION:
        raise ManifestInvalid(f"{path} has texts of version {manifest.text.version}, known are 1 to {TEXT_VERSION}")
    _check_inputs(manifest, path)


def _check_inputs(manifest: Manifest, path: Path) -> None:
    expected: dict[str, tuple[str, tuple[int | None, ...]]] = {
        "pixel_values": ("uint8", (None, 3, manifest.image.height, manifest.image.width)),
        "input_ids": ("int32", (None, manifest.text.max_tokens)),
        "attention_mask": ("int32", (None, manifest.text.max_tokens)),
    }
    if manifest.attributes is not None:
        expected["attributes"] = ("float32", (None, manifest.attributes.count, 2))
    declared = {tensor.name: (tensor.dtype, tensor.shape) for tensor in manifest.inputs}
    if declared != expected:
        raise ManifestInvalid(f"{path}: `inputs` is {declared}, but `image`, `text` and `attributes` make {expected}")


def _content_digest(manifest: Manifest, digests: Mapping[str, str]) -> str:
    """Return SHA-256 over everything that decides an alert: files, specs, calibration, thresholds."""
    decisive = (
        sorted(digests.items()),
        manifest.image,
        manifest.text,
        manifest.calibration,
        manifest.threshold,
        sorted(manifest.thresholds.items()),
        *([manifest.attributes] if manifest.attributes is not None else []),
    )
    return hashlib.sha256(msgspec.json.encode(decisive)).hexdigest()


@contextmanager
def scratch(parent: Path, prefix: str) -> Generator[Path]:
    """Give a new directory in `parent`, removed afterwards; so is, before, what killed processes have left of theirs.

    A process at work in `parent` locks it, shared; only who can lock it alone removes something. Where the file system
    has no locks, nothing is.
    """
    parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in parent.glob(f"{prefix}*"):
                shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as directory:
            yield Path(directory)
    finally:
        os.close(descriptor)


def _write_synced(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
