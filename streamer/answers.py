"""What a server's answer, or its failure, means for the event that wants its picture. Messages name hosts only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from streamer.addresses import acceptable_url
from streamer.errors import RejectedEvent, StreamerError, TransientError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_WAIT_S = 10.0
"""The longest pause before another try: the event holds its place. A Retry-After that asks for more ends its tries."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REJECTED_STATUS = {401: "image_forbidden", 403: "image_forbidden", 404: "image_not_found", 410: "image_not_found"}
_TRANSIENT_STATUS = {408: "image_timeout", 425: "image_rate_limited", 429: "image_rate_limited"}


# A validator is kept for each URL: a longer one is not worth its memory. Control characters are read by aiohttp in a
# header, and refused where it should send them.
_VALIDATOR = re.compile(r"[\x20-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class Validator:
    """What a server gave with a picture, to be asked later whether it still is the same (RFC 9110 §8.8)."""

    etag: str | None
    last_modified: str | None


class AddressRefused(OSError):
    """An OSError, so that the other addresses of the host are tried."""


def location(url: URL, response: aiohttp.ClientResponse) -> URL:
    """Return where a redirect leads; any other status ends the try."""
    target = response.headers.get("Location")
    if response.status not in _REDIRECTS or not target:
        raise status_error(response.status, response.headers, url.raw_host)
    return redirected(url, target)


def redirected(url: URL, target: str) -> URL:
    """Return the URL that `target` is, seen from `url`.

    Raises:
        RejectedEvent: image_url_invalid, image_address_refused.
    """
    try:
        return acceptable_url(str(url.join(URL(target))))
    except RejectedEvent as error:
        raise RejectedEvent(error.code, f"redirected by {url.raw_host}: {error}") from error
    except Exception:  # noqa: BLE001 - bytes of strangers: yarl raises ValueError, and IndexError for `//[]@`
        raise RejectedEvent("image_url_invalid", f"{url.raw_host} redirects to what is no URL") from None


def status_error(status: int, headers: Mapping[str, str], host: str | None) -> StreamerError:
    """Return what a status that brings no picture means."""
    message = f"{host} answered with status {status}"
    if status in _TRANSIENT_STATUS or 500 <= status <= 599:  # noqa: PLR2004 - server errors
        code = _TRANSIENT_STATUS.get(status, "image_http_5xx")
        return TransientError(code, message, retry_after_s=retry_after_s(headers.get("Retry-After")))
    if 400 <= status <= 499:  # noqa: PLR2004 - client errors
        return RejectedEvent(_REJECTED_STATUS.get(status, "image_http_4xx"), message)
    return RejectedEvent("image_http_unexpected", message)


def retry_after_s(value: str | None) -> float | None:
    """Return the seconds that Retry-After asks for, as a number or as a date (RFC 9110 §10.2.3)."""
    if value is None:
        return None
    try:
        seconds = float(value) if value.isdecimal() else _seconds_until(parsedate_to_datetime(value))
    except (ValueError, OverflowError):
        return None
    return max(seconds, 0.0)


def _seconds_until(moment: datetime) -> float:
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


def translated(error: aiohttp.ClientError | TimeoutError, host: str) -> StreamerError:
    """Return what a failure of the HTTP client means."""
    match error:
        case TimeoutError():
            return TransientError("image_timeout", f"{host} did not answer in time")
        case aiohttp.ClientConnectorError(os_error=AddressRefused() as refused):
            return RejectedEvent("image_address_refused", f"the address of {host} is refused: {refused}")
        case aiohttp.ClientConnectorCertificateError():
            return RejectedEvent("image_tls_invalid", f"{host} has no valid certificate for its name")
        case aiohttp.ClientResponseError():
            return TransientError("image_http_malformed", f"{host} does not speak HTTP")
        case aiohttp.ClientConnectorError(os_error=cause):
            return TransientError("image_host_unreachable", f"{host} cannot be reached: {cause.strerror or cause}")
        case _:
            return TransientError("image_host_unreachable", f"{host} broke off: {type(error).__name__}")


def conditions(validator: Validator) -> dict[str, str]:
    """Return the headers that ask for the picture only where it is another one."""
    headers = {"If-None-Match": validator.etag, "If-Modified-Since": validator.last_modified}
    return {name: value for name, value in headers.items() if value is not None}


def validator_of(headers: Mapping[str, str]) -> Validator | None:
    """Return what the server gave, as far as it can be sent back."""
    given = (headers.get("ETag"), headers.get("Last-Modified"))
    etag, last_modified = (value if value and _VALIDATOR.fullmatch(value) else None for value in given)
    return Validator(etag, last_modified) if etag or last_modified else None
