"""Where releases are kept for scorers to fetch: a folder, or any URL that fsspec knows (`s3://bucket/releases`).

    STORE/<release>/   manifest.json   model.onnx   tokenizer.json   golden.json

A release is there when its manifest is, which is written last and whole; what a publisher that was killed has left is
no release, and the next attempt writes over it. What is there is never changed: a release is named by its content.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from engines import releases
from engines.errors import EngineError, ReleaseCorrupt, ReleaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from engines.contract import Manifest

RELEASE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,119}-[0-9a-f]{12}")
"""What a release may be called: a name comes from a topic, and becomes part of a path."""


@dataclass(frozen=True)
class Stored:
    """A release that the store holds; `manifest_sha256` is what an announcement pins."""

    manifest: Manifest
    manifest_sha256: str


class ReleaseStore:
    """Releases under one URL; blocks, so call it from a thread.

    Args:
        url: a folder, or a URL with a scheme that fsspec has an implementation for.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        with _reaching(url):
            filesystem, root = fsspec.core.url_to_fs(url)
        self._files: Any = filesystem
        self._root = str(root).rstrip("/")

    def names(self) -> list[str]:
        """Return the names of all releases.

        Raises:
            ReleaseUnavailable: the store does not answer.
        """
        with _reaching(self.url):
            if not self._files.isdir(self._root):
                return []
            entries = [str(path).rsplit("/", 1)[-1] for path in self._files.ls(self._root, detail=False)]
            named = sorted(name for name in entries if RELEASE_NAME.fullmatch(name))
            return [name for name in named if self._files.exists(self._path(name, releases.MANIFEST_FILE))]

    def read(self, name: str) -> Stored:
        """Return the manifest of a release, its other files not looked at.

        Raises:
            ReleaseUnavailable: release_unknown, or release_unavailable.
            ManifestInvalid: what stands there is no manifest.
        """
        with tempfile.TemporaryDirectory() as scratch:
            digest = self._fetch_manifest(name, Path(scratch))
            return Stored(releases.read_manifest(Path(scratch)), digest)

    @contextmanager
    def fetched(
        self,
        name: str,
        *,
        manifest_sha256: str | None = None,
        scratch: Path | None = None,
        admit: Callable[[Manifest], None] | None = None,
    ) -> Generator[Path]:
        """Give a directory with the whole release, every digest compared; it is removed afterwards.

        Args:
            name: of the release.
            manifest_sha256: what the manifest's own digest must be, where somebody has said so.
            scratch: where the directory is made, and what a killed process left there is removed; a place for temporary
                files if None.
            admit: is shown the manifest before anything else is fetched; what it raises ends the matter.

        Raises:
            ReleaseUnavailable: release_unknown, or release_unavailable.
            ManifestInvalid, ReleaseCorrupt: what is there is not what was published.
        """
        with _directory(scratch) as target:
            found = self._fetch_manifest(name, target)
            if manifest_sha256 is not None and found != manifest_sha256:
                raise ReleaseCorrupt(
                    f"the manifest of {name} in {self.url} has SHA-256 {found[:12]}…, {manifest_sha256[:12]}… was "
                    "announced: somebody has changed it"
                )
            manifest = releases.read_manifest(target)
            if manifest.release != name:
                raise ReleaseCorrupt(f"{self.url}/{name} holds {manifest.release}: releases are never renamed")
            if admit is not None:
                admit(manifest)
            for file in manifest.files:
                self._get(name, file, target / file)
            releases.verify(target)
            yield target

    def publish(self, directory: Path) -> Stored:
        """Copy a release into the store; a release that is there already is compared and left alone.

        Raises:
            ManifestInvalid, ReleaseCorrupt: the directory does not hold a whole release, or the store's own copy is
                another one.
            ReleaseUnavailable: the store cannot be written.
        """
        manifest = releases.verify(directory)
        digest = releases.sha256(directory / releases.MANIFEST_FILE)
        if RELEASE_NAME.fullmatch(manifest.release) is None:
            raise ReleaseCorrupt(f"{manifest.release!r} is no name of a release: <family>-<12 hex>")
        with _reaching(self.url):
            there = self._files.exists(self._path(manifest.release, releases.MANIFEST_FILE))
        if there:
            stored = self.read(manifest.release)
            if stored.manifest.files != manifest.files:
                raise ReleaseCorrupt(f"{self.url}/{manifest.release} holds other files: remove it, publish again")
            return stored
        if isinstance(self._files, LocalFileSystem):
            releases.install(directory, Path(self._root))
        else:
            self._upload(directory, manifest)
        return Stored(manifest, digest)

    def _upload(self, directory: Path, manifest: Manifest) -> None:
        """Put every file, the manifest last: object stores have no rename, and show an object whole or not at all."""
        with _reaching(self.url):
            for file in (*manifest.files, releases.MANIFEST_FILE):
                self._files.pipe_file(self._path(manifest.release, file), (directory / file).read_bytes())

    def _fetch_manifest(self, name: str, target: Path) -> str:
        if RELEASE_NAME.fullmatch(name) is None:
            raise ReleaseUnavailable(f"{name!r} is no name of a release: <family>-<12 hex>", code="release_unknown")
        try:
            self._get(name, releases.MANIFEST_FILE, target / releases.MANIFEST_FILE)
        except ReleaseCorrupt as error:
            raise ReleaseUnavailable(
                f"{self.url} has no release {name}: `streamer releases list` names those it has", code="release_unknown"
            ) from error
        return releases.sha256(target / releases.MANIFEST_FILE)

    def _get(self, name: str, file: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _reaching(self.url), self._files.open(self._path(name, file), "rb") as source, target.open("wb") as to:
                shutil.copyfileobj(source, to, 2**20)
        except FileNotFoundError as error:
            raise ReleaseCorrupt(f"{self.url}/{name} lacks {file}: publish the release again") from error

    def _path(self, name: str, file: str) -> str:
        return f"{self._root}/{name}/{file}"


@contextmanager
def _directory(scratch: Path | None) -> Generator[Path]:
    """Give a directory to fetch into."""
    if scratch is not None:
        with releases.scratch(scratch, "release-") as directory:
            yield directory
        return
    with tempfile.TemporaryDirectory(prefix="release-") as made:
        yield Path(made)


@contextmanager
def _reaching(url: str) -> Generator[None]:
    """Translate what the many implementations of fsspec raise, which has no common base."""
    try:
        yield
    except (EngineError, FileNotFoundError):
        raise
    except Exception as error:
        raise ReleaseUnavailable(f"{url} cannot be reached: {type(error).__name__}: {error}") from error
