"""URLs and addresses that lead where no picture of a shop is, built from the ranges of the RFCs and of IANA."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import product
from typing import TYPE_CHECKING

from hostile_cases import OK, Case, case

if TYPE_CHECKING:
    from collections.abc import Iterator

REFUSED, INVALID = "image_address_refused", "image_url_invalid"

# Source: https://www.iana.org/assignments/iana-ipv4-special-registry, what is not globally reachable; multicast and
# class E of RFC 5771 and RFC 1112; the metadata services of the large clouds.
IPV4 = {
    "this network (RFC 791)": "0.0.0.0/8",
    "private (RFC 1918) 10": "10.0.0.0/8",
    "CGNAT (RFC 6598)": "100.64.0.0/10",
    "loopback (RFC 1122)": "127.0.0.0/8",
    "link-local (RFC 3927)": "169.254.0.0/16",
    "private (RFC 1918) 172": "172.16.0.0/12",
    "IETF protocols (RFC 6890)": "192.0.0.0/24",
    "TEST-NET-1 (RFC 5737)": "192.0.2.0/24",
    "6to4 relay (RFC 7526)": "192.88.99.0/24",
    "private (RFC 1918) 192": "192.168.0.0/16",
    "benchmarking (RFC 2544)": "198.18.0.0/15",
    "TEST-NET-2 (RFC 5737)": "198.51.100.0/24",
    "TEST-NET-3 (RFC 5737)": "203.0.113.0/24",
    "multicast (RFC 5771)": "224.0.0.0/4",
    "reserved (RFC 1112)": "240.0.0.0/4",
    "metadata of AWS, GCP, Azure, Oracle": "169.254.169.254/32",
    "metadata of Alibaba": "100.100.100.200/32",
    "metadata of Azure's platform": "168.63.129.16/32",
    "metadata of Oracle": "192.0.0.192/32",
}
# Source: https://www.iana.org/assignments/iana-ipv6-special-registry
IPV6 = {
    "unspecified (RFC 4291)": "::/128",
    "loopback (RFC 4291)": "::1/128",
    "discard only (RFC 6666)": "100::/64",
    "IETF protocols (RFC 2928)": "2001::/23",
    "Teredo (RFC 4380)": "2001::/32",
    "benchmarking (RFC 5180)": "2001:2::/48",
    "ORCHIDv2 (RFC 7343)": "2001:20::/28",
    "documentation (RFC 3849)": "2001:db8::/32",
    "6to4 (RFC 3056)": "2002::/16",
    "documentation (RFC 9637)": "3fff::/20",
    "segment routing (RFC 9602)": "5f00::/16",
    "unique local (RFC 4193)": "fc00::/7",
    "link-local (RFC 4291)": "fe80::/10",
    "site-local (RFC 3879)": "fec0::/10",
    "multicast (RFC 4291)": "ff00::/8",
    "NAT64 (RFC 6052)": "64:ff9b::/96",
    "local NAT64 (RFC 8215)": "64:ff9b:1::/48",
    "metadata of AWS": "fd00:ec2::254/128",
}
PUBLIC = ("1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
          "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0",
          "198.17.255.255", "198.20.0.0", "223.255.255.255", "2606:4700::1111", "2a00:1450:4001::1")  # fmt: skip


def embedded(address: IPv4Address) -> dict[str, IPv6Address]:
    """Return the IPv6 addresses that carry this IPv4 address."""
    number = int(address)
    return {
        "mapped (RFC 4291)": IPv6Address(0xFFFF << 32 | number),
        "compatible (RFC 4291)": IPv6Address(number),
        "translated (RFC 2765)": IPv6Address(0xFFFF << 48 | number),
        "6to4 (RFC 3056)": IPv6Address(0x2002 << 112 | number << 80 | 1),
        "NAT64 (RFC 6052)": IPv6Address(0x64FF9B << 96 | number),
        "Teredo server (RFC 4380)": IPv6Address(0x20010000 << 96 | number << 64),
        "Teredo client (RFC 4380)": IPv6Address(0x20010000 << 96 | number ^ 0xFFFF_FFFF),
        "ISATAP (RFC 5214)": IPv6Address(0x2606_4700 << 96 | 0x5EFE << 32 | number),
        "ISATAP, global bit (RFC 5214)": IPv6Address(0x2606_4700 << 96 | 0x0200_5EFE << 32 | number),
    }


def addresses() -> Iterator[Case[IPv4Address | IPv6Address]]:
    """Yield what a connection would go to: the first, middle and last address of each range, and each IPv4 in IPv6."""
    for name, text in IPV4.items():
        network = IPv4Network(text)
        for address in {network[0], network[network.num_addresses // 2], network[-1]}:
            yield case("IPv4 range", f"{name}: {address}", address, REFUSED)
            for form, carrier in embedded(address).items():
                yield case("IPv4 in IPv6", f"{form} of {name}: {carrier}", carrier, REFUSED)
    for form, carrier in embedded(IPv4Address("8.8.8.8")).items():
        yield case("IPv4 in IPv6", f"{form} of a public address", carrier, REFUSED)
    for name, text in IPV6.items():
        net6 = IPv6Network(text)
        for address6 in {net6[0], net6[net6.num_addresses // 2], net6[-1]}:
            yield case("IPv6 range", f"{name}: {address6}", address6, REFUSED)
    for text in PUBLIC:
        yield case("public", text, IPv6Address(text) if ":" in text else IPv4Address(text), OK)


def spellings(address: IPv4Address) -> Iterator[str]:
    """Yield the ways in which some library reads this address, other than its own."""
    number, octets = int(address), address.packed
    yield str(number)
    yield hex(number)
    yield f"0{number:o}"
    yield ".".join(hex(octet) for octet in octets)
    yield ".".join(f"0{octet:o}" for octet in octets)
    yield ".".join(f"{octet:03d}" for octet in octets)
    yield ".".join(f"{octet:#010x}" for octet in octets)
    yield f"{octets[0]}.{int.from_bytes(octets[1:], 'big')}"
    yield f"{octets[0]}.{octets[1]}.{int.from_bytes(octets[2:], 'big')}"
    yield f"{hex(octets[0])}.{int.from_bytes(octets[1:], 'big')}"
    yield f"{address}."
    yield f"{address}%00"
    yield str(address).replace(".", "%2e")
    yield str(address).replace(".", "\u3002")
    yield str(address).replace(".", "\uff0e")
    yield "".join(chr(0xFEE0 + ord(c)) if c.isdigit() else c for c in str(address))  # full-width digits
    yield "".join(chr(0x2460 + int(c) - 1) if c in "123456789" else c for c in str(address))  # circled digits
    yield f"[{address}]"
    yield f"[::ffff:{address}]"
    yield f"[::{address}]"
    yield f"[0:0:0:0:0:ffff:{address}]"
    yield f"[::ffff:{octets[0]:x}{octets[1]:02x}:{octets[2]:x}{octets[3]:02x}]"
    yield f"[v1.{address}]"
    yield f"user:secret@{address}"
    yield f"cdn.example@{address}"
    yield f"{address}:80@cdn.example"
    yield f"{address}\\@cdn.example"
    yield f"{address}\t"
    yield f"{address}\r\nHost: cdn.example"
    yield f"{address}\0.cdn.example"
    yield f"{address}#@cdn.example"
    yield f"{address}?@cdn.example"


def odd_brackets() -> Iterator[str]:
    """Yield URLs of nothing but delimiters behind the scheme, such as those that yarl answers with an IndexError."""
    for parts in product("[]@:a", repeat=4):
        rest = "".join(parts)
        if {"[", "]", "@"} <= set(rest):
            yield f"http://{rest}"
            yield f"https://{rest}/a.jpg"


def urls() -> Iterator[Case[str]]:
    """Yield URLs that must not bring a picture; where a spelling is accepted, its address still is judged."""
    for text in ("127.0.0.1", "169.254.169.254", "10.0.0.1", "0.0.0.0", "192.168.1.1"):  # noqa: S104 - not bound to
        for spelling in spellings(IPv4Address(text)):
            yield case("odd spelling", repr(spelling), f"http://{spelling}/a.jpg", REFUSED, INVALID)
    for scheme in (
        "file",
        "ftp",
        "gopher",
        "data",
        "javascript",
        "unix",
        "dict",
        "ldap",
        "jar",
        "",
        "ws",
        "https+unix",
    ):
        yield case("scheme", scheme or "none", f"{scheme}://127.0.0.1/a.jpg", INVALID)
    for host in ("localhost", "LOCALHOST", "localhost.", "\uff4cocalhost", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ"):
        yield case("local name", host, f"http://{host}/a.jpg", REFUSED, INVALID)
    for host in (
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::1%25lo]",
        "[fe80::1%25eth0]",
        "[::ffff:0:127.0.0.1]",
        "[::1",
        "::1",
    ):
        yield case("brackets", host, f"http://{host}/a.jpg", REFUSED, INVALID)
    for text in odd_brackets():
        yield case("delimiters", text, text, REFUSED, INVALID)
    for code in (*range(0x21), 0x5C, 0x7F, 0x85, 0xA0, 0xAD, 0x200B, 0x2028, 0x202E, 0xFEFF, 0xD800):
        for place, url in (("host", f"http://cdn{chr(code)}.invalid/"), ("path", f"http://127.0.0.1/a{chr(code)}b")):
            yield case(
                "control character", f"U+{code:04X} in the {place}", url, REFUSED, INVALID, "image_host_unreachable"
            )
    for port in ("0", "-1", "65536", "99999999999999999999", "80a", "\uff18\uff10", " 80"):
        yield case("port", port, f"http://127.0.0.1:{port}/", REFUSED, INVALID)
