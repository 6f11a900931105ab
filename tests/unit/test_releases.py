"""`engines.releases`: what is written can be read, and what is altered is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from engines import releases
from engines.contract import MANIFEST_SCHEMA, AttributeColumns, Calibration, ImageSpec, Manifest, TensorSpec, TextSpec
from engines.errors import ManifestInvalid, ReleaseCorrupt

if TYPE_CHECKING:
    from pathlib import Path


def manifest(*, threshold: float = 0.5) -> Manifest:
    """Return the manifest of a tiny engine, its files not yet known."""
    return Manifest(
        schema_version=MANIFEST_SCHEMA,
        release="",
        family="tiny",
        created_at="2026-01-01T00:00:00Z",
        inputs=(
            TensorSpec(name="pixel_values", dtype="uint8", shape=(None, 3, 4, 4)),
            TensorSpec(name="input_ids", dtype="int32", shape=(None, 8)),
            TensorSpec(name="attention_mask", dtype="int32", shape=(None, 8)),
        ),
        image=ImageSpec(height=4, width=4),
        text=TextSpec(max_tokens=8, fields=("title",)),
        calibration=Calibration(),
        threshold=threshold,
        thresholds={},
        max_batch=4,
        parent=None,
        metrics={},
        provenance={},
        files={},
    )


def with_attributes(columns: AttributeColumns | None, width: int) -> Manifest:
    """Return the manifest of an engine whose graph takes so many columns."""
    extra = TensorSpec(name="attributes", dtype="float32", shape=(None, width, 2))
    return msgspec.structs.replace(manifest(), inputs=(*manifest().inputs, extra), attributes=columns)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Give two files to publish."""
    named = {"model.onnx": tmp_path / "m", "tokenizer.json": tmp_path / "t"}
    for name, path in named.items():
        path.write_text(f"content of {name}")
    return named


@pytest.fixture
def release(tmp_path: Path, files: dict[str, Path]) -> Path:
    """Give the directory of a published release."""
    return releases.write_release(tmp_path / "releases", manifest(), files)


def test_write_release_can_be_verified_and_is_named_by_content(release: Path) -> None:
    """A written release verifies, under a name of family and digest."""
    written = releases.verify(release)
    assert release.name == written.release
    assert release.name.startswith("tiny-")
    assert len(release.name) == len("tiny-") + 12


def test_write_release_same_content_is_the_same_directory(release: Path, files: dict[str, Path]) -> None:
    """Publishing again changes nothing and leaves nothing behind."""
    assert releases.write_release(release.parent, manifest(), files) == release
    assert [path.name for path in release.parent.iterdir()] == [release.name]


def test_write_release_other_threshold_is_another_release(release: Path, files: dict[str, Path]) -> None:
    """What decides an alert is part of the name."""
    assert releases.write_release(release.parent, manifest(threshold=0.6), files) != release


def test_write_release_failure_leaves_nothing(tmp_path: Path, files: dict[str, Path]) -> None:
    """A release that cannot be written is not there at all."""
    outside = files | {"../escape": files["model.onnx"]}
    with pytest.raises(ManifestInvalid, match="outside"):
        releases.write_release(tmp_path / "releases", manifest(), outside)
    assert not (tmp_path / "releases").exists()


def test_verify_altered_file_is_corrupt(release: Path) -> None:
    """One other byte is found."""
    (release / "model.onnx").write_text("content of model.onnX")
    with pytest.raises(ReleaseCorrupt, match=r"model\.onnx"):
        releases.verify(release)


def test_verify_missing_file_is_corrupt(release: Path) -> None:
    """A file that is gone is named."""
    (release / "tokenizer.json").unlink()
    with pytest.raises(ReleaseCorrupt, match=r"tokenizer\.json"):
        releases.verify(release)


def test_read_manifest_other_directory_says_what_is_wrong(tmp_path: Path) -> None:
    """A directory without a manifest is not a release."""
    with pytest.raises(ManifestInvalid, match="not the directory of a release"):
        releases.read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 99}, "schema 99"),
        ({"threshold": 2.0}, "threshold"),
        ({"max_batch": 0}, "max_batch"),
        ({"surprise": 1}, "surprise"),
        ({"files": {}}, "lacks"),
        ({"inputs": []}, "inputs"),
        ({"text": {"max_tokens": 8, "fields": ["title"], "version": 3}}, "texts of version 3, known are 1 to 2"),
        ({"calibration": "none"}, "calibration"),
    ],
)
def test_read_manifest_contradiction_is_invalid(release: Path, change: dict[str, object], words: str) -> None:
    """A manifest that this version cannot follow is refused with the field that is wrong."""
    path = release / "manifest.json"
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | change))
    with pytest.raises(ManifestInvalid, match=words):
        releases.read_manifest(release)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"schema_version": "1"}'])
def test_read_manifest_other_content_is_invalid(release: Path, content: bytes) -> None:
    """Bytes that are no manifest are refused."""
    (release / "manifest.json").write_bytes(content)
    with pytest.raises(ManifestInvalid):
        releases.read_manifest(release)


COLUMNS = AttributeColumns(
    numbers=("price",), categories={"color": ("red", "blue")}, history="price_history", history_length=2
)


def test_manifest_describes_the_attributes_of_its_engine(tmp_path: Path, files: dict[str, Path]) -> None:
    """Columns, vocabularies and history come back as they were written, and name another release."""
    release = releases.write_release(tmp_path / "releases", with_attributes(COLUMNS, 4), files)
    assert releases.verify(release).attributes == COLUMNS
    other = msgspec.structs.replace(COLUMNS, categories={"color": ("blue", "red")})
    assert releases.write_release(tmp_path / "releases", with_attributes(other, 4), files) != release


def test_manifest_without_attributes_does_not_mention_them(release: Path) -> None:
    """Runtimes that do not know attributes read what has none."""
    assert '"attributes"' not in (release / releases.MANIFEST_FILE).read_text()


@pytest.mark.parametrize(("columns", "width"), [(None, 4), (COLUMNS, 3)])
def test_manifest_whose_attributes_are_not_its_input_is_refused(
    tmp_path: Path, files: dict[str, Path], columns: AttributeColumns | None, width: int
) -> None:
    """An input that no column fills would be left empty for ever."""
    with pytest.raises(ManifestInvalid, match="attributes"):
        releases.write_release(tmp_path / "releases", with_attributes(columns, width), files)
