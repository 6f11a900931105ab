"""Whether a PNG holds all the rows that it declares: libpng and Pillow leave out what is not there, and say nothing.

    mark ──► Pillow loads ──► lacks_rows

Source: W3C Portable Network Graphics (Third Edition), §§ 5.3, 8 and 10.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.ImageFile import ImageFile

_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of each pass of an interlaced picture: first column and row, and the steps between."""
_MARK_VALUE: Final = 173  # hardly the last row of any real picture, of all its channels
_MARK: Final = {"LA": (173, 89), "RGB": (173, 89, 211), "RGBA": (173, 89, 211, 101)}
_ONE_PASS: Final = ((0, 0, 1, 1),)
_PIECE_BYTES: Final = 1 << 18


class _Header(NamedTuple):
    width: int
    height: int
    bits: int  # of a pixel
    interlaced: bool


def mark(picture: ImageFile) -> None:
    """Fill a PNG that is to be loaded with a colour: rows that are not there will have it."""
    picture.im = Image.new(picture.mode, picture.size, _MARK.get(picture.mode, _MARK_VALUE)).im


def lacks_rows(data: bytes, picture: ImageFile) -> bool:
    """Return whether a PNG that was marked and loaded ends before its last row.

    A last row may really have that colour, and passes hide what is missing: then the data are unpacked once more and
    counted.
    """
    header = _header(data)
    last_row = picture.crop((0, picture.height - 1, picture.width, picture.height))
    marked = Image.new(picture.mode, last_row.size, _MARK.get(picture.mode, _MARK_VALUE)).tobytes()
    suspicious = header.interlaced or last_row.tobytes() == marked
    return suspicious and not _holds(data, _unpacked_bytes(header))


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view, at = memoryview(data), 8
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(view[at : at + 4], "big")
        yield bytes(view[at + 4 : at + 8]), view[at + 8 : end]
        at = end + 4  # behind the checksum


def _header(data: bytes) -> _Header:
    body = next(body for name, body in _chunks(data) if name == b"IHDR")
    width, height = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")
    return _Header(width, height, body[8] * _CHANNELS[body[9]], body[12] != 0)


def _unpacked_bytes(header: _Header) -> int:
    """Return what the rows of all passes take, each with the byte that names its filter."""
    total = 0
    for x, y, step_x, step_y in _ADAM7 if header.interlaced else _ONE_PASS:
        columns, rows = len(range(x, header.width, step_x)), len(range(y, header.height, step_y))
        total += rows * (1 + (columns * header.bits + 7) // 8) if columns else 0
    return total


def _holds(data: bytes, wanted_bytes: int) -> bool:
    """Return whether so many bytes are there; they are thrown away piece by piece, and no more than these are made."""
    stream = zlib.decompressobj()
    left = wanted_bytes
    try:
        for name, body in _chunks(data):
            packed: bytes | memoryview = body if name == b"IDAT" else b""
            while packed and left > 0 and not stream.eof:
                left -= len(stream.decompress(packed, _PIECE_BYTES))
                packed = stream.unconsumed_tail
        return left <= 0 or left <= len(stream.flush())  # zlib may hold back a little
    except zlib.error:  # behind the rows that Pillow took: it was content with them
        return True
