"""What the alerts name, held against the truth, and drawn over the pictures of a few."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from PIL import Image
from rich.progress import Progress

from engines import attribution
from engines.contract import Batch
from engines.errors import InferenceFailed
from engines.heat import heat_map, overlay
from engines.image import decode
from engines.runtime.loader import load, load_tokenizer
from engines.text import compose
from streamer.demo.evaluation import ranked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from engines.contract import Engine
    from engines.text import Tokenizer
    from streamer.demo.evaluation import Evaluation, Verdict
    from streamer.demo.products import DemoProduct, Difference
    from streamer.events import Contradiction

MAX_CAUGHT, MAX_FALSE = 6, 2
"""Heat maps of a report, of true alerts and of false ones; each is 74 inferences."""

BUDGET_S = 6.0
"""No heat map is begun later than this: a slow machine shows fewer, and the report does not keep people waiting."""

_MAX_PIXELS: Final = 50_000_000

Shown = tuple[str, str]
"""The ids of the product that is meant and of the one that is seen."""


def is_right(contradicts: Sequence[Contradiction], wrong: Difference) -> bool:
    """Whether what is named first is what is untrue: that attribute's own field, or words that say it elsewhere."""
    if not contradicts:
        return False
    first = contradicts[0]
    if first.field == wrong.attribute:
        return True
    return any(re.search(rf"\b{re.escape(phrase)}\b", first.value, re.IGNORECASE) for phrase in wrong.phrases)


def shown_by(verdict: Verdict) -> Shown:
    """Return what the verdict is about, the key of its heat map."""
    return verdict.truth.product_id, verdict.truth.shown_id or verdict.truth.product_id


def heat_maps(
    evaluation: Evaluation,
    products: Mapping[str, DemoProduct],
    pictures: Path,
    *,
    release: Path | None,
    console: Console,
    budget_s: float = BUDGET_S,
) -> dict[Shown, str]:
    """Return, for the surest few alerts, where their pictures contradict them: overlays as data URLs.

    False alarms come first: what misled the engine is not to be seen otherwise.

    Raises:
        EngineError: the release does not load.
    """
    alerts = [*ranked(evaluation.false_alarms)[:MAX_FALSE], *ranked(evaluation.caught)[:MAX_CAUGHT]]
    if not any(verdict.contradicts for verdict in alerts):
        return {}
    deadline = time.monotonic() + budget_s
    engine, tokenizer = load(release), load_tokenizer(release)
    made: dict[Shown, str] = {}
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            for verdict in bar.track(alerts, description="heat maps"):
                if time.monotonic() >= deadline:
                    break
                product, shown = shown_by(verdict)
                picture = pictures / products[shown].picture
                with suppress(InferenceFailed):  # the card is then without one
                    heat = _heat(engine, tokenizer, picture, products[product].fields, verdict.contradicts)
                    drawn = None if heat is None else overlay(heat, _size_px(picture), engine.manifest.image)
                    made |= {} if drawn is None else {(product, shown): drawn}
    finally:
        engine.close()
    return made


def _heat(
    engine: Engine,
    tokenizer: Tokenizer,
    picture: Path,
    fields: Mapping[str, str],
    contradicts: Sequence[Contradiction],
) -> NDArray[np.float32] | None:
    """Return where the picture contradicts the claim that is named first; None where none is."""
    text = compose(fields, engine.manifest.text)
    input_ids, attention_mask = tokenizer.encode([text])
    left_out = attribution.leave_out(text, tokenizer.spans(text), attention_mask[0])
    named = [(one.field, one.value) for one in contradicts[:1]]
    for claim, without in zip(left_out.claims, left_out.attention_mask, strict=True):
        if (claim.field, claim.value) in named:
            pixels = decode(picture.read_bytes(), engine.manifest.image, max_pixels=_MAX_PIXELS)
            whole, less = (Batch(pixels[None], input_ids, mask) for mask in (attention_mask, without[None]))
            return heat_map(engine, whole, less)
    return None


def _size_px(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as opened:
        return opened.size
