"""Which URLs and addresses the fetcher may talk to."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from streamer.addresses import acceptable_url, refuse
from streamer.answers import redirected
from streamer.errors import RejectedEvent
from streamer.updates import MAX_URL_CHARS


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("10.0.0.1", "private"),
        ("100.64.0.1", "carrier-grade NAT"),
        ("100.100.100.200", "carrier-grade NAT"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("168.63.129.16", "cloud metadata"),
        ("169.254.169.254", "link-local"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.0.0.192", "reserved"),
        ("192.0.2.1", "documentation"),
        ("192.88.99.1", "6to4 relay"),
        ("192.168.1.1", "private"),
        ("198.19.255.255", "benchmarking"),
        ("198.51.100.7", "documentation"),
        ("203.0.113.7", "documentation"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::8.8.8.8", "IPv4-compatible"),
        ("::ffff:127.0.0.1", "IPv4-mapped"),
        ("::ffff:8.8.8.8", "IPv4-mapped"),
        ("::ffff:0:127.0.0.1", "reserved"),
        ("64:ff9b::a00:1", "NAT64"),
        ("64:ff9b:1::a00:1", "NAT64"),
        ("100::1", "reserved"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "Teredo"),
        ("2001:2::1", "reserved"),
        ("2001:10::1", "reserved"),
        ("2001:db8::1", "documentation"),
        ("2002:7f00:1::", "6to4"),
        ("3fff::1", "documentation"),
        ("fc00::1", "private"),
        ("fd00:ec2::254", "private"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("2606:4700::1%eth0", "reserved"),
        ("fec0::1", "site-local"),
        ("ff02::1", "multicast"),
        ("4000::1", "reserved"),
        ("2606:4700::5efe:10.0.0.1", "ISATAP"),
        ("2606:4700::200:5efe:8.8.8.8", "ISATAP"),
    ],
)
def test_refuse_special_address_says_why(address: str, reason: str) -> None:
    """No connection may be opened to an address that is not a public host's."""
    assert refuse(ip_address(address)) == reason


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "9.255.255.255", "11.0.0.0", "172.15.0.1", "172.32.0.1", "223.255.255.255", "2606:4700::1111"],
)
def test_refuse_public_address_is_none(address: str) -> None:
    """Public addresses pass, also those next to a refused block."""
    assert refuse(ip_address(address)) is None


@given(st.ip_addresses(v=4))
def test_refuse_ipv4_not_global_is_refused(address: IPv4Address) -> None:
    """Whatever the standard library calls not global is refused here too."""
    if not address.is_global:
        assert refuse(address) is not None


@given(st.ip_addresses(v=6))
def test_refuse_ipv6_not_global_is_refused(address: IPv6Address) -> None:
    """Whatever the standard library calls not global is refused here too."""
    if not address.is_global:
        assert refuse(address) is not None


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("http://shop.example.com/a.jpg", "shop.example.com", 80),
        ("HTTPS://Shop.Example.com/a.jpg", "shop.example.com", 443),
        ("https://cdn_1.example.com:8443/a%20b.jpg?w=1#f", "cdn_1.example.com", 8443),
        ("https://münchen.example/ü.jpg", "xn--mnchen-3ya.example", 443),
        ("http://1.1.1.1/a.jpg", "1.1.1.1", 80),
        ("http://[2606:4700::1111]/a.jpg", "2606:4700::1111", 80),
        ("http://1password.com/a.jpg", "1password.com", 80),
        ("http://127.0.0.1/", "127.0.0.1", 80),
    ],
)
def test_acceptable_url_ordinary_is_parsed(text: str, host: str, port: int) -> None:
    """Ordinary URLs pass; an address in its canonical spelling is judged when it is connected to."""
    url = acceptable_url(text)
    assert (url.raw_host, url.port) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.jpg",
        "//shop.example.com/a.jpg",
        "ftp://shop.example.com/a.jpg",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "http:///a.jpg",
        "http:a.jpg",
        "http://user:secret@shop.example.com/a.jpg",
        "http://user@shop.example.com/a.jpg",
        "http://:secret@shop.example.com/a.jpg",
        "http://shop.example.com\\@127.0.0.1/",
        "http://shop.example.com/a b.jpg",
        "http://shop.example.com/a.jpg\r\nX-Injected: 1",
        "http://shop.example.com/\x00.jpg",
        "http://shop.example.com/\u2028.jpg",
        "http://shop.example.com/\udc80.jpg",
        " http://shop.example.com/a.jpg",
        "http://shop.example.com:0/a.jpg",
        "http://shop.example.com:70000/a.jpg",
        "http://shop..example.com/",
        f"http://{'a' * 64}.example.com/",
        f"http://{'a.' * 127}example.com/",
        "http://shop.example.com/" + "a" * MAX_URL_CHARS,
        "http://[]@",
        "http://][@",
        "https://secret[]y@",
    ],
)
def test_acceptable_url_not_one_reading_is_invalid(text: str) -> None:
    """What is no plain http(s) URL is refused before anything is resolved, and never quoted."""
    with pytest.raises(RejectedEvent) as caught:
        acceptable_url(text)
    assert caught.value.code == "image_url_invalid"
    assert "secret" not in repr(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "http://2130706433/",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://0x7f.0.0.1/",
        "http://0x7f000001/",
        "http://0X7F.1/",
        "http://0x/",
        "http://127.0.0.1./",
        "http://999.999.999.999/",
        "http://shop.example.com./a.jpg",
        "http://localhost./",
        "http://127%2e0.0.1/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://1.2.3.4\u3002/",
    ],
)
def test_acceptable_url_odd_address_is_refused(text: str) -> None:
    """An address that two libraries could read differently is refused, whatever it stands for."""
    with pytest.raises(RejectedEvent) as caught:
        acceptable_url(text)
    assert caught.value.code == "image_address_refused"


DELIMITERS = st.text(st.sampled_from("[]@:.%/?#\\&=;,|^~-_a1é。①\u0301"), max_size=12)


@given(st.sampled_from(["http://", "https://", "//", ""]), DELIMITERS, st.sampled_from(["", "http:", "//"]), DELIMITERS)
@example("http://", "[]@", "", "")
@example("http://", "a.example/b", "//", "[]@")
def test_acceptable_url_of_delimiters_is_a_url_or_a_rejection(start: str, rest: str, again: str, target: str) -> None:
    """Whatever stands where, in a feed's URL or behind a redirect, the parser's own errors go no further."""
    with suppress(RejectedEvent):
        acceptable_url(start + rest)
    with suppress(RejectedEvent):
        redirected(URL("http://shop.example.com/a.jpg"), again + target)
