"""Bytes of a picture → `pixel_values`: the ONE definition, used in training and in scoring.

Hostile input ends here: whatever Pillow raises on it leaves as `ImageRefused` with a stable code. Pure functions, safe
in threads (Pillow releases the GIL while it decodes and resizes); no I/O, and no setting of Pillow is changed.
"""

from __future__ import annotations

import io
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import AvifImagePlugin, GifImagePlugin, Image, ImageCms, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from engines import png
from engines.errors import ImageRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile

    from engines.contract import ImageSpec

_EXIF_ORIENTATION: Final = 0x0112  # Source: EXIF 2.32, tag Orientation

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture with this EXIF orientation upright."""

_SIDEWAYS: Final = frozenset({5, 6, 7, 8})

_SRGB: Final = ImageCms.createProfile("sRGB")
_MAX_PROFILE_BYTES: Final = 2**20  # the largest in use, of printing presses, have half a megabyte
_SAME_COLOUR: Final = 2  # levels: profiles of sRGB itself differ by rounding

_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})
_MAX_BRANDS_BYTES: Final = 256  # real files name five

# Opened by class and not by `Image.open`: that one warns, or raises, at Pillow's own process-wide limit of pixels,
# and it would let a file's content choose among decoders that nobody here has thought about.
_DECODERS: Final[dict[str, Callable[[io.BytesIO], ImageFile]]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}

# A frame of a GIF larger than its screen, and damaged EXIF, reach Pillow's warnings from inside a decoder: the first
# must refuse the picture, the second says nothing that anybody can act on.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


def decode(data: bytes, spec: ImageSpec, *, max_pixels: int) -> NDArray[np.uint8]:
    """Return `pixel_values`, uint8 (3, H, W), RGB 0..255, C-contiguous, as `spec` describes.

    Args:
        data: A whole JPEG, PNG, WebP, AVIF or GIF file; of an animation the first frame counts.
        spec: The engine's picture; a JPEG is decoded at the smallest scale that still holds it.
        max_pixels: Bound on the declared width x height, checked before any pixel is decoded.

    Raises:
        ImageRefused: image_unsupported, image_too_large, image_truncated, image_malformed.
    """
    name = format_of(data)
    try:
        return _decode(_DECODERS[name](io.BytesIO(data)), data, spec, max_pixels)
    except ImageRefused:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError, MemoryError) as error:
        raise ImageRefused(f"{name}: more pixels than can be held", code="image_too_large") from error
    except Exception as error:  # Pillow's decoders raise anything on hostile bytes
        code = "image_truncated" if _ends_early(data, name, error) else "image_malformed"
        raise ImageRefused(f"{name} of {len(data)} bytes: {error or type(error).__name__}", code=code) from error


def _decode(picture: ImageFile, data: bytes, spec: ImageSpec, max_pixels: int) -> NDArray[np.uint8]:
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageRefused(f"{width} x {height} pixels; the limit is {max_pixels}", code="image_too_large")
    longest = max(spec.height, spec.width)
    picture.draft(None, _fitted(width, height, longest, longest))  # enough whichever way up the picture stands
    _shorten_key(picture)
    if picture.format == "PNG":
        png.mark(picture)
    picture.load()  # here and only here: a second load of a damaged picture succeeds, with black pixels
    if picture.format == "PNG" and png.lacks_rows(data, picture):
        raise ImageRefused("the PNG has fewer rows than it declares", code="image_truncated")
    orientation = _orientation(picture)
    box = (spec.height, spec.width) if orientation in _SIDEWAYS else (spec.width, spec.height)
    size = _fitted(width, height, *box) if spec.fit == "pad" else box
    scaled = _resizable(picture).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    upright = scaled.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else scaled
    coloured = _in_srgb(upright, picture.info.get("icc_profile"))
    return _on_canvas(_opaque(coloured, spec.background), spec)


def format_of(data: bytes) -> str:
    """Return the name of the format that the first bytes declare, as Pillow writes it.

    Raises:
        ImageRefused: image_unsupported, image_truncated (no bytes).

    Source: the signatures of ITU-T T.81 (JPEG), RFC 2083 (PNG), RFC 9649 (WebP), GIF89a, ISO 14496-12 (AVIF).
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and not _AVIF_BRANDS.isdisjoint(_brands(data)) and AvifImagePlugin.SUPPORTED:
        return "AVIF"
    if not data:
        raise ImageRefused("no bytes at all", code="image_truncated")
    raise ImageRefused(f"not JPEG, PNG, WebP, AVIF or GIF: begins {data[:12]!r}", code="image_unsupported")


def _brands(data: bytes) -> Iterator[bytes]:
    """Yield what a file of boxes calls itself: its major brand, and those that it is compatible with."""
    end = min(int.from_bytes(data[:4], "big"), _MAX_BRANDS_BYTES)
    yield data[8:12]
    yield from (data[at : at + 4] for at in range(16, end - 3, 4))  # between them stands a version


def _ends_early(data: bytes, name: str, error: Exception) -> bool:
    """Tell a picture that was cut from one that is wrong: the end that its format demands is missing."""
    if "truncated" in str(error).lower():
        return True
    match name:
        case "JPEG":
            return b"\xff\xd9" not in data[-64:]
        case "PNG":
            return b"IEND" not in data[-64:]
        case "WEBP":
            return len(data) < 8 + int.from_bytes(data[4:8], "little")
        case "GIF":
            return not data.rstrip(b"\0").endswith(b";")
        case _:
            return False


def _orientation(picture: ImageFile) -> int:
    """Return the EXIF orientation, 1 (upright) when there is none or it cannot be read: the pixels still count."""
    try:
        value = picture.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF raises anything and is no reason to refuse
        return 1
    return value if isinstance(value, int) else 1


def _fitted(width: int, height: int, box_width: int, box_height: int) -> tuple[int, int]:
    """Return the (width, height) of the picture scaled to fit the box, its aspect ratio kept, never below 1."""
    scale = min(box_width / width, box_height / height)
    return min(box_width, max(1, round(width * scale))), min(box_height, max(1, round(height * scale)))


def _shorten_key(picture: ImageFile) -> None:
    """Make the transparent colour of 16 bits one of 8, as Pillow makes the pixels, which it then is compared with."""
    key = picture.info.get("transparency")
    if isinstance(key, tuple) and any("16B" in str(tile.args) for tile in picture.tile):
        picture.info["transparency"] = tuple(value >> 8 for value in key)


def _resizable(picture: Image.Image) -> Image.Image:
    """Return the picture in a mode whose pixels may be averaged: palettes and bits resolved, 16 bits made 8."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        grey = Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8))
        if isinstance(key := picture.info.get("transparency"), int):
            grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
            return grey.convert("RGBA")
        return grey
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    return picture.convert("RGB") if picture.mode in {"1", "P", "PA"} else picture


def _in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Return the picture in the colours that its ICC profile means; one that cannot be read is no reason to refuse."""
    if not profile or len(profile) > _MAX_PROFILE_BYTES:
        return picture
    transform = _to_srgb(profile, picture.mode)
    return picture if transform is None else transform.apply(picture)


@lru_cache(maxsize=16)  # of a catalogue's pictures most have one of a few profiles; making a transform takes longer
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what turns a picture of this profile into sRGB, None where nothing does or nothing needs to."""
    to = "RGBA" if mode == "RGBA" else "RGB"
    try:
        transform = ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(profile)), _SRGB, mode, to)
        if to != mode:
            return transform
        probe = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).convert(mode)
        difference = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe)
    except Exception:  # noqa: BLE001 - a damaged profile, or one for another mode
        return None
    return transform if np.abs(difference).max() > _SAME_COLOUR else None


def _opaque(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Return RGB, alpha composed onto `background`."""
    if picture.mode != "RGBA":
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    canvas = Image.new("RGBA", picture.size, (*background, 255))
    canvas.alpha_composite(picture)
    return canvas.convert("RGB")


def _on_canvas(picture: Image.Image, spec: ImageSpec) -> NDArray[np.uint8]:
    """Return uint8 (3, H, W): the picture in the middle, `background` around it."""
    pixels = np.asarray(picture).transpose(2, 0, 1)  # (3, h, w)
    height, width = pixels.shape[1:]
    top, left = (spec.height - height) // 2, (spec.width - width) // 2
    canvas = np.empty((3, spec.height, spec.width), dtype=np.uint8)
    canvas[:] = np.array(spec.background, dtype=np.uint8)[:, None, None]
    canvas[:, top : top + height, left : left + width] = pixels
    return canvas
