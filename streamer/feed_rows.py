"""One row of a feed → the update that a scorer will read, whatever its export or API makes of the values. No I/O."""

from __future__ import annotations

import contextlib
import functools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote, urljoin, urlsplit

import msgspec
import orjson

from streamer.errors import RejectedEvent
from streamer.updates import MAX_ADDITIONAL_IMAGES, ProductUpdate, parse_update

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.columns import Fields
    from streamer.feeds import Row

MAX_AMOUNT_DIGITS = 18  # of a 64-bit integer, as the API has them

_CONTRACT = frozenset(field.name for field in msgspec.structs.fields(ProductUpdate))
_SCALARS = ("id", "title", "description", "brand", "color", "material", "pattern", "gender", "size", "item_group_id")
_YES_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def product_update(row: Row, *, base_url: str | None, feed_time: datetime, ordered: bool = True) -> ProductUpdate:
    """Return the row as the update that a scorer will read.

    A row without `version` and `updated_at` takes `feed_time` (when the feed was written) plus its number in
    microseconds: publishing the same file twice says the same thing twice, a newer file wins over an older one, and
    of a product that stands twice in one feed the last row wins.

    Args:
        row: of the feed.
        base_url: what relative links are relative to.
        feed_time: when the feed was written.
        ordered: whether `version` and `updated_at` are read; if not, the row is as old as the feed.

    Raises:
        RejectedEvent: malformed_json, malformed_csv, malformed_event, schema_unsupported, image_link_relative.
    """
    if isinstance(row.fields, RejectedEvent):
        raise row.fields
    unread = () if ordered else ("version", "updated_at")
    known: Fields = {name: value for name, value in row.fields.items() if name in _CONTRACT and name not in unread}
    known |= {name: read(known[name]) for name, read in _READ.items() if name in known}
    _read_order(known, feed_time + timedelta(microseconds=row.number))
    _resolve_links(known, base_url)
    extra = {name: _attribute(value) for name, value in row.fields.items() if name not in _CONTRACT}
    known["attributes"] = _own_attributes(known) | extra
    return _checked(known)


def identifier(value: object) -> str:
    """Return an id as an update has it.

    Raises:
        RejectedEvent: malformed_event.
    """
    found = _scalar("id", value)
    if not found.isascii():
        _json(found)  # bytes that are no text
    return found


def _checked(known: Fields) -> ProductUpdate:
    """Return the update as the scorer's own reader reads it, so that nothing is published that it would reject."""
    update = parse_update(None, _json(known))
    _ = update.order  # rejects a time without an offset
    return update


def _json(value: object) -> bytes:
    try:
        return orjson.dumps(value, default=str)  # str: a Decimal or a date of Parquet
    except orjson.JSONEncodeError as error:
        advice = ": save the file as `CSV UTF-8`, or `iconv -f cp1252 -t utf-8` it" if "UTF-8" in str(error) else ""
        raise RejectedEvent("malformed_event", f"cannot be written as JSON: {error}{advice}") from error


def _scalar(name: str, value: object) -> str:
    if isinstance(value, list) and name != "id":
        value = ", ".join(_scalar(name, part) for part in value)
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise RejectedEvent("malformed_event", f"`{name}` must be text, not {type(value).__name__}")
    return str(value).strip()


def _category(value: object) -> str:
    """Return one path: the first of several, or the one that their parts make."""
    found = _listed(value)
    if not isinstance(found, list):
        return _scalar("product_type", found)
    parts = [_scalar("product_type", part) for part in found]
    return next((part for part in parts if ">" in part), " > ".join(parts))


def _listed(value: object) -> object:
    """Return a list that stands in a text as JSON, as some data sets have it; anything else as it is."""
    if isinstance(value, str) and value.startswith("["):
        with contextlib.suppress(orjson.JSONDecodeError):
            found = orjson.loads(value)
            return found if isinstance(found, list) else value
    return value


def _price(value: object) -> str:
    """Return `9.90 EUR` also of the objects of Google's APIs."""
    if isinstance(value, dict):
        currency = value.get("currency", value.get("currencyCode", ""))
        amount = value.get("value", value.get("amount"))
        micros = str(value.get("amountMicros", ""))
        if amount is None and micros.isdecimal() and len(micros) <= MAX_AMOUNT_DIGITS:
            amount = Decimal(micros) / 1_000_000
        value = value if amount is None else f"{amount} {currency}"
    return _scalar("price", value)


_READ: Final[dict[str, Callable[[object], str]]] = {
    **{name: functools.partial(_scalar, name) for name in _SCALARS},
    "product_type": _category,
    "price": _price,
}


def _read_order(known: Fields, default: datetime) -> None:
    if isinstance(known.get("version"), str | float):
        known["version"] = _integer(known["version"])
    if isinstance(known.get("schema_version"), str | float):
        known["schema_version"] = _integer(known["schema_version"])
    if "version" not in known and "updated_at" not in known:
        known["updated_at"] = default
    if "updated_at" in known:
        known["updated_at"] = _zoned(known["updated_at"])
    if isinstance(known.get("deleted"), str):
        known["deleted"] = _YES_NO.get(known["deleted"].strip().lower(), known["deleted"])


def _integer(value: str | float) -> int | str | float:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    try:
        return int(value)
    except ValueError:
        return value  # the contract's own message names the field


def _zoned(value: object) -> object:
    """Return a time without an offset as one of UTC, anything else as it is."""
    moment = value
    if isinstance(value, str) and ":" in value:
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(value.strip())
    if isinstance(moment, datetime) and moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return value


def _resolve_links(known: Fields, base_url: str | None) -> None:
    """Let `image_link` be one link and `additional_image_link` a list of as many as the contract takes."""
    main, more = _listed(known.get("image_link")), _listed(known.get("additional_image_link"))
    if isinstance(more, str):
        more = [link.strip() for link in more.split(",") if link.strip()]
    if isinstance(main, list):
        main, *others = main or [None]
        more = others if more is None else more
    if main is not None:
        known["image_link"] = _absolute(_address(main), base_url)
    if isinstance(more, list):
        known["additional_image_link"] = [_absolute(_address(one), base_url) for one in more[:MAX_ADDITIONAL_IMAGES]]


def _address(link: object) -> object:
    """Return the link of what some exports have for a picture, an object with its address and its size."""
    if not isinstance(link, dict):
        return link
    return next((link[name] for name in ("url", "src", "href", "link") if name in link), link)


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
