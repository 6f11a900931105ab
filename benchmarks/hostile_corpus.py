"""Folders of malformed files, made from a seed: what `hostile.py` is then tried on, as on a public corpus.

    python benchmarks/hostile_corpus.py DIR --count 10000
    python benchmarks/hostile.py --only-files --pictures DIR/pictures --json DIR/json

Pictures are of every format that Pillow writes, in several modes and with metadata, animated where the format can be;
most are of those that a worker decodes. Texts are updates and JSON of every kind. Each file is one of those, altered:
bits flipped, bytes and lengths set to what breaks parsers, parts removed, doubled, cut off, or put together from two.
"""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer
from hostile_events import GOOD, update
from hostile_pictures import encoded, noise, swapped_profile
from PIL import Image
from rich.progress import track

if TYPE_CHECKING:
    from collections.abc import Iterator

MODES = ("RGB", "L", "P", "1", "RGBA", "CMYK", "LA", "I;16", "F")
EXTREMES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0")
TOKENS = (
    b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"01", b".5", b"9" * 400, b'"\\ud800"', b'"\\u0000"',
    b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\0", b"\x1b[2J", b'"', b"\\", b",", b":", b"[" * 2000,
    b'{"a":' * 500, b"]", b"}", b"//", b"\xe2\x80\xae", b'"version":1,', b'"id":"q",', b'"schema_version":2,',
)  # fmt: skip
DECODED = ("jpeg", "mpo", "png", "webp", "gif", "avif")
DECODED_SHARE = 0.7


def whole_pictures() -> Iterator[tuple[str, bytes]]:
    """Yield (ending, bytes) of sound files of every format that Pillow writes here."""
    Image.init()
    exif = Image.Exif()
    exif[0x0112] = 6
    rich: dict[str, Any] = {"exif": exif, "icc_profile": swapped_profile(), "comment": b"c" * 200}
    for kind in sorted(Image.SAVE):
        for mode in MODES:
            with contextlib.suppress(Exception):  # a format that cannot hold this mode, or needs a program
                yield kind.lower(), encoded(_picture(mode), kind)
        for options in ({"progressive": True}, {"lossless": True}, {"compression": "tiff_lzw"}, rich):
            with contextlib.suppress(Exception):
                yield kind.lower(), encoded(_picture("RGB"), kind, **options)
        with contextlib.suppress(Exception):
            frames = [noise(24, 24, number) for number in range(3)]
            yield kind.lower(), encoded(noise(24, 24), kind, save_all=True, append_images=frames)


def _picture(mode: str) -> Image.Image:
    base = noise(33, 29)
    return base.convert("L").convert("I").convert(mode) if mode == "I;16" else base.convert(mode)


def whole_texts() -> Iterator[bytes]:
    """Yield sound JSON: updates, and values of every kind."""
    yield update()
    yield update(attributes={"a": 1, "b": ["x", "y"], "c": 1.5e-300, "d": None}, updated_at="2026-01-31T12:00:00Z")
    yield update(
        title="\u00fc\u4e2d\U0001f600 \u202e", description="word " * 300, additional_image_link=["http://a/"] * 9
    )
    yield json.dumps([GOOD] * 5).encode()
    yield json.dumps({"deep": {"deeper": [[[[{"x": [1, 2, {"y": "z"}]}]]]]}, **GOOD}).encode()
    for value in ("[]", "{}", "0", '"text"', "[1,2.5e3,-1E-2,true,null]", '{"":0,"\\u0041":"\\ud83d\\ude00"}'):
        yield value.encode()


def altered(data: bytes, other: bytes, rng: random.Random, inserts: tuple[bytes, ...]) -> bytes:
    """Return the file altered in one to six ways; `other` is what may be put together with it."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at, length = rng.randrange(len(changed) + 1), rng.choice((1, 2, 4, 16, 64, 512))
        match rng.randrange(7):
            case 0 if changed:
                changed[min(at, len(changed) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                extreme = rng.choice(EXTREMES)
                changed[at : at + len(extreme)] = extreme
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length] * rng.choice((1, 1, 1, 50))
            case 4:
                changed[at:at] = rng.choice(inserts)
            case 5 if rng.random() < 0.3:
                del changed[at:]
            case 6 if rng.random() < 0.3:
                changed[at:] = other[rng.randrange(len(other) + 1) :]
            case _:
                changed[at : at + length] = rng.randbytes(min(length, len(changed) - at))
    return bytes(changed)


def main(
    out: Annotated[Path, typer.Argument(file_okay=False, help="A folder that is made.")],
    count: Annotated[int, typer.Option(min=1, help="Files of each kind, pictures and JSON.")] = 10_000,
    seed: int = 1,
) -> None:
    """Write the files."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    pictures, texts = list(whole_pictures()), list(whole_texts())
    for folder in ("pictures", "json"):
        (out / folder).mkdir(parents=True)
    decoded = [one for one in pictures if one[0] in DECODED]
    for number in track(range(count), "writing"):
        extension, data = rng.choice(decoded if rng.random() < DECODED_SHARE else pictures)
        changed = altered(data, rng.choice(pictures)[1], rng, EXTREMES)
        (out / "pictures" / f"{number:06d}.{extension}").write_bytes(changed)
        changed = altered(texts[number % len(texts)], rng.choice(texts), rng, TOKENS)
        (out / "json" / f"{number:06d}.json").write_bytes(changed)
    kinds = sorted({extension for extension, _ in pictures})
    print(f"{count} pictures from {len(pictures)} files of {len(kinds)} formats ({', '.join(kinds)}), {count} texts")


if __name__ == "__main__":
    typer.run(main)
