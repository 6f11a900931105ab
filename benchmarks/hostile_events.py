"""Records that anybody who may write to the updates' topic may write: bytes, JSON, fields and text of every kind."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

from hostile_cases import OK, Case, case

from streamer.updates import ProductUpdate

if TYPE_CHECKING:
    from collections.abc import Iterator

Record = tuple[bytes | None, bytes | None]  # key, value

JSON, EVENT, KEY = "malformed_json", "malformed_event", "key_missing"
GOOD: dict[str, Any] = {"id": "p", "version": 1, "title": "a mug", "image_link": "https://cdn.example/a.jpg"}


def update(**fields: Any) -> bytes:  # noqa: ANN401 - any JSON
    """Return a good update with these fields changed."""
    return json.dumps(GOOD | fields, ensure_ascii=False).encode("utf-8", "surrogatepass")


def records(seed: int = 1) -> Iterator[Case[Record]]:
    """Yield every case; `accepted` means that it is an update, or a deletion, like any other."""
    yield from _bytes(seed)
    yield from _nesting()
    yield from _numbers()
    yield from _fields()
    yield from _keys()
    yield from _texts(seed)
    yield from _altered(seed)


def _bytes(seed: int) -> Iterator[Case[Record]]:
    rng = random.Random(seed)  # noqa: S311 - not a secret
    for name, value in {
        "nothing": b"",
        "zeros": bytes(1000),
        "random bytes": rng.randbytes(10_000),
        "UTF-16": '{"id":"p"}'.encode("utf-16"),
        "UTF-8 with a byte order mark": b"\xef\xbb\xbf" + update(),
        "Latin-1": b'{"id":"m\xfc"}',
        "overlong UTF-8": b'{"id":"\xc0\xaf"}',
        "a surrogate as UTF-8": b'{"id":"\xed\xa0\x80"}',
        "a lone surrogate, escaped": b'{"id":"p","title":"\\ud800"}',
        "two lone surrogates": b'{"id":"p","title":"\\udc00\\ud800"}',
        "Avro's magic byte": b"\0\0\0\0\1" + update(),
        "XML": b"<product id='p'/>",
        "two objects": update() + update(),
        "an object that is cut": update()[:-10],
        "a comment": b"/* */" + update(),
        "single quotes": b"{'id': 'p'}",
        "a trailing comma": b'{"id":"p",}',
        "a control character in a string": b'{"id":"p","title":"a\nb"}',
        "10 MB of spaces": b" " * 10_000_000,
        "10 MB of quotes": b'"' * 10_000_000,
    }.items():
        yield case("bytes", name, (b"p", value), JSON)


def _nesting() -> Iterator[Case[Record]]:
    for depth in (10, 1000, 100_000, 1_000_000):
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            inner = opening * depth + b"1" + closing * depth
            name = f"{depth:,} times {opening.decode()}"
            wanted = (OK, JSON) if depth >= 1000 else (OK,)
            yield case(
                "nesting", f"{name} in an unknown field", (b"p", update()[:-1] + b',"x":' + inner + b"}"), *wanted
            )
            for known in ProductUpdate.__struct_fields__:
                nested = update()[:-1] + b',"%s":' % known.encode() + inner + b"}"
                yield case("nesting", f"{name} in {known}", (b"p", nested), EVENT, JSON, "schema_unsupported")
            yield case("nesting", f"{name} and nothing else", (b"p", inner), EVENT, JSON)
            yield case("nesting", f"{name} without end", (b"p", opening * depth), JSON)


def _numbers() -> Iterator[Case[Record]]:
    for name in ("NaN", "Infinity", "-Infinity", "0x10", "01", "+1", ".5", "1.", "1e", "--1"):
        yield case("numbers", f"version {name}", (b"p", b'{"id":"p","version":' + name.encode() + b"}"), JSON)
    for name in ("1.5", "1e400", "-1e400", "1e308", '"1"', "true", "[1]", "{}", "9223372036854775808", "1" * 5000):
        text = b'{"id":"p","version":' + name.encode() + b"}"
        yield case("numbers", f"version {name[:20]}", (b"p", text), EVENT, JSON)
    for name in ("9223372036854775807", "-9223372036854775808", "0", "-0"):
        yield case("numbers", f"version {name}", (b"p", update()[:-1] + b',"version":' + name.encode() + b"}"), OK)
    for name in ("1e400", "1" * 5000, "1e-400", "0.1e1"):
        text = update()[:-1] + b',"price":' + name.encode() + b',"attributes":{"n":' + name.encode() + b"}}"
        yield case("numbers", f"price {name[:20]}", (b"p", text), OK, EVENT, JSON)


def _fields() -> Iterator[Case[Record]]:
    yield case("fields", "a field twice: the last counts", (b"p", update()[:-1] + b',"title":"a cup"}'), OK)
    yield case("fields", "the id twice", (b"p", b'{"id":"a","id":"p","version":1}'), "text_empty")
    yield case("fields", "unknown ones", (b"p", update(stock={"here": 4}, __proto__={"a": 1}, constructor=None)), OK)
    yield case("fields", "10,000 unknown ones", (b"p", update(**{f"f{i}": i for i in range(10_000)})), OK)
    yield case("fields", "10,000 attributes", (b"p", update(attributes={f"f{i}": "x" for i in range(10_000)})), OK)
    versions: list[Any] = [0, 2, 99, "1", None, 1.5, [], {}, 10**30]
    for version in versions:
        given = update(schema_version=version)
        yield case("fields", f"schema_version {version!r}", (b"p", given), "schema_unsupported", EVENT, JSON)
    for name in ("id", "title", "image_link", "attributes", "updated_at", "deleted", "additional_image_link"):
        values: list[Any] = [7, 1.5, True, [], {}, [[]], {"a": {"b": 1}}, "", "x"]
        for value in values:
            yield case("fields", f"{name} = {value!r}", (b"p", update(**{name: value})), OK, EVENT, "text_empty")
    for moment in ("2026-01-31", "2026-01-31T12:00:00", "0000-00-00T00:00:00Z", "9999-12-31T23:59:59.999999-23:59"):
        text = {key: value for key, value in GOOD.items() if key != "version"} | {"updated_at": moment}
        yield case("fields", f"updated_at {moment}", (b"p", json.dumps(text).encode()), OK, EVENT, "version_missing")
    yield case("fields", "a URL of 10 MB", (b"p", update(image_link="http://" + "a" * 10_000_000)), EVENT)
    yield case("fields", "an id of 10 MB", (b"p", update(id="a" * 10_000_000)), EVENT)
    yield case("fields", "100 additional pictures", (b"p", update(additional_image_link=["http://a/"] * 100)), EVENT)


def _keys() -> Iterator[Case[Record]]:
    yield case("keys", "none", (None, update()), OK)
    yield case("keys", "another than the id", (b"other", update()), OK)
    yield case("keys", "random bytes", (b"\xff\xfe\x00", update()), OK)
    yield case("keys", "1 MB", (b"k" * 2**20, update()), OK)
    yield case("keys", "900 kB, of what is rejected", (b"k" * 900_000, b"{"), JSON)
    yield case("keys", "1 MB, of a deletion", (b"k" * 2**20, None), KEY)
    yield case("keys", "of a deletion", (b"p", None), OK)
    for name, key in {"none": None, "empty": b"", "not UTF-8": b"\xff", "300 characters": b"k" * 300}.items():
        yield case("keys", f"of a deletion: {name}", (key, None), KEY)


def _texts(seed: int) -> Iterator[Case[Record]]:
    rng = random.Random(seed)  # noqa: S311 - not a secret
    words = " ".join(f"word{rng.randrange(1000)}" for _ in range(100_000))
    for name, text in {
        "100,000 words": words,
        "10 MB in one word": "a" * 10_000_000,
        "control characters": "a\x00mug\x07\x1b[31m\x7f",
        "bidi controls": "mug \u202egum\u202c \u2066x\u2069",
        "zero width": "m\u200bu\u200dg\ufeff",
        "combining marks": "m" + "\u0301" * 10_000 + "ug",
        "characters that grow when normalized": "\ufdfa" * 10_000,
        "emoji of many parts": "👨\u200d👩\u200d👧" * 1000,
        "every plane": "".join(chr(c) for c in range(0x20, 0x11_0000, 997) if not 0xD800 <= c < 0xE000),
        "not characters": "a \ufffe\uffff\U0010ffff",
        "log injection": 'mug\n{"event": "worker.stopped"}',
        "markup": "<script>alert(1)</script> [red]mug[/]",
    }.items():
        yield case("text", name, (b"p", update(title=text, description=text)), OK, "text_empty")
    without: dict[str, str | None] = {
        "none": None,
        "empty": "",
        "spaces": " \t\u3000",
        "punctuation": "!?…",
        "only zero width": "\u200b",
    }
    for name, title in without.items():
        yield case("text", f"no words: {name}", (b"p", update(title=title)), "text_empty")


def _altered(seed: int, count: int = 2000) -> Iterator[Case[Record]]:
    rng = random.Random(seed)  # noqa: S311 - not a secret
    pool = [
        b"null",
        b"true",
        b"{}",
        b"[]",
        b"1e999",
        b'"\\ud800"',
        b"\xff",
        b"\0",
        b'"',
        b"\\",
        b",",
        b"}",
        b"{",
        b"9" * 40,
    ]
    for number in range(count):
        data = bytearray(update(attributes={"a": 1, "b": ["x"]}, updated_at="2026-01-31T12:00:00Z", price=9.9))
        for _ in range(rng.randint(1, 4)):
            at, length = rng.randrange(len(data)), rng.randint(0, 12)
            data[at : at + length] = rng.choice(pool) if rng.random() < 0.7 else rng.randbytes(length)
        outcomes = (OK, JSON, EVENT, "schema_unsupported", "version_missing", "text_empty")
        yield case("altered", str(number), (b"p", bytes(data)), *outcomes)
