"""Where a feed's link leads, to a file on this machine or to a host, and how it may be written down. No network."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from streamer.errors import RejectedEvent


class Links:
    """The links of one feed; files on this machine must lie below `root`, as the feed is written by others."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self.base_url = self._root.as_uri() + "/"
        """What makes a relative link one of a file below `root`."""

    @staticmethod
    def absolute(link: str) -> str:
        """Return the link; `//cdn.example/1.jpg`, which next to a file would be a file of that host, as https."""
        return f"https:{link[5:]}" if link.startswith("file://") and not link.startswith("file:///") else link

    def file(self, link: str) -> Path | None:
        """Return where a file: link leads, None for any other.

        Raises:
            RejectedEvent: image_outside_folder, image_not_found, image_unreadable.
        """
        if not link.startswith("file:///"):
            return None
        written = link.removeprefix("file://")
        for name in (unquote(written), written):  # a feed writes `100%.jpg` as it is, or as a URL does
            path = _resolved(name)
            if not path.is_relative_to(self._root):
                raise RejectedEvent(
                    "image_outside_folder", f"not below {self._root}: give --pictures the folder that holds all of them"
                )
            if _is_file(path):
                return path
        raise RejectedEvent("image_not_found", "there is no such file")

    def shown(self, link: str) -> str:
        """Return the link as it may be written down: a query may be a signature, a user a password."""
        link = self.absolute(link)
        if link.startswith("file://"):
            return unquote(link).removeprefix("file://").removeprefix(f"{self._root}/")
        try:
            parts = urlsplit(link)
        except ValueError:  # such as an unclosed [ of an IPv6 address
            return "(not a URL)"
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def identity(path: Path) -> str:
    """Return what a file is known by: one that has been replaced is another.

    Raises:
        RejectedEvent: image_unreadable.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(error) from error
    return f"{path}|{status.st_size}|{status.st_mtime_ns}"


def _resolved(name: str) -> Path:
    try:
        return Path(name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a null in it, symbolic links in a circle
        raise RejectedEvent("image_not_found", "there is no such file") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> RejectedEvent:
    return RejectedEvent("image_unreadable", f"cannot be read: {error.strerror}")
