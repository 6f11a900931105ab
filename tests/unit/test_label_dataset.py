"""`streamer.dataset`: rows as they were decided, versions, and erasure that leaves nothing to find."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import orjson
import pytest
from deltalake import DeltaTable

from streamer.dataset import LabelDataset
from streamer.errors import FatalError, TransientError
from streamer.labels import Joined, decide
from tests.review import IMAGE_SHA256, ITEM, PICTURE, item, label

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.reviews import ScoredItem


@pytest.fixture
def dataset(tmp_path: Path) -> LabelDataset:
    """Give a data set that does not exist yet."""
    return LabelDataset(str(tmp_path))


def record(dataset: LabelDataset, *verdicts: Joined) -> list[str]:
    """Write verdicts as the label worker does; return their outcomes."""
    for one in verdicts:
        dataset.keep(one.item.image_sha256, lambda: PICTURE)
    rows, outcomes = decide(dataset.known({one.item.item_id for one in verdicts}), verdicts)
    if rows:
        dataset.write(rows)
    return list(outcomes)


def said(scored: ScoredItem = ITEM, **changes: object) -> Joined:
    """Return a verdict on an item."""
    return Joined(label(scored, **changes), scored)


def test_dataset_that_is_not_there_yet_is_empty(dataset: LabelDataset) -> None:
    """Nobody has to make it."""
    assert (dataset.version, dataset.known({ITEM.item_id}), list(dataset.verdicts())) == (None, {}, [])
    assert dataset.erase("mug-blue") == 0


def test_row_holds_what_was_scored_and_what_was_said(dataset: LabelDataset, tmp_path: Path) -> None:
    """All that training needs, with the picture's bytes beside the table."""
    record(dataset, said())
    (row,) = dataset.of("mug-blue")
    assert (row["verdict"], row["field"], row["reviewer"]) == ("mismatch", "color", "ana")
    assert (row["text"], row["logit"], row["release"]) == (ITEM.text, ITEM.logit, ITEM.release)
    assert (row["scored_at"], row["sampling_probability"]) == (ITEM.scored_at, 1.0)
    assert orjson.loads(row["columns"]) == ITEM.columns
    assert (tmp_path / row["image"]).read_bytes() == PICTURE


def test_rows_that_the_store_does_not_give_are_asked_for_later(dataset: LabelDataset, tmp_path: Path) -> None:
    """What fails while rows are read ends no worker."""
    record(dataset, said())
    for file in (tmp_path / "labels").glob("*.parquet"):
        os.truncate(file, 10)
    with pytest.raises(TransientError) as caught:
        dataset.known({ITEM.item_id})
    assert caught.value.code == "dataset_unavailable"


def test_labels_that_come_again_make_no_version(dataset: LabelDataset) -> None:
    """Redelivery is not a change that a model could be trained on."""
    assert record(dataset, said(), said(reviewer="ben", verdict="match")) == ["recorded", "recorded"]
    version = dataset.version
    assert record(dataset, said(reviewer="ben", verdict="match"), said()) == ["repeated", "repeated"]
    assert dataset.version == version


def test_later_verdict_replaces_the_row_and_the_version_before_keeps_it(dataset: LabelDataset, tmp_path: Path) -> None:
    """A model's data set can be read as it was when it was trained."""
    first = said()
    record(dataset, first, said(reviewer="ben"))
    version = dataset.version
    later = first.label.labeled_at + timedelta(hours=1)
    assert record(dataset, said(verdict="match", labeled_at=later, label_id="2")) == ["recorded"]
    assert sorted(row["verdict"] for row in dataset.of("mug-blue")) == ["match", "mismatch"]
    before = DeltaTable(str(tmp_path / "labels"), version=version).to_pyarrow_table().to_pylist()
    assert [row["verdict"] for row in before] == ["mismatch", "mismatch"]


def test_row_written_by_another_worker_meanwhile_is_not_doubled(dataset: LabelDataset) -> None:
    """What was decided on an older version is written by keys: the later verdict stays, whoever wrote first."""
    early, late = said(), said(verdict="match", label_id="9")
    for one in (late, early):  # both decided on an empty data set
        dataset.keep(one.item.image_sha256, lambda: PICTURE)
        dataset.write({one.key: one})
    assert [row["verdict"] for row in dataset.of("mug-blue")] == ["match"]


def test_erased_product_stands_nowhere_in_the_data_set(dataset: LabelDataset, tmp_path: Path) -> None:
    """Not in rows, older versions, statistics or the log; a picture that another product shows stays."""
    secret = item("customer-4711", picture=b"a private picture", text="title: Secretword", title="Secretword")
    dataset.keep(secret.image_sha256, lambda: b"a private picture")
    dataset.write({said(secret).key: said(secret)})
    shared = item("customer-4711-b", text="title: Secretword")
    record(dataset, said(shared), said(item("mug-red")))
    assert dataset.erase("customer-4711") == 1
    assert dataset.erase("customer-4711-b") == 1
    assert [row["product_id"] for row in dataset.of("mug-red")] == ["mug-red"]
    assert (tmp_path / "images" / IMAGE_SHA256[:2] / IMAGE_SHA256).exists()
    assert not (tmp_path / "images" / secret.image_sha256[:2] / secret.image_sha256).exists()
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert b"customer-4711" not in content, path
        assert b"Secretword" not in content, path


def test_erased_product_stands_in_no_file_that_a_killed_worker_left(dataset: LabelDataset, tmp_path: Path) -> None:
    """A file that was never committed is in no version: it goes when it is too old to be anybody's work."""
    record(dataset, said(item("customer-4711")), said(item("mug-red")))
    (written, *_) = (path for path in (tmp_path / "labels").rglob("*.parquet") if b"customer-4711" in path.read_bytes())
    left, fresh = (written.with_name(f"part-{name}.parquet") for name in ("left", "fresh"))
    for path in (left, fresh):
        path.write_bytes(written.read_bytes())
    hours_ago = time.time() - 2 * 3600
    os.utime(left, (hours_ago, hours_ago))
    assert dataset.erase("customer-4711") == 1
    assert not left.exists()
    assert fresh.exists(), "it may be a worker's that is about to commit it"
    assert [row["product_id"] for row in dataset.of("mug-red")] == ["mug-red"]


def test_removals_of_files_are_never_forgotten(dataset: LabelDataset, tmp_path: Path) -> None:
    """Delta forgets them after a week by default, and what is forgotten cannot be erased."""
    record(dataset, said())
    configuration = DeltaTable(tmp_path / "labels").metadata().configuration
    assert configuration["delta.deletedFileRetentionDuration"] == "interval 3650 days"


def test_product_whose_id_has_quotes_is_erased_alone(dataset: LabelDataset) -> None:
    """Ids are of strangers: one that looks like a query is a value like any other."""
    odd = item("x' OR '1' = '1")
    record(dataset, said(odd), said())
    assert [row["product_id"] for row in dataset.of("x' OR '1' = '1")] == [odd.product_id]
    assert dataset.erase("x' OR '1' = '1") == 1
    assert len(dataset.of("mug-blue")) == 1


def test_dataset_at_a_url_that_nothing_knows_is_refused() -> None:
    """The settings' fault, said at the start."""
    with pytest.raises(FatalError):
        LabelDataset("nosuch://bucket")
