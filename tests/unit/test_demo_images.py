"""The demo's image host: a folder over HTTP, and nothing but that folder."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import RawTestServer
from yarl import URL

from streamer.demo.images import Files, ImageHost
from streamer.errors import FatalError
from streamer.fetch import Fetched, Fetcher, NotModified
from streamer.settings import FetchSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PICTURE = bytes(range(256)) * 40


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one picture in a folder, and a secret beside it."""
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    root = tmp_path / "images"
    (root / "mugs").mkdir(parents=True)
    (root / "mugs" / "red mug.jpg").write_bytes(PICTURE)
    return root


@pytest.fixture
async def base(root: Path) -> AsyncIterator[str]:
    """The address of the host, in this process."""
    async with RawTestServer(Files(root).respond, host="127.0.0.1") as server:
        yield str(server.make_url("/"))


async def status_of(url: URL | str, **headers: str) -> int:
    """Return the status of the answer to a GET."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with ClientSession() as session, session.get(url, headers=named) as response:
        return response.status


async def test_files_existing_file_is_served_with_validators(base: str) -> None:
    """Body, type and both validators come with the picture."""
    async with ClientSession() as session, session.get(f"{base}mugs/red%20mug.jpg") as response:
        assert await response.read() == PICTURE
        assert response.headers["Content-Type"] == "image/jpeg"
        assert "ETag" in response.headers
        assert "Last-Modified" in response.headers


async def test_files_file_changed_is_served_anew(base: str, root: Path) -> None:
    """A picture that is written again does not come from memory."""
    url = f"{base}mugs/red%20mug.jpg"
    async with ClientSession() as session:
        async with session.get(url) as first:
            etag = first.headers["ETag"]
        (root / "mugs" / "red mug.jpg").write_bytes(b"another")
        async with session.get(url, headers={"If-None-Match": etag}) as second:
            assert (second.status, await second.read()) == (200, b"another")


async def test_files_removed_file_is_not_found(base: str, root: Path) -> None:
    """Memory does not outlive the file."""
    assert await status_of(f"{base}mugs/red%20mug.jpg") == 200
    (root / "mugs" / "red mug.jpg").unlink()
    assert await status_of(f"{base}mugs/red%20mug.jpg") == 404


async def test_files_conditions_decide_between_304_and_200(base: str) -> None:
    """The client's own validators are honoured, stale ones are not, and the ETag goes before the date."""
    url = f"{base}mugs/red%20mug.jpg"
    async with ClientSession() as session, session.head(url) as response:
        assert await response.read() == b""
        etag, modified = response.headers["ETag"], response.headers["Last-Modified"]
    assert await status_of(url, If_None_Match=f'"x", W/{etag}') == 304
    assert await status_of(url, If_None_Match="*") == 304
    assert await status_of(url, If_Modified_Since=modified) == 304
    assert await status_of(url, If_None_Match='"x"', If_Modified_Since=modified) == 200
    assert await status_of(url, If_Modified_Since="Wed, 21 Oct 2015 07:28:00 GMT") == 200
    assert await status_of(url, If_Modified_Since="yesterday") == 200


@pytest.mark.parametrize(
    "path",
    [
        "",
        "mugs",
        "missing.jpg",
        "../secret.jpg",
        "%2e%2e/secret.jpg",
        "mugs/..%2f..%2fsecret.jpg",
        "link.jpg",
        "/etc/passwd",
        "%2fetc/passwd",
        "a%00.jpg",
        "..%5csecret.jpg",
        "x" * 5000,
    ],
)
async def test_files_anything_else_is_not_found(base: str, root: Path, path: str) -> None:
    """Folders, missing files and every way out of the folder are 404."""
    (root / "link.jpg").symlink_to(root.parent / "secret.jpg")
    assert await status_of(URL(base + path, encoded=True)) == 404


async def test_files_other_method_is_not_allowed(base: str) -> None:
    """The host only gives."""
    async with ClientSession() as session, session.put(f"{base}mugs/red%20mug.jpg", data=b"x") as response:
        assert response.status == 405


async def test_image_host_with_fetcher_serves_and_answers_conditions(root: Path) -> None:
    """The child process and the fetcher understand each other, from the first picture to 304."""
    with ImageHost(root) as host:
        async with Fetcher(FetchSettings(allow_hosts=(host.address,))) as fetcher:
            fetched = await fetcher.get(host.url("mugs/red mug.jpg"))
            assert isinstance(fetched, Fetched)
            assert fetched.body == PICTURE
            assert isinstance(await fetcher.get(host.url("mugs/red mug.jpg"), fetched.validator), NotModified)


def test_image_host_block_left_process_ends(root: Path) -> None:
    """Nothing runs on after the block."""
    with ImageHost(root) as host:
        pid = host.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_image_host_parent_killed_process_ends(root: Path) -> None:
    """A parent that dies without cleaning up leaves no host behind."""
    code = f"from streamer.demo.images import *; h = ImageHost(Path({str(root)!r})).__enter__(); print(h.pid); input()"
    command = [sys.executable, "-u", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        descriptor = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    readable, _, _ = select.select([descriptor], [], [], 10)  # a pidfd is readable once its process has ended
    os.close(descriptor)
    assert readable


def test_image_host_missing_folder_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A root that is not there is named."""
    with pytest.raises(FatalError, match="nowhere") as caught, ImageHost(tmp_path / "nowhere"):
        pass
    assert caught.value.code == "image_host_unavailable"
