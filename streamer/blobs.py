"""Bytes under names, in a folder or at any URL that fsspec knows; each is there whole or not at all.

Blocks: for threads. What an implementation of fsspec raises has no common base: here it becomes "not there", or "try
again later".
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from streamer.errors import FatalError, TransientError

if TYPE_CHECKING:
    from collections.abc import Generator


class Blobs:
    """Names are paths with `/`, made by this project and never by strangers.

    Args:
        url: a folder, or a URL with a scheme that fsspec has an implementation for.
        setting: where people set the URL, for messages.

    Raises:
        FatalError: settings_invalid, when nothing is installed that knows the URL.
    """

    def __init__(self, url: str, *, setting: str) -> None:
        self.url = url
        try:
            filesystem, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise FatalError("settings_invalid", f"{setting}={url}: {error}") from error
        self._files: Any = filesystem
        self._root = str(root).rstrip("/")

    def put(self, name: str, content: bytes) -> None:
        """Write, or write over.

        Raises:
            TransientError: store_unavailable.
        """
        path = f"{self._root}/{name}"
        with self._reaching():
            if not isinstance(self._files, LocalFileSystem):
                self._files.pipe_file(path, content)
                return
            target = Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
            partial.write_bytes(content)
            partial.replace(target)

    def get(self, name: str) -> bytes | None:
        """Return the bytes, None where there are none.

        Raises:
            TransientError: store_unavailable.
        """
        with self._reaching(), contextlib.suppress(FileNotFoundError):
            content: bytes = self._files.cat_file(f"{self._root}/{name}")
            return content
        return None

    def exists(self, name: str) -> bool:
        """Whether there is something of that name.

        Raises:
            TransientError: store_unavailable.
        """
        with self._reaching():
            return bool(self._files.exists(f"{self._root}/{name}"))

    def names(self, folder: str) -> list[str]:
        """Return the last parts of the names in a folder, in order; none where there is no folder.

        Raises:
            TransientError: store_unavailable.
        """
        with self._reaching(), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._files.invalidate_cache()  # listings are remembered, and others write here, too
            listed = self._files.ls(f"{self._root}/{folder}", detail=False)
            names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in listed)
            return sorted(name for name in names if not name.startswith("."))
        return []

    def delete(self, name: str) -> None:
        """Remove what has that name, with all that is below it; nothing where there is nothing.

        Raises:
            TransientError: store_unavailable.
        """
        with self._reaching(), contextlib.suppress(FileNotFoundError):
            self._files.rm(f"{self._root}/{name}", recursive=True)

    @contextlib.contextmanager
    def _reaching(self) -> Generator[None]:
        try:
            yield
        except Exception as error:
            raise TransientError("store_unavailable", f"{self.url}: {type(error).__name__}: {error}") from error
