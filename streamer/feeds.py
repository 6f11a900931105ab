"""Product feeds: a file in Google Merchant's field names, row by row.

    .jsonl .ndjson     one object a line
    .csv .tsv          a header line, then rows; UTF-8 (or UTF-16 with its mark), quotes as in RFC 4180; .csv also
                       between ; | or tabs
    .parquet           needs the `feeds` extra
    .gz                behind any of the text formats

Columns may have other names (`streamer.columns`); what becomes of a row: `streamer.feed_rows`. A row that cannot be
used is a RejectedEvent with its line, never the end of the feed; a file that cannot be read is a FatalError. Nothing
here knows Kafka. Source: https://support.google.com/merchants/answer/7052112.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import itertools
import zlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import orjson

from streamer.columns import Columns, Fields
from streamer.errors import FatalError, RejectedEvent

if TYPE_CHECKING:
    from _csv import Reader as CsvReader  # the standard library gives the type no other name
    from collections.abc import Callable, Generator, Iterable, Iterator
    from pathlib import Path

FORMATS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
MAX_CELL_CHARS = 2**20  # a quote that is never closed must not swallow the rest of the file
_FOUND_ROWS = 100  # whose columns are remembered, for a message


@dataclass(frozen=True)
class Row:
    """One row, by our names: `number` counts from 1, `line` is where an editor shows it (in Parquet the row number)."""

    number: int
    line: int
    fields: Fields | RejectedEvent


@dataclass(frozen=True)
class Feed:
    """An open feed; `position()` of `total` says how much of the file has been read (bytes, in Parquet rows).

    `found` are the columns of its first rows, as the file calls them, each with a value.
    """

    rows: Iterator[Row]
    total: int
    position: Callable[[], int]
    columns: Columns = field(default_factory=Columns)
    found: dict[str, object] = field(default_factory=dict)

    def advice(self) -> str:
        """Return which columns there are and what they are read as, for one whose rows cannot be used."""
        return self.columns.advice(self.found)


@contextlib.contextmanager
def open_feed(path: Path, columns: Columns | None = None) -> Generator[Feed]:
    """Yield the feed's rows, their columns under our names.

    Raises:
        FatalError: feed_unreadable, feed_unsupported; also from the rows, where the file turns out to be damaged, or
            has no column that `columns` names (settings_invalid).
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    form = "".join(suffixes[:-1][-1:] if compressed else suffixes[-1:])
    if form not in FORMATS or (compressed and form == ".parquet"):
        raise FatalError("feed_unsupported", f"{path.name}: a feed is one of {', '.join(FORMATS)}, text also as .gz")
    try:
        raw = path.open("rb")
    except OSError as error:
        raise FatalError("feed_unreadable", f"{path}: {error.strerror}") from error
    with raw:
        asked = columns or Columns()
        if form == ".parquet":
            feed = _parquet(path, raw, asked)
        else:
            feed = _text(path, raw, form, asked, compressed=compressed)
        yield replace(feed, rows=_named(feed))


def _named(feed: Feed) -> Iterator[Row]:
    """Yield the rows with their columns under our names."""
    for row in feed.rows:
        if isinstance(row.fields, RejectedEvent):
            yield row
            continue
        if row.number <= _FOUND_ROWS:
            feed.found.update({name: value for name, value in row.fields.items() if name not in feed.found})
        yield Row(row.number, row.line, feed.columns.read(row.fields))


def _text(path: Path, raw: BinaryIO, form: str, columns: Columns, *, compressed: bool) -> Feed:
    stream = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if compressed else raw
    if form in (".jsonl", ".ndjson"):
        rows = _json_rows(stream)
    else:
        rows = _csv_rows(path, stream, columns, delimiters="\t" if form == ".tsv" else ",;\t|")
    return Feed(_readable(path, rows), path.stat().st_size, raw.tell, columns)


def _readable(path: Path, rows: Iterable[Row]) -> Iterator[Row]:
    try:
        yield from rows
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise FatalError("feed_unreadable", f"{path}: the file is damaged: {error}") from error


def _json_rows(stream: BinaryIO) -> Iterator[Row]:
    number = 0
    for line, text in enumerate(stream, start=1):
        if text.strip():
            number += 1
            yield Row(number, line, _json_object(text))


def _json_object(text: bytes) -> Fields | RejectedEvent:
    try:
        loaded = orjson.loads(text.removeprefix(b"\xef\xbb\xbf"))  # some systems begin a file with a UTF-8 mark
    except orjson.JSONDecodeError as error:
        return RejectedEvent("malformed_json", f"not JSON: {error}")
    return loaded if isinstance(loaded, dict) else RejectedEvent("malformed_event", "not a JSON object")


def _csv_rows(path: Path, stream: BinaryIO, columns: Columns, *, delimiters: str) -> Iterator[Row]:
    wide = cast("io.BufferedReader", stream).peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    # surrogateescape: a byte that is not UTF-8 spoils its own row, not the file.
    encoding, errors = ("utf-16", "replace") if wide else ("utf-8-sig", "surrogateescape")
    text = io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="")
    csv.field_size_limit(MAX_CELL_CHARS)
    try:
        first = text.readline()
        delimiter = _delimiter(first, delimiters, columns)
        reader = csv.reader(itertools.chain([first], text), delimiter=delimiter, strict=True)
        header = next(reader, [])
        _check_columns(path, columns, header)
        lines = ((line, cells) for line, cells in _csv_lines(reader) if cells)
        for number, (line, cells) in enumerate(lines, start=1):
            yield Row(number, line, cells if isinstance(cells, RejectedEvent) else _csv_fields(header, cells))
    finally:
        text.detach()  # a wrapper that is collected closes the file, which is not its own


def _delimiter(first: str, delimiters: str, columns: Columns) -> str:
    """Return between which of the delimiters the first line has a column for the id, else most columns."""
    headers = {delimiter: _header(first, delimiter) for delimiter in delimiters}
    with_id = (delimiter for delimiter in delimiters if columns.has_id(headers[delimiter]))
    return next(with_id, max(delimiters, key=lambda delimiter: len(headers[delimiter])))


def _header(first: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([first], delimiter=delimiter, strict=True), [])
    except csv.Error:  # such as a name that goes on in the next line
        return []


def _check_columns(path: Path, columns: Columns, names: list[str]) -> None:
    advice = columns.advice(dict.fromkeys(names))
    if absent := columns.missing_from(names):
        raise FatalError("settings_invalid", f"--column …={absent[0]}: {path} has no such column. {advice}")
    if not columns.has_id(names):
        raise FatalError("feed_unreadable", f"{path}: no `id` column. {advice or 'The file is empty.'}")


def _csv_lines(reader: CsvReader) -> Iterator[tuple[int, list[str] | RejectedEvent]]:
    while True:
        line = reader.line_num + 1
        try:
            yield line, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, RejectedEvent("malformed_csv", str(error))


def _csv_fields(header: list[str], cells: list[str]) -> Fields | RejectedEvent:
    if len(cells) > len(header):
        return RejectedEvent("malformed_csv", f"{len(cells)} cells under {len(header)} columns: is a quote missing?")
    return dict(zip(header, cells, strict=False))  # cells left out at the end are empty


def _parquet(path: Path, raw: BinaryIO, columns: Columns) -> Feed:
    try:
        from pyarrow import ArrowException  # noqa: PLC0415 - an extra; JSONL and CSV need nothing
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415
    except ImportError as error:
        raise FatalError("feed_unsupported", "Parquet needs: pip install 'mismatch-streamer[feeds]'") from error
    read = 0

    def rows(file: Any) -> Iterator[Row]:  # noqa: ANN401 - pyarrow has no types
        nonlocal read
        try:
            for batch in file.iter_batches(batch_size=1024):
                for fields in batch.to_pylist():
                    read += 1
                    yield Row(read, read, fields)
        except ArrowException as error:
            raise FatalError("feed_unreadable", f"{path}: the file is damaged: {error}") from error

    try:
        file = ParquetFile(raw)
    except (ArrowException, OSError) as error:
        raise FatalError("feed_unreadable", f"{path}: not a Parquet file: {error}") from error
    _check_columns(path, columns, list(file.schema_arrow.names))
    return Feed(_readable(path, rows(file)), file.metadata.num_rows, lambda: read, columns)


def file_time(mtime_ns: int) -> datetime:
    """Return a file's modification time, exact to the microsecond."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=mtime_ns // 1000)
