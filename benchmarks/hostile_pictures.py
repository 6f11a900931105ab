"""Pictures that strangers may send, made here from a seed: damaged, lying about themselves, or built to exhaust."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from hostile_cases import OK, Case, case
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")
DAMAGE = ("image_truncated", "image_malformed")

_PNG = b"\x89PNG\r\n\x1a\n"


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 - as Pillow takes them
    """Return the picture as a file of this format."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a picture of random pixels."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png(
    width: int,
    height: int,
    pixels: bytes,
    *chunks: tuple[bytes, bytes],
    depth: int = 8,
    colour: int = 0,
    interlaced: bool = False,
) -> bytes:
    """Return a PNG, a grey one unless said otherwise, of these compressed pixels, with further chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return _PNG + b"".join(_chunk(name, body) for name, body in parts)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def scan_bomb(side: int, scans: int) -> bytes:
    """Return a small progressive JPEG whose last scan is there again and again: each costs a pass over all blocks."""
    data = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def swapped_profile() -> bytes:
    """Return the sRGB profile with its red and green primaries exchanged: who ignores it sees other colours."""
    from PIL import ImageCms  # noqa: PLC0415 - only here

    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {}
    for at in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12):
        tags[bytes(profile[at : at + 4])] = at
    red, green = tags[b"rXYZ"] + 4, tags[b"gXYZ"] + 4
    profile[red : red + 8], profile[green : green + 8] = profile[green : green + 8], profile[red : red + 8]
    return bytes(profile)


def pictures(seed: int = 1) -> Iterator[Case[bytes]]:
    """Yield every case."""
    yield from _kinds()
    yield from _cut()
    yield from _altered(seed)
    yield from _lying()
    yield from _bombs()
    yield from _disguised(seed)


def _kinds() -> Iterator[Case[bytes]]:
    """What a shop may well send: each kind gives pixels."""
    base = noise(48, 40)
    for kind in KINDS:
        yield case("ordinary", kind, encoded(base, kind), OK)
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        picture = Image.fromarray(np.full((40, 48), 20_000, np.uint16)) if mode == "I;16" else base.convert(mode)
        yield case("unusual", f"PNG of mode {mode}", encoded(picture, "PNG"), OK)
    for mode in ("L", "CMYK", "YCbCr"):
        yield case("unusual", f"JPEG of mode {mode}", encoded(base.convert(mode), "JPEG"), OK)
    for profile, name in ((swapped_profile(), "a profile of its own"), (b"\0" * 200, "a damaged profile")):
        for kind in ("JPEG", "PNG", "WEBP"):
            yield case("unusual", f"{kind} with {name}", encoded(base, kind, icc_profile=profile), OK)
    frames = [noise(48, 40, i) for i in range(1, 5)]
    for kind in ("GIF", "WEBP", "PNG", "AVIF"):
        data = encoded(base, kind, save_all=True, append_images=frames)
        yield case("unusual", f"animated {kind}", data, OK)
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield case("unusual", f"EXIF orientation {orientation}", encoded(base, "JPEG", exif=exif), OK)
    avif = encoded(base, "AVIF")
    yield case("unusual", "AVIF of major brand mif1", avif[:8] + b"mif1" + avif[12:], OK)
    for size in ((1, 1), (1, 4000), (4000, 1)):
        yield case("unusual", f"{size[0]} x {size[1]} pixels", encoded(Image.new("RGB", size), "PNG"), OK)


def _cut() -> Iterator[Case[bytes]]:
    for kind in KINDS:
        data = encoded(noise(48, 40), kind)
        for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9):
            cut = data[: max(12, int(len(data) * share))]
            yield case("truncated", f"{kind} at {share:.0%}", cut, *DAMAGE)
    rows = b"".join(b"\0" + bytes([200] * 40) for _ in range(24))
    yield case("truncated", "PNG of half its rows", png(40, 48, zlib.compress(rows)), "image_truncated")
    yield case("truncated", "nothing", b"", "image_truncated")


def _altered(seed: int, each: int = 150) -> Iterator[Case[bytes]]:
    """Random bytes changed, removed, doubled: most are refused, some still are pictures."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    outcomes = (OK, *DAMAGE, "image_too_large", "image_unsupported")
    for kind in KINDS:
        original = encoded(noise(40, 40), kind)
        for number in range(each):
            data = bytearray(original)
            for _ in range(rng.randint(1, 8)):
                at = rng.randrange(len(data))
                match rng.randrange(4):
                    case 0:
                        data[at] ^= 1 << rng.randrange(8)
                    case 1:
                        data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
                    case 2:
                        del data[at : at + rng.randint(1, 64)]
                    case _:
                        data[at:at] = data[at : at + rng.randint(1, 64)]
            yield case("altered", f"{kind} {number}", bytes(data), *outcomes)


def _lying() -> Iterator[Case[bytes]]:
    """Headers that declare what is not there."""
    some = zlib.compress(bytes(1000))
    for width, height in ((65_500, 65_500), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (100_000, 100_000)):
        yield case("lying", f"PNG of {width} x {height}", png(width, height, some), "image_too_large", *DAMAGE)
    yield case("lying", "PNG of 0 x 0", png(0, 0, some), *DAMAGE)
    jpeg = bytearray(encoded(Image.new("L", (16, 16)), "JPEG"))
    size_at = jpeg.index(b"\xff\xc0") + 5
    jpeg[size_at : size_at + 4] = b"\xff\xff\xff\xff"
    yield case("lying", "JPEG of 65,535 x 65,535", bytes(jpeg), "image_too_large")
    jpeg[size_at : size_at + 4] = b"\x17\x70\x1f\x40"
    yield case("lying", "JPEG of 8,000 x 6,000 without their data", bytes(jpeg), OK, *DAMAGE)
    gif = bytearray(encoded(Image.new("L", (16, 16)), "GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"
    yield case("lying", "GIF of 65,535 x 65,535", bytes(gif), "image_too_large")
    webp = bytearray(encoded(noise(16, 16), "WEBP", lossless=True))
    webp[4:8] = b"\xff\xff\xff\x7f"
    yield case("lying", "WebP of 2 GiB", bytes(webp), *DAMAGE)
    avif = bytearray(encoded(noise(32, 32), "AVIF"))
    ispe = avif.index(b"ispe") + 8
    avif[ispe : ispe + 8] = b"\x00\x01\x00\x00\x00\x01\x00\x00"
    yield case("lying", "AVIF of 65,536 x 65,536", bytes(avif), "image_too_large", *DAMAGE)


def _bombs() -> Iterator[Case[bytes]]:
    """Small files that cost much: memory, time, or both."""
    zeros = zlib.compress(bytes(7001 * 7000), 9)
    yield case("bomb", "PNG of 49 megapixels in 50 KB", png(7000, 7000, zeros), OK, "image_decode_timeout")
    yield case("bomb", "PNG with 50 MB behind one pixel", png(1, 1, zeros), OK, *DAMAGE)
    text = b"comment\0\0" + zlib.compress(bytes(100_000_000), 9)
    grey = zlib.compress(b"\0\x80")
    yield case("bomb", "PNG with 100 MB of compressed text", png(1, 1, grey, (b"zTXt", text)), OK, *DAMAGE)
    profile = b"icc\0\0" + zlib.compress(bytes(100_000_000), 9)
    yield case("bomb", "PNG with a profile of 100 MB", png(1, 1, grey, (b"iCCP", profile)), OK, *DAMAGE)
    many = [(b"tEXt", b"k\0" + b"v" * 100)] * 20_000
    yield case("bomb", "PNG with 20,000 comments", png(1, 1, grey, *many), OK, *DAMAGE)
    yield case("bomb", "JPEG with 20,000 scans of 36 megapixels", scan_bomb(6000, 20_000), "image_decode_timeout")
    comments = encoded(noise(16, 16), "JPEG")
    comments = comments[:2] + b"\xff\xfe\xff\xff" + bytes(65_533) + comments[2:]
    yield case("bomb", "JPEG with a comment of 64 KB", comments, OK)
    frames = [Image.new("P", (16, 16), i % 255) for i in range(1, 2000)]
    yield case(
        "bomb", "GIF of 2,000 frames", encoded(Image.new("P", (16, 16)), "GIF", save_all=True, append_images=frames), OK
    )
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\0\0\0\0"
    yield case("bomb", "JPEG whose EXIF refers to itself", encoded(noise(16, 16), "JPEG", exif=exif), OK)


def _disguised(seed: int) -> Iterator[Case[bytes]]:
    """Other content under a picture's name, and formats that nobody asked for."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    for name, data in {
        "a web page": b"<!doctype html><title>Not found</title>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "a PDF": b"%PDF-1.7\n" + bytes(100),
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "a ZIP": b"PK\x03\x04" + bytes(100),
        "JSON": b'{"error": "no such picture"}',
        "zeros": bytes(1000),
        "random bytes": rng.randbytes(1000),
    }.items():
        yield case("disguised", name, data, "image_unsupported")
    for kind in ("BMP", "TIFF", "ICO", "PPM", "TGA", "JPEG2000"):
        data = encoded(noise(16, 16), kind)
        yield case("disguised", kind, data, "image_unsupported")
    for kind, start in {"JPEG": b"\xff\xd8\xff", "PNG": _PNG, "GIF": b"GIF89a", "WebP": b"RIFF\x10\0\0\0WEBP"}.items():
        yield case(
            "disguised", f"random bytes that begin as {kind}", start + rng.randbytes(1000), *DAMAGE, "image_too_large"
        )
