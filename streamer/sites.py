"""Which hosts are of one owner, who may name as many of them as they like. Pure, no network.

    img1.cdn.shop.co.uk ──► shop.co.uk            the registrable domain, by the Public Suffix List
    2606:4700:1:2::1111 ──► 2606:4700:1::/48      what a provider gives a customer
    203.0.113.7         ──► itself

Source: https://publicsuffix.org/list; RFC 6177 §2 (sizes of IPv6 networks).
"""

from __future__ import annotations

from functools import cache, lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address

from publicsuffixlist import PublicSuffixList


@lru_cache(maxsize=4096)  # a feed names few hosts many times
def site_of(host: str) -> str:
    """Return the registrable domain of a name, or an IPv6 address's network; a host alone is its own site."""
    try:
        address = ip_address(host)
    except ValueError:
        return _suffixes().privatesuffix(host) or host
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), 128)).supernet(new_prefix=48))
    return host


@cache  # 2 MB, read from the package
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()
