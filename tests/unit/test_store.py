"""`engines.store`: what is published can be fetched whole, or is not there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import fsspec
import pytest

from engines import releases
from engines.errors import EngineError, ReleaseCorrupt, ReleaseUnavailable
from engines.store import ReleaseStore
from tests import tiny_release

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Give the directory of a release."""
    return tiny_release.write(tmp_path / "made")


@pytest.fixture
def store(store_url: str) -> ReleaseStore:
    """Give an empty store of each kind."""
    return ReleaseStore(store_url)


def test_store_gives_back_what_was_published(store: ReleaseStore, release: Path) -> None:
    """Under its name, with every file, and gone when the block is left; publishing again changes nothing."""
    assert store.names() == []
    stored = store.publish(release)
    assert store.publish(release).manifest_sha256 == stored.manifest_sha256
    assert store.names() == [release.name]
    assert store.read(release.name) == stored
    with store.fetched(release.name, manifest_sha256=stored.manifest_sha256) as fetched:
        assert releases.verify(fetched).release == release.name
        assert {path.name for path in fetched.iterdir()} == {path.name for path in release.iterdir()}
    assert not fetched.exists()


@pytest.mark.parametrize("name", ["tiny-000000000000", "../made", "tiny", "", "a/b-000000000000"])
def test_store_without_such_a_release_says_so(store: ReleaseStore, release: Path, name: str) -> None:
    """A name that comes from a topic never leads out of the store."""
    store.publish(release)
    with pytest.raises(ReleaseUnavailable) as caught, store.fetched(name):
        pass
    assert caught.value.code == "release_unknown"


def test_store_refuses_a_release_that_is_not_whole(store: ReleaseStore, release: Path) -> None:
    """It is compared before anything is copied."""
    (release / "model.onnx").write_bytes(b"short")
    with pytest.raises(ReleaseCorrupt):
        store.publish(release)
    assert store.names() == []


@pytest.mark.parametrize("change", ["truncated", "missing", "another manifest"])
def test_store_that_was_changed_is_found_out(tmp_path: Path, release: Path, change: str) -> None:
    """Digests of the files stand in the manifest, and the manifest's in the announcement."""
    store = ReleaseStore(str(tmp_path / "store"))
    stored = store.publish(release)
    kept = tmp_path / "store" / release.name
    if change == "truncated":
        (kept / "model.onnx").write_bytes((kept / "model.onnx").read_bytes()[:-1])
    elif change == "missing":
        (kept / "tokenizer.json").unlink()
    else:
        tiny_release.altered(kept, threshold=0.9)
    with pytest.raises(ReleaseCorrupt), store.fetched(release.name, manifest_sha256=stored.manifest_sha256):
        pass


def test_store_that_holds_a_renamed_release_is_found_out(tmp_path: Path, release: Path) -> None:
    """A release is named by its content."""
    shutil.copytree(release, tmp_path / "store" / "tiny-000000000000")
    with pytest.raises(ReleaseCorrupt), ReleaseStore(str(tmp_path / "store")).fetched("tiny-000000000000"):
        pass


def test_store_that_cannot_be_reached_says_so() -> None:
    """A scheme that nothing is installed for is the settings' fault, and no crash."""
    with pytest.raises(EngineError) as caught:
        ReleaseStore("nosuch://bucket/releases")
    assert caught.value.code == "release_unavailable"


KILLED = """
import os, signal, sys
from pathlib import Path
from engines import releases
from engines.store import ReleaseStore
steps, kill_at = 0, int(sys.argv[3])
def step(*_):
    global steps
    steps += 1
    if steps == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
original = os.fsync
os.fsync = lambda fd: (step(), original(fd))
ReleaseStore(sys.argv[2]).publish(Path(sys.argv[1]))
print(steps)
"""


def test_publisher_killed_at_any_step_leaves_a_store_that_the_next_one_completes(tmp_path: Path, release: Path) -> None:
    """SIGKILL before each of its steps: a release is there whole or not at all, and publishing again helps."""

    def publish(into: Path, kill_at: int) -> int:
        command = [sys.executable, "-c", KILLED, str(release), str(into), str(kill_at)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        return int(done.stdout) if done.returncode == 0 else done.returncode

    steps = publish(tmp_path / "whole", 0)
    assert steps >= 5  # three files, the manifest, the directories
    for kill_at in range(1, steps + 1):
        where = tmp_path / f"killed-{kill_at}"
        store = ReleaseStore(str(where))
        assert publish(where, kill_at) == -signal.SIGKILL
        assert all(releases.verify(where / name) for name in store.names())
        store.publish(release)
        assert [path.name for path in where.iterdir()] == [release.name]


def test_object_store_whose_publisher_was_killed_shows_no_release(release: Path) -> None:
    """The manifest is the last object: without it the others are nothing."""
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"/bucket/releases/{release.name}/model.onnx", b"half")
    store = ReleaseStore("memory://bucket/releases")
    try:
        assert store.names() == []
        with pytest.raises(ReleaseUnavailable), store.fetched(release.name):
            pass
        store.publish(release)
        with store.fetched(release.name) as fetched:
            releases.verify(fetched)
    finally:
        memory.rm("/bucket", recursive=True)
