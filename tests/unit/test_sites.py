"""Which hosts are of one owner."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.sites import site_of


@pytest.mark.parametrize(
    ("host", "site"),
    [
        ("shop.example", "shop.example"),
        ("img1.cdn.shop.example", "shop.example"),
        ("a.b.shop.co.uk", "shop.co.uk"),
        ("one.myshopify.com", "one.myshopify.com"),  # tenants of a platform are not of one owner
        ("img.one.myshopify.com", "one.myshopify.com"),
        ("xn--mnchen-3ya.xn--p1ai", "xn--mnchen-3ya.xn--p1ai"),
        ("co.uk", "co.uk"),
        ("localhost", "localhost"),
        ("203.0.113.7", "203.0.113.7"),
        ("2606:4700:1:2::1111", "2606:4700:1::/48"),
    ],
)
def test_site_is_what_one_owner_may_name_at_will(host: str, site: str) -> None:
    """Names below a registered domain cost nothing, nor do the addresses of an IPv6 network."""
    assert site_of(host) == site


@given(st.text(st.sampled_from("abz019.-_:[]"), max_size=20) | st.ip_addresses().map(str))
def test_site_of_a_site_is_itself(host: str) -> None:
    """Whatever a host is called."""
    assert site_of(site_of(host)) == site_of(host)
