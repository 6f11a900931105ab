"""How far the publication of a feed has come: the file that lets a run go on where the last one ended.

It counts rows whose delivery the broker acknowledged, in the order of the feed. A finished feed is not published
again; a changed one starts anew, unless the last run was cut short: then what has been sent and what has not is
known no more, and a person decides.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from streamer.columns import Columns
from streamer.errors import FatalError
from streamer.wire import encode

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """What to publish and how; `limit` is a row of the feed, `rate` rows per second, `columns` what it calls fields."""

    feed: Path
    topic: str
    base_url: str | None = None
    rate: float | None = None
    limit: int | None = None
    columns: Columns = field(default_factory=Columns)
    restart: bool = False
    state_dir: Path | None = None

    @property
    def state_path(self) -> Path:
        """Where the count of acknowledged rows stands."""
        return (self.state_dir or self.feed.parent) / f"{self.feed.name}.publish-state.json"

    def checked_base_url(self) -> str | None:
        """Return `base_url`.

        Raises:
            FatalError: settings_invalid, when it is not an http(s) URL.
        """
        if self.base_url is not None and urlsplit(self.base_url).scheme not in ("http", "https"):
            raise FatalError("settings_invalid", f"--base-url {self.base_url}: write http(s)://HOST/FOLDER/")
        return self.base_url


class PublishState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a feed has come: its first `rows` rows are acknowledged by the broker, or `rejected`."""

    schema_version: int = 1
    feed_sha256: str
    feed_bytes: int
    feed_mtime_ns: int
    topic: str
    bootstrap: str
    base_url: str | None
    columns: dict[str, str] = {}
    rows: int = 0
    rejected: int = 0
    finished: bool = False


def begin(options: PublishOptions, bootstrap: str) -> PublishState:
    """Return the state to go on from: the last run's when it was the same feed to the same place, else a new one."""
    fresh = _fresh(options, bootstrap)
    last = None if options.restart else _load(options.state_path)
    if last is None or last.rows == last.rejected:
        return fresh
    changed = [
        name
        for name in ("feed_sha256", "topic", "bootstrap", "base_url", "columns")
        if getattr(last, name) != getattr(fresh, name)
    ]
    if not changed:
        return last  # with its own feed_mtime_ns: a touched file says the same as before
    if last.finished:
        return fresh
    raise FatalError(
        "publish_unfinished",
        f"an earlier run stopped after row {last.rows}, and since then {', '.join(changed)} changed "
        f"({options.state_path}): --restart publishes from the first row",
    )


def save(path: Path, state: PublishState) -> None:
    """Replace the state file atomically.

    Raises:
        FatalError: state_unwritable.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(encode(state) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise FatalError("state_unwritable", f"{path}: {error.strerror}: give --state-dir DIR") from error


def _load(path: Path) -> PublishState | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=PublishState)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise FatalError("publish_state_invalid", f"{path}: {error}: delete it, or --restart") from error


def _fresh(options: PublishOptions, bootstrap: str) -> PublishState:
    status = feed_status(options.feed)
    try:
        with options.feed.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FatalError("feed_unreadable", f"{options.feed}: {error.strerror}") from error
    return PublishState(
        feed_sha256=digest,
        feed_bytes=status.st_size,
        feed_mtime_ns=status.st_mtime_ns,
        topic=options.topic,
        bootstrap=bootstrap,
        base_url=options.checked_base_url(),
        columns=dict(options.columns.given),
    )


def feed_status(feed: Path) -> os.stat_result:
    """Return size and modification time.

    Raises:
        FatalError: feed_unreadable.
    """
    try:
        return feed.stat()
    except OSError as error:
        raise FatalError("feed_unreadable", f"{feed}: {error.strerror}") from error
