"""Product feeds: a file in Google Merchant's field names, row by row, into ProductUpdates.

    .jsonl .ndjson     one object a line
    .csv .tsv          a header line, then rows; UTF-8, quotes as in RFC 4180
    .parquet           needs the `feeds` extra
    .gz                behind any of the text formats

A row that cannot be used is a RejectedEvent with its line, never the end of the feed; a file that cannot be read is a
FatalError. Nothing here knows Kafka. Source: https://support.google.com/merchants/answer/7052112.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import gzip
import io
import math
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import quote, urljoin, urlsplit

import msgspec
import orjson

from streamer.errors import FatalError, RejectedEvent
from streamer.updates import ProductUpdate, parse_update

if TYPE_CHECKING:
    from _csv import Reader as CsvReader  # the standard library gives the type no other name
    from collections.abc import Callable, Generator, Iterable, Iterator
    from pathlib import Path

FORMATS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
MAX_CELL_CHARS = 2**20  # a quote that is never closed must not swallow the rest of the file

_CONTRACT = frozenset(field.name for field in msgspec.structs.fields(ProductUpdate))
_TEXT = ("id", "title", "description", "brand", "color", "material", "pattern", "gender", "size", "product_type")
_TEXT_FIELDS = (*_TEXT, "item_group_id", "price", "image_link")
_YES_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

Fields = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One row: `number` counts rows from 1, `line` is where an editor shows it (in Parquet the row number)."""

    number: int
    line: int
    fields: Fields | RejectedEvent


@dataclass(frozen=True)
class Feed:
    """An open feed; `position()` of `total` says how much of the file has been read (bytes, in Parquet rows)."""

    rows: Iterator[Row]
    total: int
    position: Callable[[], int]


@contextlib.contextmanager
def open_feed(path: Path) -> Generator[Feed]:
    """Yield the feed's rows.

    Raises:
        FatalError: feed_unreadable, feed_unsupported; also from the rows, where the file turns out to be damaged.
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
        yield _parquet(path, raw) if form == ".parquet" else _text(path, raw, form, compressed=compressed)


def _text(path: Path, raw: BinaryIO, form: str, *, compressed: bool) -> Feed:
    stream = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if compressed else raw
    if form in (".jsonl", ".ndjson"):
        rows = _json_rows(stream)
    else:
        rows = _csv_rows(path, stream, delimiter="\t" if form == ".tsv" else ",")
    return Feed(_readable(path, rows), path.stat().st_size, raw.tell)


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


def _csv_rows(path: Path, stream: BinaryIO, *, delimiter: str) -> Iterator[Row]:
    # surrogateescape: a byte that is not UTF-8 spoils its own row, not the file.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(MAX_CELL_CHARS)
    try:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        header = [column(name) for name in next(reader, [])]
        if "id" not in header:
            raise FatalError("feed_unreadable", f"{path}: no `id` column; the first line reads {header[:8]}")
        lines = ((line, cells) for line, cells in _csv_lines(reader) if cells)
        for number, (line, cells) in enumerate(lines, start=1):
            yield Row(number, line, cells if isinstance(cells, RejectedEvent) else _csv_fields(header, cells))
    finally:
        text.detach()  # a wrapper that is collected closes the file, which is not its own


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


def _parquet(path: Path, raw: BinaryIO) -> Feed:
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
    return Feed(_readable(path, rows(file)), file.metadata.num_rows, lambda: read)


def product_update(row: Row, *, base_url: str | None, feed_time: datetime) -> ProductUpdate:
    """Return the row as the update that a scorer will read.

    A row without `version` and `updated_at` takes `feed_time` (when the feed was written) plus its number in
    microseconds: publishing the same file twice says the same thing twice, a newer file wins over an older one, and
    of a product that stands twice in one feed the last row wins.

    Raises:
        RejectedEvent: malformed_json, malformed_csv, malformed_event, schema_unsupported, image_link_relative.
    """
    if isinstance(row.fields, RejectedEvent):
        raise row.fields
    given = {column(name): value for name, value in row.fields.items() if not _is_empty(value)}
    known: Fields = {name: value for name, value in given.items() if name in _CONTRACT}
    known |= {name: _scalar(name, known[name]) for name in _TEXT_FIELDS if name in known}
    extra = {name: value for name, value in given.items() if name not in _CONTRACT}
    _name_category(known, extra)
    _read_order(known, feed_time + timedelta(microseconds=row.number))
    _resolve_links(known, base_url)
    known["attributes"] = _own_attributes(known) | {name: _attribute(value) for name, value in extra.items()}
    return _checked(known)


def _checked(known: Fields) -> ProductUpdate:
    """Return the update as the scorer's own reader reads it, so that nothing is published that it would reject."""
    update = parse_update(None, _json(known))
    _ = update.order  # rejects a time without an offset
    return update


def _json(value: object) -> bytes:
    try:
        return orjson.dumps(value, default=str)  # str: a Decimal or a date of Parquet
    except orjson.JSONEncodeError as error:
        raise RejectedEvent("malformed_event", f"cannot be written as JSON: {error}") from error


@functools.lru_cache(maxsize=1024)
def column(name: str) -> str:
    """Return `Image Link`, `image link` and `g:image_link` as `image_link`."""
    return name.strip().lower().removeprefix("g:").replace(" ", "_")


def _is_empty(value: object) -> bool:
    if isinstance(value, float):
        return math.isnan(value)  # pandas writes missing cells so
    return value is None or (isinstance(value, str) and not value.strip()) or value == []


def _scalar(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise RejectedEvent("malformed_event", f"`{name}` must be text, not {type(value).__name__}")
    return str(value).strip()


def _name_category(known: Fields, extra: Fields) -> None:
    """Let Google's category stand in for a missing `product_type`, unless it is a bare taxonomy number."""
    category = str(extra.get("google_product_category", ""))
    if "product_type" not in known and category and not category.isdigit():
        known["product_type"] = category
        del extra["google_product_category"]


def _read_order(known: Fields, default: datetime) -> None:
    if isinstance(known.get("version"), str | float):
        known["version"] = _integer(known["version"])
    if isinstance(known.get("schema_version"), str | float):
        known["schema_version"] = _integer(known["schema_version"])
    if "version" not in known and "updated_at" not in known:
        known["updated_at"] = default
    if isinstance(known.get("deleted"), str):
        known["deleted"] = _YES_NO.get(known["deleted"].strip().lower(), known["deleted"])


def _integer(value: str | float) -> int | str | float:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    try:
        return int(value)
    except ValueError:
        return value  # the contract's own message names the field


def _resolve_links(known: Fields, base_url: str | None) -> None:
    more = known.get("additional_image_link")
    if isinstance(more, str):
        more = [link.strip() for link in more.split(",") if link.strip()]
    if isinstance(more, list):
        known["additional_image_link"] = [_absolute(link, base_url) for link in more]
    if "image_link" in known:
        known["image_link"] = _absolute(known["image_link"], base_url)


def _absolute(link: object, base_url: str | None) -> object:
    if not isinstance(link, str) or _has_scheme(link):
        return link
    if base_url is None:
        raise RejectedEvent("image_link_relative", f"`{link[:80]}` is relative: give --base-url https://HOST/FOLDER/")
    path = quote(link.replace("\\", "/"), safe="/%?=&;:@!$'()*+,~#")
    return urljoin(base_url if base_url.endswith("/") else base_url + "/", path)


def _has_scheme(link: str) -> bool:
    try:
        return bool(urlsplit(link).scheme)
    except ValueError:  # such as an unclosed [ of an IPv6 address; its words may quote a password
        raise RejectedEvent("malformed_event", "a link of the row is not a URL") from None


def _own_attributes(known: Fields) -> Fields:
    own = known.get("attributes", {})
    if isinstance(own, str):
        try:
            own = orjson.loads(own)
        except orjson.JSONDecodeError as error:
            raise RejectedEvent("malformed_event", f"`attributes` is not a JSON object: {error}") from error
    if isinstance(own, list) and all(isinstance(pair, tuple) for pair in own):
        own = dict(cast("list[tuple[str, Any]]", own))  # a Parquet map comes as pairs
    if not isinstance(own, dict):
        raise RejectedEvent("malformed_event", "`attributes` must be an object")
    return {str(name): _attribute(value) for name, value in own.items()}


def _attribute(value: object) -> object:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list):
        return [part if isinstance(part, str) else _json(part).decode() for part in value]
    return _json(value).decode() if isinstance(value, dict) else str(value)


def file_time(mtime_ns: int) -> datetime:
    """Return a file's modification time, exact to the microsecond."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=mtime_ns // 1000)
