"""`engines.image`: every accepted kind of picture, and every refusal by its code."""

from __future__ import annotations

import contextlib
import io
import zlib
from typing import Any

import numpy as np
import pytest
from hostile_pictures import png, swapped_profile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from engines.contract import ImageSpec
from engines.errors import ImageRefused
from engines.image import decode

SPEC = ImageSpec(height=32, width=32)
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
RED, BLUE, WHITE = (220, 30, 40), (20, 60, 200), (255, 255, 255)


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 - as Pillow takes them
    """Return the picture as a file of this format."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(width: int = 64, height: int = 64) -> Image.Image:
    """Return a picture whose left half is red and whose right half is blue."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(BLUE, (width // 2, 0, width, height))
    return picture


def noise(width: int, height: int) -> Image.Image:
    """Return a picture of random pixels, the same every time."""
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def decoded(data: bytes, spec: ImageSpec = SPEC, max_pixels: int = 10_000_000) -> np.ndarray[Any, Any]:
    """Decode with the limits of these tests."""
    return decode(data, spec, max_pixels=max_pixels)


def refusal(data: bytes, max_pixels: int = 10_000_000) -> str:
    """Return the code with which these bytes are refused."""
    with pytest.raises(ImageRefused) as caught:
        decode(data, SPEC, max_pixels=max_pixels)
    return caught.value.code


def assert_halves(pixels: np.ndarray[Any, Any], tolerance: int = 12) -> None:
    """Check that red is on the left and blue on the right."""
    assert pixels.dtype == np.uint8
    assert pixels.shape == (3, 32, 32)
    assert pixels.flags.c_contiguous
    assert np.abs(pixels[:, 16, 6].astype(int) - RED).max() <= tolerance
    assert np.abs(pixels[:, 16, 26].astype(int) - BLUE).max() <= tolerance


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("AVIF", {"quality": 95}),
    ],
)
def test_decode_each_accepted_format_keeps_colours(kind: str, options: dict[str, Any]) -> None:
    """A picture in any accepted format becomes contiguous RGB planes."""
    assert_halves(decoded(encoded(halves(), kind, **options)))


@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr"])
def test_decode_other_colour_mode_becomes_rgb(mode: str) -> None:
    """Palettes and print colours become the same RGB."""
    kind = "PNG" if mode == "P" else "JPEG"
    options = {} if mode == "P" else {"quality": 95, "subsampling": 0}
    assert_halves(decoded(encoded(halves().convert(mode), kind, **options)), tolerance=16)


def test_decode_greyscale_becomes_three_equal_planes() -> None:
    """Grey has red = green = blue."""
    pixels = decoded(encoded(Image.new("L", (40, 40), 77), "PNG"))
    assert (pixels == 77).all()


def test_decode_16_bit_png_keeps_the_upper_bits() -> None:
    """Sixteen bits a sample are scaled to eight, not clipped."""
    values = np.full((40, 40), 0x4D10, dtype=np.uint16)
    pixels = decoded(encoded(Image.fromarray(values), "PNG"))
    assert (pixels == 0x4D).all()


def test_decode_bilevel_png_becomes_black_and_white() -> None:
    """One bit a pixel is black and white."""
    pixels = decoded(encoded(Image.new("1", (40, 40), 1), "PNG"))
    assert (pixels == 255).all()


def test_decode_transparent_pixels_take_the_background() -> None:
    """Alpha is composed onto the spec's background, whatever colour hides under it."""
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    picture.paste((*RED, 255), (0, 0, 32, 64))
    pixels = decoded(encoded(picture, "PNG"), ImageSpec(height=32, width=32, background=(1, 2, 3)))
    assert pixels[:, 16, 6].tolist() == list(RED)
    assert pixels[:, 16, 26].tolist() == [1, 2, 3]


def test_decode_palette_with_transparency_takes_the_background() -> None:
    """A GIF's transparent index shows the background."""
    picture = Image.new("P", (64, 64), 0)
    picture.putpalette([0, 0, 0, *RED])
    picture.paste(1, (0, 0, 32, 64))
    pixels = decoded(encoded(picture, "GIF", transparency=0))
    assert pixels[:, 16, 6].tolist() == list(RED)
    assert pixels[:, 16, 26].tolist() == list(WHITE)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_decode_exif_orientation_matches_pillows_own(orientation: int) -> None:
    """A rotated photo becomes upright exactly as `ImageOps.exif_transpose` makes it."""
    picture = halves(96, 64)
    picture.paste((10, 200, 30), (0, 0, 96, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture, "PNG", exif=exif)
    upright = picture.transpose(_EXPECTED[orientation]) if orientation in _EXPECTED else picture
    assert np.array_equal(decoded(data), decoded(encoded(upright, "PNG")))


_EXPECTED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # as `engines.image` does; pytest undoes it
def test_decode_damaged_exif_is_ignored() -> None:
    """EXIF that cannot be read does not cost the picture."""
    data = encoded(halves(), "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert_halves(decoded(data))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "AVIF"])
def test_decode_icc_profile_gives_the_colours_that_it_means(kind: str) -> None:
    """Under a profile whose red and green are exchanged, a stored red is a green."""
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100}
    data = encoded(Image.new("RGB", (64, 64), (200, 0, 0)), kind, icc_profile=swapped_profile(), **options)
    red, green, _ = decoded(data)[:, 16, 16].tolist()
    assert green > 150
    assert red < 60


def test_decode_icc_profile_keeps_alpha() -> None:
    """Colours are corrected under transparency, which stays what it is."""
    picture = Image.new("RGBA", (64, 64), (200, 0, 0, 0))
    picture.paste((200, 0, 0, 255), (0, 0, 32, 64))
    pixels = decoded(encoded(picture, "PNG", icc_profile=swapped_profile()))
    assert pixels[1, 16, 6] > 150
    assert pixels[:, 16, 26].tolist() == list(WHITE)


def test_decode_srgb_profile_changes_nothing() -> None:
    """The profile that nearly every picture has is what is meant without one."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(decoded(encoded(halves(), "PNG", icc_profile=srgb)), decoded(encoded(halves(), "PNG")))


@pytest.mark.parametrize(
    "profile", [b"\0" * 200, b"\0" * (2**20 + 1), ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()]
)
def test_decode_unusable_icc_profile_is_ignored(profile: bytes) -> None:
    """A profile that is damaged, enormous, or for other modes does not cost the picture."""
    assert_halves(decoded(encoded(halves(), "JPEG", quality=95, subsampling=0, icc_profile=profile)))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("AVIF", {"quality": 95}), ("MPO", {})],
)
def test_decode_animation_takes_the_first_frame(kind: str, options: dict[str, Any]) -> None:
    """Of several pictures in a file only the first one counts."""
    data = encoded(halves(), kind, save_all=True, append_images=[Image.new("RGB", (64, 64), WHITE)], **options)
    assert_halves(decoded(data), tolerance=16)


# The two halves of a row of 40 pixels; the right one is transparent. Source: PNG (3rd edition), 11.2.1 and 11.3.1.
_PNG_KINDS = {
    "16 bit RGB": (16, 2, "c8101420_0a00", "c8101420_0a01", None),
    "16 bit RGB with alpha": (16, 6, "c8101420_0a00_ffff", "11111111_1111_0000", None),
    "16 bit RGB with a transparent colour": (16, 2, "c8101420_0a00", "010203040506", "010203040506"),
    "16 bit grey with alpha": (16, 4, "4d10_ffff", "4d10_0000", None),
    "16 bit grey with a transparent level": (16, 0, "4d10", "1111", "1111"),
    "8 bit RGB with a transparent colour": (8, 2, "c8140a", "010203", "000100020003"),
    "8 bit grey with a transparent level": (8, 0, "4d", "11", "0011"),
    "8 bit palette with alpha": (8, 3, "00", "01", "ff00"),
}


@pytest.mark.parametrize("name", _PNG_KINDS)
def test_decode_png_of_any_depth_gives_its_colours_and_transparency(name: str) -> None:
    """Sixteen bits are made eight, and what is transparent shows the background."""
    depth, colour, left, right, transparent = _PNG_KINDS[name]
    row = b"\0" + bytes.fromhex(left.replace("_", "")) * 20 + bytes.fromhex(right.replace("_", "")) * 20
    palette = [(b"PLTE", b"\xc8\x14\x0a\0\0\0")] if colour == 3 else []
    key = [(b"tRNS", bytes.fromhex(transparent))] if transparent else []
    pixels = decoded(png(40, 40, zlib.compress(row * 40), *palette, *key, depth=depth, colour=colour))
    assert pixels[:, 16, 4].tolist() == ([77, 77, 77] if colour in {0, 4} else [200, 20, 10])
    expected = [200, 20, 10] if name == "16 bit RGB" else list(WHITE)
    assert pixels[:, 16, 28].tolist() == expected


def test_decode_pad_keeps_the_aspect_and_fills_with_background() -> None:
    """A wide picture stands in the middle between bands of background."""
    pixels = decoded(encoded(Image.new("RGB", (64, 32), RED), "PNG"))
    assert (pixels[:, :8] == 255).all()
    assert (pixels[:, 24:] == 255).all()
    assert (pixels[:, 8:24] == np.array(RED, dtype=np.uint8)[:, None, None]).all()


def test_decode_stretch_fills_the_whole_canvas() -> None:
    """With `fit="stretch"` there are no bands."""
    spec = ImageSpec(height=32, width=32, fit="stretch")
    pixels = decoded(encoded(Image.new("RGB", (64, 32), RED), "PNG"), spec)
    assert (pixels == np.array(RED, dtype=np.uint8)[:, None, None]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_decode_extreme_shape_is_accepted(size: tuple[int, int]) -> None:
    """One pixel is a picture, and so is a line."""
    assert decoded(encoded(Image.new("RGB", size, RED), "PNG")).shape == (3, 32, 32)


def test_decode_large_jpeg_at_reduced_scale_stays_close_to_full() -> None:
    """Draft mode saves time, not quality: within a few levels of decoding every pixel."""
    smooth = noise(20, 15).resize((1600, 1200), Image.Resampling.BICUBIC)
    full = Image.new("RGB", (32, 32), WHITE)
    data = encoded(smooth, "JPEG", quality=95)
    full.paste(Image.open(io.BytesIO(data)).resize((32, 24), Image.Resampling.BILINEAR), (0, 4))
    difference = np.abs(decoded(data).astype(int) - np.asarray(full).transpose(2, 0, 1))
    assert difference.mean() < 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_decode_cut_file_is_truncated(kind: str, share: float) -> None:
    """A file that stops early is refused as truncated, not scored as a grey half."""
    data = encoded(noise(64, 64), kind)
    assert refusal(data[: int(len(data) * share)]) == "image_truncated"


def test_decode_cut_avif_is_refused() -> None:
    """AVIF says less about where it ends; it is refused all the same."""
    data = encoded(noise(64, 64), "AVIF")
    assert refusal(data[: len(data) // 2]) in {"image_truncated", "image_malformed"}


@pytest.mark.parametrize("major", [b"avif", b"mif1", b"miaf"])
def test_decode_avif_is_known_by_any_of_its_brands(major: bytes) -> None:
    """A file may call itself any image of its container, and be compatible with AVIF."""
    data = encoded(halves(), "AVIF", quality=95)
    assert np.array_equal(decoded(data[:8] + major + data[12:]), decoded(data))


@pytest.mark.parametrize("brands", [b"heic\0\0\0\0mif1heic", b"mif1", b"mif1\0\0\0\0heic", b"isom\0\0\0\0mp42"])
def test_decode_container_without_the_brand_is_unsupported(brands: bytes) -> None:
    """What lies behind the list of brands is none of them."""
    data = (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + b"avif" * 8
    assert refusal(data) == "image_unsupported"


@pytest.mark.parametrize("colour", [0, 2, 3, 4, 6])
@pytest.mark.parametrize("depth", [1, 8, 16])
@pytest.mark.parametrize("interlaced", [False, True])
def test_decode_png_of_too_few_rows_is_truncated(colour: int, depth: int, interlaced: bool) -> None:
    """Wherever a stream ends before the last row, though as a stream should; a whole one counts, black as it may be."""
    if (depth == 1 and colour in {2, 4, 6}) or (depth == 16 and colour == 3):
        return  # no such PNG
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    sizes = [(len(range(x, 13, by_x)), len(range(y, 11, by_y))) for x, y, by_x, by_y in passes]
    rows = [1 + (columns * bits + 7) // 8 for columns, count in sizes if columns for _ in range(count)]
    black = bytes(sum(rows))
    palette = [(b"PLTE", bytes(6))] if colour == 3 else []

    def made(pixels: bytes) -> bytes:
        return png(13, 11, zlib.compress(pixels), *palette, depth=depth, colour=colour, interlaced=interlaced)

    assert decoded(made(black)).shape == (3, 32, 32)
    assert decoded(made(black + b"more")).shape == (3, 32, 32)
    for cut in (1, *(sum(rows[-count:]) for count in range(1, len(rows)))):
        assert refusal(made(black[:-cut])) == "image_truncated"


def test_decode_png_of_half_the_rows_is_truncated() -> None:
    """What is not there would be black; what is there may have any colour."""
    for level in range(256):
        rows = [b"\0" + bytes([level] * 64)] * 64
        assert (decoded(png(64, 64, zlib.compress(b"".join(rows)))) == level).all()
        assert refusal(png(64, 64, zlib.compress(b"".join(rows[:32])))) == "image_truncated"


def test_decode_nothing_is_truncated() -> None:
    """An empty body is a picture that was cut before its first byte."""
    assert refusal(b"") == "image_truncated"


@pytest.mark.parametrize("data", [b"<html>not found</html>", b"BM" + bytes(60), b"\0" * 100, b"II*\0" + bytes(60)])
def test_decode_other_content_is_unsupported(data: bytes) -> None:
    """Web pages, and formats outside the list, are unsupported."""
    assert refusal(data) == "image_unsupported"


def test_decode_damaged_png_is_malformed() -> None:
    """A whole file with wrong content is malformed, not truncated."""
    data = bytearray(encoded(noise(64, 64), "PNG"))
    data[41:43] = b"\xff\xff"  # the two bytes that begin the compressed pixels
    assert refusal(bytes(data)) == "image_malformed"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_decode_above_the_pixel_limit_is_too_large(kind: str) -> None:
    """The declared size is compared with the limit."""
    data = encoded(Image.new("RGB", (101, 100), RED), kind)
    assert refusal(data, max_pixels=10_000) == "image_too_large"
    assert decoded(data, max_pixels=10_100).shape == (3, 32, 32)


def test_decode_bomb_is_refused_before_its_pixels_are_decoded() -> None:
    """A header that declares 4 gigapixels costs nothing: the rest of the file is not even there."""
    header = encoded(Image.new("L", (1, 1)), "PNG")[:16] + (65_535).to_bytes(4, "big") * 2 + b"\x08\0\0\0\0" + bytes(8)
    with pytest.raises(ImageRefused) as caught:
        decode(header, SPEC, max_pixels=50_000_000)
    assert caught.value.code in {"image_too_large", "image_truncated"}


def test_decode_limit_above_pillows_own_is_honoured() -> None:
    """The setting decides, not Pillow's process-wide limit of 89 megapixels."""
    data = encoded(Image.new("1", (10_000, 9_000)), "PNG")
    assert decoded(data, max_pixels=100_000_000).shape == (3, 32, 32)


@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP"]), st.data())
def test_decode_altered_bytes_decode_or_are_refused(kind: str, data: st.DataObject) -> None:
    """Whatever stands in the file, the only error is ImageRefused."""
    content = bytearray(encoded(halves(16, 16), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageRefused):
        assert decoded(bytes(content), max_pixels=100_000).shape == (3, 32, 32)
