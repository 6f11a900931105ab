"""Feeds: every format gives the same updates, a bad row spoils itself only, a damaged file says so."""

from __future__ import annotations

import gzip
import io
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from streamer.columns import Columns
from streamer.errors import FatalError, RejectedEvent
from streamer.feed_rows import product_update
from streamer.feeds import Row, file_time, open_feed
from streamer.updates import ProductUpdate, parse_update
from streamer.wire import encode

if TYPE_CHECKING:
    from pathlib import Path

WRITTEN = datetime(2026, 3, 1, 12, tzinfo=UTC)
MUG: dict[str, Any] = {
    "id": "mug-1",
    "title": "Blue mug",
    "product_type": "Kitchen > Mugs",
    "price": "9.90 EUR",
    "image_link": "https://cdn.example/mug.jpg",
    "additional_image_link": "https://cdn.example/a.jpg,https://cdn.example/b.jpg",
    "availability": "in stock",
}


def update(fields: dict[str, Any], *, number: int = 1, base_url: str | None = None) -> ProductUpdate:
    """Return the update of one row."""
    return product_update(Row(number, number, Columns().read(fields)), base_url=base_url, feed_time=WRITTEN)


def read(path: Path) -> list[ProductUpdate | str]:
    """Return the update of each row, or the code it was rejected with."""
    found: list[ProductUpdate | str] = []
    with open_feed(path) as feed:
        for row in feed.rows:
            try:
                found.append(product_update(row, base_url=None, feed_time=WRITTEN))
            except RejectedEvent as error:
                found.append(f"{row.line}: {error.code}")
        assert feed.position() == feed.total
    return found


def csv_text(delimiter: str) -> bytes:
    """Return the mug below its header."""
    header = delimiter.join(MUG)
    row = delimiter.join(f'"{value}"' for value in MUG.values())
    return f"{header}\n{row}\n".encode()


def parquet_bytes(columns: dict[str, Any]) -> bytes:
    """Return the columns as a Parquet file."""
    sink = io.BytesIO()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("feed.jsonl", orjson.dumps(MUG) + b"\n"),
        ("feed.ndjson.gz", gzip.compress(orjson.dumps(MUG))),
        ("feed.csv", csv_text(",")),
        ("FEED.TSV", csv_text("\t")),
        ("feed.csv.gz", gzip.compress(b"\xef\xbb\xbf" + csv_text(","))),
        ("semicolons.csv", csv_text(";")),
        ("utf-16.tsv", csv_text("\t").decode().encode("utf-16")),
        ("utf-16.csv.gz", gzip.compress(csv_text(";").decode().encode("utf-16"))),
        ("feed.parquet", parquet_bytes({name: [value] for name, value in MUG.items()})),
    ],
)
def test_feed_in_any_format_gives_the_same_update(tmp_path: Path, name: str, content: bytes) -> None:
    """The format of a feed leaves no trace in what is published."""
    (tmp_path / name).write_bytes(content)
    (found,) = read(tmp_path / name)
    assert found == update(MUG)


def test_update_known_and_unknown_columns_are_kept() -> None:
    """Merchant's fields go where the contract has them, any other column becomes an attribute."""
    mug = update(MUG)
    assert mug.additional_image_link == ["https://cdn.example/a.jpg", "https://cdn.example/b.jpg"]
    assert mug.attributes == {"availability": "in stock"}


@pytest.mark.parametrize("name", ["Image Link", "g:image_link", "IMAGE_LINK"])
def test_column_in_another_spelling_is_recognised(name: str) -> None:
    """Merchant feeds spell a column with spaces, capitals or the g: prefix."""
    assert update({"id": "1", name: "https://h/1.jpg"}).image_link == "https://h/1.jpg"


def test_row_without_order_is_as_old_as_the_feed() -> None:
    """Publishing a file twice says the same twice, and of two rows of a product the last wins."""
    first, again, second = update({"id": "1"}, number=7), update({"id": "1"}, number=7), update({"id": "1"}, number=8)
    assert encode(first) == encode(again)
    assert first.order == int(WRITTEN.timestamp()) * 1_000_000 + 7
    assert second.order > first.order


@pytest.mark.parametrize(
    ("fields", "order"),
    [
        ({"version": "12"}, 12),
        ({"version": 12.0}, 12),
        ({"updated_at": "1970-01-01T00:00:01Z"}, 1_000_000),
        ({"updated_at": datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)}, 1_000_000),
        ({"updated_at": "1970-01-01 00:00:01"}, 1_000_000),
        ({"updated_at": datetime(1970, 1, 1, 0, 0, 1)}, 1_000_000),  # noqa: DTZ001 - as Parquet may give it
    ],
)
def test_row_with_its_own_order_keeps_it(fields: dict[str, Any], order: int) -> None:
    """A version or a time of the source is never replaced by the file's; one without an offset is of UTC."""
    assert update({"id": "1"} | fields).order == order


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"id": ""},
        {"id": True},
        {"id": "1", "version": "newest"},
        {"id": "1", "version": 1.5},
        {"id": "1", "updated_at": "yesterday"},
        {"id": "1", "title": {"en": "mug"}},
        {"id": "1", "title": "caf\udce9"},
        {"id": "1", "deleted": "perhaps"},
        {"id": "1", "attributes": "{"},
        {"id": "1", "attributes": [1]},
        {"id": "1", "gtin": 2**70},
        {"id": "1", "image_link": "http://[::1"},
        {"id": "x" * 300},
    ],
)
def test_row_that_breaks_the_contract_is_rejected(fields: dict[str, Any]) -> None:
    """What a scorer would reject is never published."""
    with pytest.raises(RejectedEvent) as caught:
        update(fields)
    assert caught.value.code == "malformed_event"


def test_row_of_an_unknown_schema_is_rejected() -> None:
    """A feed of another schema version is not guessed at."""
    with pytest.raises(RejectedEvent) as caught:
        update({"id": "1", "schema_version": "2"})
    assert caught.value.code == "schema_unsupported"


def test_deleted_row_is_a_tombstone_with_an_order() -> None:
    """A CSV says `yes` where JSON says true."""
    assert update({"id": "1", "deleted": "Yes"}).deleted


def test_numbers_in_text_fields_become_text() -> None:
    """Systems export ids and sizes as numbers."""
    found = update({"id": 1001, "size": 42, "title": float("nan")})
    assert (found.id, found.size, found.title) == ("1001", "42", None)


@pytest.mark.parametrize(
    ("fields", "product_type", "attributes"),
    [
        ({"google_product_category": "Home > Mugs"}, "Home > Mugs", {}),
        ({"google_product_category": "2169"}, None, {"google_product_category": "2169"}),
        ({"google_product_category": "A", "product_type": "B"}, "B", {"google_product_category": "A"}),
    ],
)
def test_category_stands_in_for_a_missing_product_type(
    fields: dict[str, Any], product_type: str | None, attributes: dict[str, str]
) -> None:
    """Google's category is used where it is words and nothing better is there."""
    found = update({"id": "1"} | fields)
    assert (found.product_type, found.attributes) == (product_type, attributes)


def test_nested_values_of_unknown_columns_become_json_text() -> None:
    """An attribute is a scalar or a list of texts; what is deeper is kept as text."""
    found = update({"id": "1", "attributes": {"climate": ["hot", 1]}, "shipping": {"price": "5"}})
    assert found.attributes == {"climate": ["hot", "1"], "shipping": '{"price":"5"}'}


@pytest.mark.parametrize(
    ("link", "base_url", "expected"),
    [
        ("images/1.jpg", "https://h/shop", "https://h/shop/images/1.jpg"),
        ("images/1.jpg", "https://h/shop/", "https://h/shop/images/1.jpg"),
        ("/1.jpg", "https://h/shop/", "https://h/1.jpg"),
        ("//cdn/1.jpg", "https://h/shop/", "https://cdn/1.jpg"),
        ("blue mug %41.jpg", "https://h/", "https://h/blue%20mug%20%41.jpg"),
        ("https://other/1.jpg", "https://h/", "https://other/1.jpg"),
    ],
)
def test_relative_link_is_resolved_on_the_base_url(link: str, base_url: str, expected: str) -> None:
    """A folder of products becomes a feed with the address it is served from."""
    found = update({"id": "1", "image_link": link, "additional_image_link": [link]}, base_url=base_url)
    assert (found.image_link, found.additional_image_link) == (expected, [expected])


def test_relative_link_without_base_url_is_rejected_with_the_option_to_give() -> None:
    """The message names the option."""
    with pytest.raises(RejectedEvent, match="--base-url") as caught:
        update({"id": "1", "image_link": "images/1.jpg"})
    assert caught.value.code == "image_link_relative"


def test_jsonl_bad_lines_are_reported_where_an_editor_shows_them(tmp_path: Path) -> None:
    """Blank lines count as lines, not as rows; good rows around bad ones are read."""
    path = tmp_path / "feed.jsonl"
    path.write_bytes(b'{"id":"1"}\n\n{"id":\n[1]\n\xff\n{"id":"2"}\n')
    good, *bad, last = read(path)
    assert isinstance(good, ProductUpdate)
    assert bad == ["3: malformed_json", "4: malformed_event", "5: malformed_json"]
    assert isinstance(last, ProductUpdate)


def test_csv_bad_rows_are_reported_with_their_first_line(tmp_path: Path) -> None:
    """A row may span lines; a broken quote, a byte that is not UTF-8 and a surplus cell spoil their own row."""
    path = tmp_path / "feed.csv"
    path.write_bytes(b'id,title\n1,"two\nlines"\n2,"a"b\n3,caf\xe9\n4,a,b\n5\n')
    good, *bad, last = read(path)
    assert isinstance(good, ProductUpdate)
    assert good.title == "two\nlines"
    assert bad == ["4: malformed_csv", "5: malformed_event", "6: malformed_csv"]
    assert isinstance(last, ProductUpdate)
    with open_feed(path) as feed:
        (latin,) = [row for row in feed.rows if row.line == 5]
    with pytest.raises(RejectedEvent, match="save the file as `CSV UTF-8`"):
        product_update(latin, base_url=None, feed_time=WRITTEN)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("feed.xlsx", b"", "feed_unsupported"),
        ("feed", b"", "feed_unsupported"),
        ("feed.parquet.gz", b"", "feed_unsupported"),
        ("feed.csv", b"", "feed_unreadable"),
        ("feed.csv", b"number;title\n1;mug\n", "feed_unreadable"),
        ("feed.jsonl.gz", b"not gzip", "feed_unreadable"),
        ("feed.jsonl.gz", gzip.compress(b'{"id":"1"}\n' * 10, mtime=0)[:-10], "feed_unreadable"),
        ("feed.parquet", b"PAR1 or not", "feed_unreadable"),
    ],
)
def test_file_that_is_no_feed_is_fatal(tmp_path: Path, name: str, content: bytes, code: str) -> None:
    """A file that cannot be read says so in a code, whatever its library raised."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FatalError) as caught:
        read(tmp_path / name)
    assert caught.value.code == code


def test_feed_that_does_not_exist_is_fatal(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(FatalError, match=r"nowhere\.jsonl"):
        read(tmp_path / "nowhere.jsonl")


def test_parquet_nested_types_are_read(tmp_path: Path) -> None:
    """Lists, maps, decimals and zoned times of Parquet become what the contract has."""
    attributes = pa.array([[("climate", "hot")]], pa.map_(pa.string(), pa.string()))
    times = pa.array([1_000_000], pa.timestamp("us", tz="UTC"))
    links = pa.array([["https://h/a.jpg"]])
    table = {"id": [5], "attributes": attributes, "updated_at": times, "additional_image_link": links}
    (tmp_path / "feed.parquet").write_bytes(parquet_bytes(table))
    (found,) = read(tmp_path / "feed.parquet")
    assert isinstance(found, ProductUpdate)
    assert (found.id, found.attributes, found.order) == ("5", {"climate": "hot"}, 1_000_000)


def test_file_time_is_exact_to_the_microsecond() -> None:
    """A float would lose the last digits, and with them the order."""
    assert file_time(1_795_508_301_123_456_789).isoformat() == "2026-11-24T08:18:21.123456+00:00"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
columns = st.sampled_from([*ProductUpdate.__struct_fields__, "google_product_category"]) | st.text(max_size=8)


@given(fields=st.dictionaries(columns, json_values, max_size=8), base_url=st.none() | st.just("https://h/x"))
def test_any_row_is_published_as_the_scorer_reads_it_or_rejected(fields: dict[str, Any], base_url: str | None) -> None:
    """No row raises anything else, and what is published reads back as itself."""
    try:
        found = update(fields, base_url=base_url)
    except RejectedEvent:
        return
    assert parse_update(None, encode(found)) == found
