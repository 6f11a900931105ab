"""Models of every family at the size that they are published in, with random weights: nothing is downloaded.

What they take to build, to load and to run is that of trained ones; what they answer says nothing.
"""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import torch

from engines import releases
from engines.build import export
from engines.build.families import FAMILIES
from engines.build.models.compact import CompactConfig, CompactFusion
from engines.build.models.pretrained import PixelStatistics
from engines.build.recipe import TEXT_FIELDS
from engines.contract import ImageSpec, TextSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from engines.contract import Manifest

TOKENS: Final = 64
PIXELS: Final = PixelStatistics((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))

SHIPPED: Final = "small"

SIZES: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "vilt": ("ViLT B/32, 384 px", lambda hub: hub.ViltForImageAndTextRetrieval(hub.ViltConfig(max_image_length=-1))),
    "blip": (
        "BLIP ITM base, 384 px",
        lambda hub: hub.BlipForImageTextRetrieval(hub.BlipConfig(vision_config={"image_size": 384})),
    ),
    "blip2": ("BLIP-2 ITM ViT-g, 224 px", lambda hub: hub.Blip2ForImageTextRetrieval(hub.Blip2Config())),
    "flava": ("FLAVA full, 224 px", lambda hub: hub.FlavaModel(hub.FlavaConfig())),
    "clip": ("CLIP B/32, 224 px", lambda hub: hub.CLIPModel(hub.CLIPConfig())),
}
"""What each pretrained family is built as."""

LABELS: Final = {SHIPPED: "small, as it ships", "compact": "compact, 256 px"} | {
    name: label for name, (label, _) in SIZES.items()
}


def write_release(family: str, parent: Path, *, seed: int = 0) -> tuple[Path, torch.nn.Module | None]:
    """Return the directory of a release under `parent`, and its model; the one that ships comes without."""
    if family == SHIPPED:
        return Path(shutil.copytree(releases.shipped(), parent / SHIPPED)), None
    torch.manual_seed(seed)
    model, size, fit = _model(family)
    image = ImageSpec(height=size, width=size, fit=fit)
    text = TextSpec(max_tokens=min(TOKENS, getattr(model, "max_tokens", TOKENS)), fields=TEXT_FIELDS)
    shipped = releases.read_manifest(releases.shipped())
    inputs = export.input_specs(image, text)
    draft: Manifest = msgspec.structs.replace(
        shipped, family=family, inputs=inputs, image=image, text=text, thresholds={}, threshold=0.5, metrics={}
    )
    scratch = parent / f"{family}-graph"
    scratch.mkdir(parents=True)
    export.export(model, inputs, scratch / releases.MODEL_FILE)
    shutil.copy(releases.shipped() / releases.TOKENIZER_FILE, scratch)
    release = releases.write_release(parent, draft, {path.name: path for path in scratch.iterdir()})
    shutil.rmtree(scratch)
    return release, model


def _model(family: str) -> tuple[Any, int, Any]:
    """Return a model in evaluation mode, the side of its pictures, and how they are fitted."""
    if family == "compact":
        config = CompactConfig(
            max_tokens=TOKENS, facets=(46, 14, 5), tags=600, known_texts=4096
        )  # colors, kinds, genders, words, texts of a fashion catalogue
        return CompactFusion(config, pretrained=False).eval(), 256, "pad"
    pretrained = FAMILIES[family].pretrained
    assert pretrained is not None
    _, core = SIZES[family]
    model = pretrained(core(importlib.import_module("transformers")), PIXELS).eval()
    return model, model.image_size, pretrained.fit
