"""Which URLs and which network addresses the fetcher may talk to: pure rules, no I/O.

A feed is written by others, so a URL in it may aim at what only this machine can reach: its own services, the private
network, the cloud's metadata service. `acceptable_url` refuses what cannot be read in exactly one way; `refuse` judges
an address at the moment a connection to it is opened, because a name may resolve to another one each time.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from yarl import URL

from streamer.errors import RejectedEvent
from streamer.updates import MAX_URL_CHARS

# Source: IANA IPv4 Special-Purpose Address Registry, https://www.iana.org/assignments/iana-ipv4-special-registry;
# written out because what `ipaddress` calls private has changed between patch releases of Python.
_REFUSED_IPV4 = tuple(
    (IPv4Network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "cloud metadata"),  # Azure's, the one that has a public address
        ("169.254.0.0/16", "link-local"),  # 169.254.169.254 is the metadata service of most clouds
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)

# Source: IANA IPv6 Special-Purpose Address Registry, https://www.iana.org/assignments/iana-ipv6-special-registry.
# Addresses that carry an IPv4 address are refused whatever they carry: no picture is served only there.
_REFUSED_IPV6 = tuple(
    (IPv6Network(network), reason)
    for network, reason in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::/96", "IPv4-compatible"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "NAT64"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
        ("2001::/32", "Teredo"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "documentation"),
    )
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # the only block that is given out. Source: RFC 4291 §2.4
_ISATAP_INTERFACES = (0x0000_5EFE, 0x0200_5EFE)  # Source: RFC 5214 §6.1

_UNREADABLE = re.compile(r"[\x00-\x20\x7f-\x9f\ud800-\udfff\s\\]")
_HOST_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_MAX_HOST_CHARS = 253
# Source: https://url.spec.whatwg.org/#ends-in-a-number-checker; no top-level domain is a number.
_ENDS_IN_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)\.?")


def refuse(address: IPv4Address | IPv6Address) -> str | None:
    """Return why no connection may be opened to this address, or None when it may."""
    if isinstance(address, IPv4Address):
        return next((reason for network, reason in _REFUSED_IPV4 if address in network), None)
    for network, reason in _REFUSED_IPV6:
        if address in network:
            return reason
    if address not in _GLOBAL_UNICAST or address.scope_id is not None:
        return "reserved"
    return "ISATAP" if (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP_INTERFACES else None


def acceptable_url(text: str) -> URL:
    """Return the URL, parsed once by the parser of the HTTP client itself.

    No message quotes the URL: what is refused here may hold a password.

    Raises:
        RejectedEvent: image_url_invalid; image_address_refused, when the host is an address in an odd spelling.
    """
    if len(text) > MAX_URL_CHARS:
        raise RejectedEvent("image_url_invalid", f"the image URL is longer than {MAX_URL_CHARS} characters")
    if _UNREADABLE.search(text):
        raise RejectedEvent("image_url_invalid", "the image URL holds whitespace, a backslash or a control character")
    try:
        url = URL(text)
        port = url.port
    except Exception:  # noqa: BLE001 - bytes of strangers: yarl raises ValueError, and IndexError for `http://[]@`
        raise RejectedEvent("image_url_invalid", "the image URL cannot be parsed") from None
    if url.scheme not in ("http", "https"):
        raise RejectedEvent("image_url_invalid", "the image URL is not http:// or https://")
    if url.raw_user is not None or url.raw_password is not None:
        raise RejectedEvent("image_url_invalid", "the image URL holds credentials: leave them out")
    if port == 0:
        raise RejectedEvent("image_url_invalid", "the image URL names port 0")
    _check_host(url.raw_host or "")
    return url


@lru_cache(maxsize=4096)  # a feed names few hosts many times
def _check_host(host: str) -> None:
    if ":" in host or _ENDS_IN_NUMBER.fullmatch(host):
        _check_literal(host)
    elif len(host) > _MAX_HOST_CHARS or not _HOST_NAME.fullmatch(host.removesuffix(".")):
        raise RejectedEvent("image_url_invalid", "the image URL names no valid host")
    elif host.endswith("."):
        raise RejectedEvent("image_address_refused", "the image URL's host ends in a dot")


def _check_literal(host: str) -> None:
    """Accept only the spelling that every library reads alike; whether it may be reached is `refuse`'s question."""
    try:
        canonical = str(ip_address(host)) == host
    except ValueError:
        canonical = False
    if not canonical or "%" in host:
        raise RejectedEvent("image_address_refused", "the image URL's host is an address in an odd spelling")
