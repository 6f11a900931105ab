"""The label data set: a Delta table with one person's verdict on one item in each row, and the pictures beside it.

    DATASET/labels/                  the table; every batch of verdicts is a version of it
    DATASET/images/<ab>/<sha256>     the bytes that were scored
    DATASET/erased/                  which products were erased (`streamer.erasures`)

A row holds what was scored and what was said of it, so training needs nothing else; `sampling_probability` is what to
weight it by. The log keeps no statistics of texts, and nothing is deleted by its product's id, so that what has been
erased does not stay there. Needs the extra `labels`. Blocks: for threads.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from streamer.blobs import Blobs
from streamer.errors import TransientError
from streamer.labels import Joined, VoteKey, VoteTime

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from streamer.reviews import Verdict

SETTING: Final = "STREAMER_LABELS__DATASET"
TABLE: Final = "labels"
COMPACT_EVERY: Final = 50
"""Versions: each adds a small file, and a table of many is slow to read."""

_TIME: Final = pa.timestamp("us", tz="UTC")

SCHEMA: Final = pa.schema(
    [
        ("item_id", pa.string()),
        ("reviewer", pa.string()),
        ("verdict", pa.string()),
        ("field", pa.string()),
        ("labeled_at", _TIME),
        ("label_id", pa.string()),
        ("source", pa.string()),
        ("recorded_at", _TIME),
        ("product_id", pa.string()),
        ("item_group_id", pa.string()),
        ("category", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("fields", pa.string()),  # JSON: name → words
        ("columns", pa.string()),  # JSON: name → value
        ("image_sha256", pa.string()),
        ("image", pa.string()),  # below the data set
        ("image_url", pa.string()),
        ("text_sha256", pa.string()),
        ("logit", pa.float64()),
        ("probability", pa.float64()),
        ("threshold", pa.float64()),
        ("release", pa.string()),
        ("scored_at", _TIME),
        ("sampled", pa.string()),
        ("sampling_probability", pa.float64()),
    ]
)
"""Columns may be added, never changed: models are trained on older versions, too."""

_CONFIGURATION: Final = {
    "delta.dataSkippingNumIndexedCols": "0",  # statistics would put texts of erased products into the log
    "delta.logRetentionDuration": "interval 3650 days",  # versions are what models were trained on
    "delta.deletedFileRetentionDuration": "interval 3650 days",  # a file whose removal is forgotten is never vacuumed
}
_ABANDONED_H: Final = 1  # a writer that has not committed its file by then was killed


class LabelDataset:
    """The data set under one URL; any number of label workers may write to it.

    Args:
        url: a folder, or a URL that both fsspec and delta-rs know (`s3://…`).

    Raises:
        FatalError: settings_invalid.
    """

    def __init__(self, url: str) -> None:
        self._blobs = Blobs(url, setting=SETTING)
        self._table_url = f"{url.rstrip('/')}/{TABLE}"

    @property
    def version(self) -> int | None:
        """The table's version, None where there is no table yet.

        Raises:
            TransientError: dataset_unavailable.
        """
        table = self._table()
        return None if table is None else table.version()

    def known(self, items: Collection[str]) -> dict[VoteKey, VoteTime]:
        """Return when the verdicts were given that the data set has on these items.

        Raises:
            TransientError: dataset_unavailable.
        """
        rows = self._read("item_id, reviewer, labeled_at, label_id", f"item_id IN ({_listed(items)})") if items else []
        return {VoteKey(row["item_id"], row["reviewer"]): VoteTime(row["labeled_at"], row["label_id"]) for row in rows}

    def keep(self, sha256: str, picture: Callable[[], bytes]) -> None:
        """Keep a picture before the first row that shows it is written.

        Args:
            sha256: of its bytes.
            picture: returns them; asked where they are not here yet.

        Raises:
            TransientError: store_unavailable.
            RejectedEvent: what `picture` raises.
        """
        if not self._blobs.exists(_image(sha256)):
            self._blobs.put(_image(sha256), picture())

    def write(self, rows: Mapping[VoteKey, Joined]) -> None:
        """Write all rows at once, their pictures kept before; a row that is there is replaced by a later one.

        Raises:
            TransientError: dataset_unavailable: write them once more.
        """
        recorded_at = datetime.now(UTC)
        content = pa.Table.from_pylist([_row(joined, recorded_at) for joined in rows.values()], schema=SCHEMA)
        later = "s.labeled_at > t.labeled_at OR (s.labeled_at = t.labeled_at AND s.label_id > t.label_id)"
        with _translated():
            table = self._table() or DeltaTable.create(
                self._table_url, schema=SCHEMA, mode="ignore", configuration=_CONFIGURATION
            )
            (
                table.merge(
                    content,
                    predicate="s.item_id = t.item_id AND s.reviewer = t.reviewer",
                    source_alias="s",
                    target_alias="t",
                )
                .when_matched_update_all(predicate=later)
                .when_not_matched_insert_all()
                .execute()
            )
        if table.version() % COMPACT_EVERY == 0:
            with contextlib.suppress(DeltaError):  # it is only tidying: the next time will do
                table.optimize.compact()

    def erase(self, product_id: str) -> int:
        """Remove every verdict on a product, its pictures that no other row has, and older versions' files with them.

        Versions from before cannot be read afterwards: they would hold what was erased. Files that a killed worker has
        not committed go, too, once they are an hour old. Returns the rows removed.

        Raises:
            TransientError: dataset_unavailable, store_unavailable: erase it once more.
        """
        its_own = f"product_id = {_listed([product_id])}"
        rows = self._read("item_id, image_sha256", its_own)
        table = self._table()
        if table is None:
            return 0
        if rows:
            # Pictures first: once the rows are gone, nobody knows which were theirs.
            images = {row["image_sha256"] for row in rows}
            shown = self._read("image_sha256", f"image_sha256 IN ({_listed(images)}) AND NOT {its_own}")
            for image in images - {row["image_sha256"] for row in shown}:
                self._blobs.delete(_image(image))
            with _translated():
                table.delete(f"item_id IN ({_listed(row['item_id'] for row in rows)})")
        with _translated():
            table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
            table.vacuum(retention_hours=_ABANDONED_H, dry_run=False, enforce_retention_duration=False, full=True)
        return len(rows)

    def rows(self, version: int) -> list[dict[str, Any]]:
        """Return all rows of a version, by item and reviewer.

        Raises:
            TransientError: dataset_unavailable; also when a product was erased since, which older versions hold.
        """
        return self._read("*", "TRUE ORDER BY item_id, reviewer", version=version)

    def picture(self, name: str) -> bytes | None:
        """Return the bytes of a row's `image`, None where they are gone.

        Raises:
            TransientError: store_unavailable.
        """
        return self._blobs.get(name)

    def verdicts(self) -> Iterable[tuple[str, Verdict]]:
        """Return item id and verdict of every row.

        Raises:
            TransientError: dataset_unavailable.
        """
        return [(row["item_id"], row["verdict"]) for row in self._read("item_id, verdict")]

    def of(self, product_id: str) -> list[dict[str, Any]]:
        """Return all rows of a product.

        Raises:
            TransientError: dataset_unavailable.
        """
        return self._read("*", f"product_id = {_listed([product_id])}")

    def _read(self, columns: str, where: str = "TRUE", *, version: int | None = None) -> list[dict[str, Any]]:
        """Return rows, by delta-rs' own engine: pyarrow's cannot filter the strings that its MERGE writes."""
        table = self._table(version)
        if table is None:
            return []
        with _translated():
            query = QueryBuilder().register(TABLE, table).execute(f"SELECT {columns} FROM {TABLE} WHERE {where}")  # noqa: S608 - values are `_listed`
            # By pyarrow: delta-rs' own reader holds the GIL until the store has answered, and the worker stands still.
            rows: list[dict[str, Any]] = pa.RecordBatchReader.from_stream(query).read_all().to_pylist()
        return rows

    def _table(self, version: int | None = None) -> DeltaTable | None:
        with _translated():
            try:
                return DeltaTable(self._table_url, version=version)
            except TableNotFoundError:
                return None


class _translated:  # noqa: N801 - used as a statement
    """Turns what delta-rs raises into "try again"."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, CommitFailedError):
            raise TransientError("dataset_unavailable", f"another worker has written meanwhile: {error}") from error
        if isinstance(error, DeltaError | pa.ArrowException | OSError):
            raise TransientError("dataset_unavailable", f"{type(error).__name__}: {error}") from error


def _row(joined: Joined, recorded_at: datetime) -> dict[str, Any]:
    label, item = joined
    return {
        "item_id": item.item_id,
        "reviewer": label.reviewer,
        "verdict": label.verdict,
        "field": label.field,
        "labeled_at": label.labeled_at,
        "label_id": label.label_id,
        "source": label.source,
        "recorded_at": recorded_at,
        "product_id": item.product_id,
        "item_group_id": item.item_group_id,
        "category": item.category,
        "title": item.title,
        "text": item.text,
        "fields": orjson.dumps(item.fields).decode(),
        "columns": orjson.dumps(item.columns).decode(),
        "image_sha256": item.image_sha256,
        "image": _image(item.image_sha256),
        "image_url": item.image_url,
        "text_sha256": item.text_sha256,
        "logit": item.logit,
        "probability": item.probability,
        "threshold": item.threshold,
        "release": item.release,
        "scored_at": item.scored_at,
        "sampled": item.sampled,
        "sampling_probability": item.sampling_probability,
    }


def _listed(values: Iterable[str]) -> str:
    """Return the values as literals of SQL, in order, each once: a quote in one is written twice."""
    return ", ".join("'" + value.replace("'", "''") + "'" for value in sorted(set(values)))


def _image(sha256: str) -> str:
    return f"images/{sha256[:2]}/{sha256}"
