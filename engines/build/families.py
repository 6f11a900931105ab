"""Every model family by name, and a checkpoint with all that a release of it needs.

`load` gives a `Source`, which `engines.build.assemble` makes a release of; `save` writes it where `load` finds it
again, in the hub's format. The library's own code reads configs, weights and tokenizers, from a hub or a directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from engines.build.assemble import Source
from engines.build.models import small
from engines.build.models.attributes import attribute_spec
from engines.build.models.blip import Blip
from engines.build.models.blip2 import Blip2
from engines.build.models.clip import Clip
from engines.build.models.flava import Flava
from engines.build.models.pretrained import PretrainedFusion
from engines.build.models.vilt import Vilt
from engines.build.recipe import TEXT_FIELDS
from engines.contract import ImageSpec, TextSpec
from engines.errors import EngineUnavailable
from engines.text import PAD_TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tokenizers

    from engines.contract import AttributeColumns

_MAX_TOKENS: Final = 64


@dataclass(frozen=True)
class Family:
    """One way to compare a picture with a text.

    Attributes:
        name: What manifests and commands call it.
        about: A line for people.
        pretrained: What loads its checkpoints; None: it is trained from scratch, see `engines.build.run`.
    """

    name: str
    about: str
    pretrained: type[PretrainedFusion] | None = None


FAMILIES: Final[Mapping[str, Family]] = {
    family.name: family
    for family in (
        Family(small.FAMILY, "small fusion encoder, trained from scratch on the catalogue"),
        Family("compact", "EfficientNet-Lite2 and MiniLM from packages, fusion layers of our own; for any catalogue"),
        Family(Vilt.family, "ViLT: one transformer over words and patches", Vilt),
        Family(Blip.family, "BLIP: words attend to the picture, image-text matching head", Blip),
        Family(Blip2.family, "BLIP-2: Q-Former, image-text matching head", Blip2),
        Family(Flava.family, "FLAVA: multimodal encoder over two encoders, linear head", Flava),
        Family(Clip.family, "CLIP: dual encoder, no fusion; the baseline", Clip),
    )
}


def load(
    family: str,
    source: str | Path,
    *,
    max_tokens: int = _MAX_TOKENS,
    fields: tuple[str, ...] = TEXT_FIELDS,
    attributes: AttributeColumns | None = None,
) -> Source:
    """Return the model, the tokenizer and the specs of a checkpoint.

    Args:
        family: One of `FAMILIES`.
        source: A hub id, or a directory in the hub's format.
        max_tokens: Tokens of a text, at most as many as the checkpoint has positions for.
        fields: Which fields of a product are read; see `engines.contract.TextSpec`.
        attributes: Columns that the model is to read, by a resampler with random weights unless the checkpoint has one.

    Raises:
        EngineUnavailable: no such family, it has no checkpoints, or this is not one of them.
    """
    pretrained = _pretrained(family)
    tokenizer = _load_tokenizer(source)
    spec = None if attributes is None else attribute_spec(attributes)
    model = pretrained.from_pretrained(source, attributes=spec)
    if model.resampler is not None and spec is not None and model.resampler.spec != spec:
        raise EngineUnavailable(f"{source} reads other attributes than these: begin with a checkpoint without any")
    return Source(
        family=family,
        model=model,
        tokenizer=tokenizer,
        image=ImageSpec(height=model.image_size, width=model.image_size, fit=pretrained.fit),
        text=TextSpec(max_tokens=min(max_tokens, model.max_tokens), fields=fields),
        provenance=_provenance(source, model),
        attributes=attributes,
    )


def save(source: Source, directory: Path) -> None:
    """Write model and tokenizer into `directory`, which is made when missing, for `load` and for the library.

    Raises:
        EngineUnavailable: the family has no checkpoints.
    """
    if not isinstance(source.model, PretrainedFusion):
        raise EngineUnavailable(f"{source.family} has no checkpoints: publish it as a release (engines.build.assemble)")
    directory.mkdir(parents=True, exist_ok=True)
    source.model.save_pretrained(directory)
    padding = source.tokenizer.padding
    wrapped: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=source.tokenizer, pad_token=padding["pad_token"] if padding else PAD_TOKEN
    )
    wrapped.save_pretrained(directory)


def _pretrained(name: str) -> type[PretrainedFusion]:
    family = FAMILIES.get(name)
    if family is None:
        raise EngineUnavailable(f"there is no family {name!r}; there are {', '.join(FAMILIES)}")
    if family.pretrained is None:
        raise EngineUnavailable(f"{name} has no checkpoints to load: train it with `python -m engines.build`")
    return family.pretrained


def _load_tokenizer(source: str | Path) -> tokenizers.Tokenizer:
    """Return the tokenizer with its special tokens; its own padding says which token pads, see `engines.text`."""
    try:
        loaded: Any = AutoTokenizer.from_pretrained(str(source))
        tokenizer: tokenizers.Tokenizer = loaded.backend_tokenizer
        tokenizer.enable_padding(pad_id=loaded.pad_token_id, pad_token=loaded.pad_token)
    except Exception as error:  # the library's errors have no common base
        raise EngineUnavailable(f"{source} has no tokenizer that the engines can run: {error}") from error
    return tokenizer


def _provenance(source: str | Path, model: PretrainedFusion) -> dict[str, Any]:
    """Return where the weights come from: an id whole, of a directory the name, which says nothing of this machine."""
    path = Path(source)
    facts: dict[str, Any] = {
        "checkpoint": path.name if path.is_dir() else str(source),
        "transformers": transformers.__version__,
    }
    if model.resampler is not None:
        facts["attributes"] = msgspec.to_builtins(model.resampler.spec)
    return facts
