"""Links: a file below the feed's folder, or a host's; never a way out, never a secret written down."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from streamer.errors import RejectedEvent
from streamer.links import Links, identity

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with pictures under names that people give."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for name in ("a.jpg", "50% off.jpg", "100%25.jpg", "é.jpg"):
        (folder / name).write_bytes(b"picture")
    return folder


@pytest.mark.parametrize("name", ["a.jpg", "50% off.jpg", "100%25.jpg", "é.jpg"])
def test_links_file_is_found_as_it_is_written_and_as_a_url_writes_it(root: Path, name: str) -> None:
    """Feeds do both, with the same names."""
    links = Links(root)
    assert links.file(f"{links.base_url}{quote(name)}") == root / name
    assert links.file(f"{links.base_url}{name}") == root / name


def test_links_of_a_host_are_no_files(root: Path) -> None:
    """What has another scheme is left to the fetcher; a link without one, beside files, is taken as https."""
    links = Links(root)
    assert links.file("https://cdn.example/a.jpg") is None
    assert links.absolute("file://cdn.example/a.jpg") == "https://cdn.example/a.jpg"
    assert links.absolute(f"{links.base_url}a.jpg") == f"{links.base_url}a.jpg"


def test_links_symbolic_link_out_of_the_folder_is_refused(root: Path, tmp_path: Path) -> None:
    """Wherever a name leads, the file itself must lie in the folder."""
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (root / "b.jpg").symlink_to(tmp_path / "secret.jpg")
    links = Links(root)
    with pytest.raises(RejectedEvent) as caught:
        links.file(f"{links.base_url}b.jpg")
    assert caught.value.code == "image_outside_folder"


@pytest.mark.parametrize("name", ["none.jpg", "a.jpg/b.jpg", "loop.jpg", "x" * 300, "a%00.jpg"])
def test_links_that_lead_nowhere_are_not_found(root: Path, name: str) -> None:
    """Names that no file can have are as good as names that none has."""
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    links = Links(root)
    with pytest.raises(RejectedEvent):
        links.file(f"{links.base_url}{name}")


def test_links_are_shown_without_user_query_and_fragment(root: Path) -> None:
    """Files by their path in the folder, hosts by their path."""
    links = Links(root)
    assert links.shown("https://me:sesame@cdn.example:8443/a.jpg?key=sesame#x") == "https://cdn.example:8443/a.jpg"
    assert links.shown("file://cdn.example/a.jpg?key=sesame") == "https://cdn.example/a.jpg"
    assert links.shown(f"{links.base_url}50%25%20off.jpg") == "50% off.jpg"


def test_links_identity_changes_with_the_file(root: Path) -> None:
    """A picture that was repaired is another; one that has vanished is refused."""
    before = identity(root / "a.jpg")
    (root / "a.jpg").write_bytes(b"a better picture")
    assert identity(root / "a.jpg") != before
    with pytest.raises(RejectedEvent) as caught:
        identity(root / "none.jpg")
    assert caught.value.code == "image_unreadable"


@pytest.mark.parametrize("link", ["http://[::1", "https://me:sesame@[]/a.jpg?key=sesame", "http://a℀b/"])
def test_links_that_cannot_be_read_are_shown_without_what_they_hold(root: Path, link: str) -> None:
    """No part of such a link is surely no secret."""
    assert Links(root).shown(link) == "(not a URL)"
