"""Pictures on disk, each content once, and an index of what every source led to: what makes a collection resumable.

    DIR/images/<sha256>.jpg    decoded once, so that whoever reads the folder can
    DIR/pictures.sqlite        source → file, or the reason for which it was refused

A file appears whole or not at all, and is indexed after it has appeared: a kill at any moment costs what was under way.
The index belongs to the event loop's thread; reading, decoding and writing happen in a pool of threads (Pillow
releases the GIL while it decodes).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

from engines.catalogs.collection import IMAGES_FOLDER
from engines.contract import ImageSpec
from engines.errors import ImageRefused
from engines.image import decode, format_of
from streamer.errors import FatalError, RejectedEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

INDEX_FILE: Final = "pictures.sqlite"
PARTIAL_FOLDER: Final = "partial"

_SPEC: Final = ImageSpec(height=64, width=64)
"""Small, so that a JPEG is decoded at an eighth of its size; every byte of its data is read all the same."""

_SUFFIXES: Final = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "AVIF": ".avif"}

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS pictures (source TEXT PRIMARY KEY, file TEXT, bytes INTEGER, code TEXT, message TEXT)
    WITHOUT ROWID;
CREATE TEMP TABLE last_rows (id TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID;
"""


class PictureStore:
    """The pictures of one folder, and the last row of each id of the feed; one process at a time."""

    def __init__(self, folder: Path, *, max_pixels: int, max_bytes: int, threads: int) -> None:
        """Open or create the folder.

        Raises:
            FatalError: out_unusable, when it cannot be written or another run holds it.
        """
        self._folder = folder
        self._max_pixels, self._max_bytes = max_pixels, max_bytes
        self._partial = folder / PARTIAL_FOLDER
        with writing(folder):
            shutil.rmtree(self._partial, ignore_errors=True)  # what a killed run was about to write
            for needed in (folder / IMAGES_FOLDER, self._partial):
                needed.mkdir(parents=True, exist_ok=True)
        self._index = open_index(folder / INDEX_FILE)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="picture")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._index.close()
        shutil.rmtree(self._partial, ignore_errors=True)

    def note_rows(self, numbers: Iterable[tuple[str, int]]) -> None:
        """Remember the last row of each id. On disk: a million ids in memory take 100 MB.

        Args:
            numbers: id and number of each row, in the order of the feed.
        """
        with self._writing_index():
            self._index.executemany("INSERT OR REPLACE INTO last_rows VALUES (?, ?)", numbers)

    def last_row(self, product_id: str) -> int | None:
        """Return the number of the last row with this id, None where it was not noted."""
        found = self._execute("SELECT number FROM last_rows WHERE id = ?", (product_id,)).fetchone()
        return None if found is None else int(found[0])

    def known(self, source: str) -> str | None:
        """Return the file that this source led to, relative to the folder, or None where it was never brought.

        Raises:
            RejectedEvent: what it was refused with.
        """
        found = self._execute("SELECT file, bytes, code, message FROM pictures WHERE source = ?", (source,)).fetchone()
        if found is None:
            return None
        file, size, code, message = found
        if file is None:
            raise RejectedEvent(code, message)
        try:
            whole = (self._folder / file).stat().st_size == size
        except FileNotFoundError:
            return None
        return str(file) if whole else None

    def refuse(self, source: str, error: RejectedEvent) -> None:
        """Remember that the source led to no picture, and never will."""
        self._remember(source, None, None, error.code, str(error))

    def forget_refusals(self) -> None:
        """Ask again for what was refused in earlier runs."""
        self._execute("DELETE FROM pictures WHERE file IS NULL")

    async def add(self, source: str, body: bytes) -> str:
        """Keep a picture that has been fetched; return its file.

        Raises:
            RejectedEvent: image_unsupported, image_too_large, image_truncated, image_malformed.
            FatalError: out_unusable.
        """
        return await self._add(source, lambda: self._keep(body))

    async def add_file(self, source: str, path: Path) -> str:
        """Keep a copy of a picture that lies on this machine: the one there may be written over; return its file.

        Raises:
            RejectedEvent: image_too_large_bytes, image_unreadable, and as `add`.
            FatalError: out_unusable.
        """
        return await self._add(source, lambda: self._keep_file(path))

    async def _add(self, source: str, keep: Callable[[], tuple[str, int]]) -> str:
        file, size = await asyncio.get_running_loop().run_in_executor(self._pool, keep)
        self._remember(source, file, size, None, None)
        return file

    def _keep_file(self, path: Path) -> tuple[str, int]:
        try:
            with path.open("rb") as picture:
                body = picture.read(self._max_bytes + 1)
        except OSError as error:
            raise RejectedEvent("image_unreadable", f"cannot be read: {error.strerror}") from error
        if len(body) > self._max_bytes:
            raise RejectedEvent("image_too_large_bytes", f"the image has more than {self._max_bytes} bytes")
        return self._keep(body)

    def _keep(self, body: bytes) -> tuple[str, int]:
        """Check the picture and put it where its content belongs; return its file and its bytes."""
        try:
            decode(body, _SPEC, max_pixels=self._max_pixels)
            suffix = _SUFFIXES[format_of(body)]
        except ImageRefused as error:
            raise RejectedEvent(error.code, str(error)) from error
        file = f"{IMAGES_FOLDER}/{hashlib.sha256(body).hexdigest()}{suffix}"
        target = self._folder / file
        if not target.exists():
            partial = self._partial / f"{target.name}.{threading.get_ident()}"
            with writing(self._folder):
                partial.write_bytes(body)
                partial.replace(target)
        return file, len(body)

    def _remember(self, source: str, *facts: str | int | None) -> None:
        self._execute("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?)", (source, *facts))

    def _execute(self, statement: str, values: tuple[str | int | None, ...] = ()) -> sqlite3.Cursor:
        with self._writing_index():
            return self._index.execute(statement, values)

    @contextlib.contextmanager
    def _writing_index(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:  # the disk is full, or the file is gone
            raise FatalError(
                "out_unusable", f"{self._folder}: {error}: what is there is kept for the next run"
            ) from error


@contextlib.contextmanager
def writing(folder: Path) -> Generator[None]:
    """Translate what the file system says while something is written below `folder`."""
    try:
        yield
    except OSError as error:
        raise FatalError("out_unusable", f"{folder}: {error.strerror}: give --out another folder") from error


def open_index(path: Path) -> sqlite3.Connection:
    """Open or create an index; nobody else can until it is closed.

    Raises:
        FatalError: out_unusable.
    """
    try:
        index = sqlite3.connect(path, timeout=0, isolation_level=None)
        index.execute("PRAGMA locking_mode = EXCLUSIVE")  # a second run would write the same files
        index.execute("PRAGMA journal_mode = WAL")
        index.execute("PRAGMA secure_delete = ON")  # what an erased product's picture was called is written over
        index.execute("PRAGMA synchronous = NORMAL")  # each statement survives a kill, without waiting for the disk
        index.executescript(_TABLES)
    except sqlite3.OperationalError as error:
        raise FatalError("out_unusable", f"{path}: {error}: is another run collecting into this folder?") from error
    except sqlite3.DatabaseError as error:
        raise FatalError("out_unusable", f"{path}: {error}: delete it, and pictures are brought again") from error
    return index
