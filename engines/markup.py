"""HTML in a product's text → what a browser would show. A leaf; no parser: hostile text costs its length, once."""

from __future__ import annotations

import html
import re
from typing import Final

_INLINE: Final = "a|abbr|b|big|em|font|i|mark|s|small|span|strike|strong|sub|sup|u"
_BLOCK: Final = (
    "article|blockquote|body|br|caption|center|code|dd|div|dl|dt|figure|footer|form|h[1-6]|head|header|hr|html|iframe|"
    "img|li|link|main|meta|nav|o:p|ol|p|pre|script|section|style|svg|table|tbody|td|tfoot|th|thead|title|tr|ul|video"
)
_TAG: Final = re.compile(
    rf"<(?P<end>/?)(?:(?P<inline>{_INLINE})|(?P<block>{_BLOCK}))(?:[\s/][^<>]*)?>|<!--[^<>]*-->|<!DOCTYPE[^<>]*>",
    re.IGNORECASE,
)
_ENTITY: Final = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});", re.IGNORECASE)
_HIDDEN: Final = ("script", "style")
_TWICE: Final = 2  # feeds that were made of XML hold &lt;p&gt; and &amp;trade;


def plain(text: str) -> str:
    """Return the text without tags of HTML, its entities as the characters that they stand for.

    `3 < 5` and `AT&T` stay as they are, and so does `<L>`, which is no element. What stands in scripts and styles goes.
    """
    for _ in range(_TWICE):
        if "<" in text:
            text = _without_tags(text)
        if "&" in text:
            text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    return text


def _without_tags(text: str) -> str:
    shown: list[str] = []
    position, hidden = 0, ""
    for tag in _TAG.finditer(text):
        block = (tag["block"] or "").lower()
        if not hidden:
            shown += text[position : tag.start()], "" if tag["inline"] else " "
            hidden = block if block in _HIDDEN and not tag["end"] else ""
        elif block == hidden and tag["end"]:
            hidden = ""
        position = tag.end()
    return "".join(shown) + ("" if hidden else text[position:])
