"""The fuzz targets: `python tests/fuzz/target.py parse|url|decode [libFuzzer's options] [CORPUS]`.

Guided by coverage (atheris): whatever the bytes, `parse` gives an update or a RejectedEvent, `url` a URL or a
RejectedEvent, and `decode` pixels or an ImageRefused. Anything else ends the run with a traceback and leaves the bytes
in a file `crash-…`.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from functools import partial
from typing import TYPE_CHECKING

import atheris

with atheris.instrument_imports(include=["streamer", "engines", "PIL", "msgspec", "yarl"]):
    from yarl import URL

    from engines.contract import ImageSpec, TextSpec
    from engines.errors import ImageRefused, TextRefused
    from engines.image import decode
    from engines.text import OTHER_FIELDS, compose
    from streamer.addresses import acceptable_url
    from streamer.answers import redirected
    from streamer.errors import RejectedEvent
    from streamer.updates import parse_update, text_digest

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE = ImageSpec(height=32, width=32)
HERE = URL("http://shop.example/a/b.jpg")
TEXT = TextSpec(max_tokens=32, fields=("title", OTHER_FIELDS))


def parse(data: bytes) -> None:
    """Read an update, its order and its text."""
    with contextlib.suppress(RejectedEvent, TextRefused):
        update = parse_update(data[:8], data[8:])
        text_digest(compose(update.text_fields(), TEXT))
        assert isinstance(update.order, int)


def read_url(data: bytes) -> None:
    """Read a URL and, behind a line feed, where it redirects to, as headers are read."""
    text, _, target = data.decode("utf-8", "surrogateescape").partition("\n")
    for read in (partial(redirected, HERE), acceptable_url):
        with contextlib.suppress(RejectedEvent):
            url = read(text)
            assert url.scheme in {"http", "https"}
            assert url.raw_host
            redirected(url, target)


def decode_picture(data: bytes) -> None:
    """Decode a picture."""
    with contextlib.suppress(ImageRefused):
        assert decode(data, IMAGE, max_pixels=250_000).shape == (3, 32, 32)


TARGETS: dict[str, Callable[[bytes], None]] = {"parse": parse, "url": read_url, "decode": decode_picture}

MEMORY_BYTES = 2 << 30  # libFuzzer's own limit counts the peak of the process that started this one, too

if __name__ == "__main__":
    name, *options = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()
