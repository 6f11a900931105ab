"""HTML in texts: what a browser would show stays, whatever stands in it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.markup import plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Tea &trade; &amp; Co&nbsp;1", "Tea ™ & Co\xa01"),
        ("<p>Blue<br/>mug</p>", " Blue mug "),
        ("H<sub>2</sub>O, <b class='x'>red</b>", "H2O, red"),
        ("<ul><li>One</li><li>Two</li></ul>", "  One  Two  "),
        ("<style>p { color: red }</style>Mug<script>alert('<b>')</script>", " Mug "),
        ("&lt;p&gt;Mug&lt;/p&gt; &amp;eacute;", " Mug  é"),
        ("3 < 5, AT&T, size <L>, R&D; a <= b", "3 < 5, AT&T, size <L>, R&D; a <= b"),
        ("Mug<!-- <b>not</b> shown -->", "Mug "),
        ("cut <a href='https://h/very-long", "cut <a href='https://h/very-long"),
        ("&#8482;&#x2122;&#0;&#xD800;", "™™\ufffd\ufffd"),
    ],
)
def test_plain_gives_what_a_browser_shows(text: str, shown: str) -> None:
    """Elements and entities go, also escaped twice; what only looks like them stays."""
    assert plain(text) == shown


@given(st.text(alphabet="<>/!-&;#xbpre scipt3", max_size=60) | st.text(max_size=40))
def test_plain_any_text_grows_never(text: str) -> None:
    """Nothing is raised, and nothing made up."""
    assert len(plain(text)) <= len(text)


@pytest.mark.parametrize("piece", ["<", "<a ", "<!--", "<script>", "&", "&#", "<p", "&lt;"])
def test_plain_hostile_text_costs_its_length(piece: str) -> None:
    """A megabyte that never closes what it opens takes no longer than reading it."""
    started = time.process_time()
    plain(piece * (1_000_000 // len(piece)))
    assert time.process_time() - started < 5
