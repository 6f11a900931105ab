"""Small random models of every family: 8 tokens, width 32, pictures of 32 pixels; of 64 where a cell has 32."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import tokenizers
import torch
from tokenizers import models, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    BlipConfig,
    BlipForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    FlavaConfig,
    FlavaModel,
    ViltConfig,
    ViltForImageAndTextRetrieval,
)

from engines.build.assemble import Source
from engines.build.families import FAMILIES
from engines.build.models import compact, small
from engines.build.models.attributes import attribute_spec
from engines.build.models.pretrained import PixelStatistics
from engines.contract import ImageSpec, TextSpec

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from engines.build.models.attributes import AttributeSpec
    from engines.build.models.pretrained import PretrainedFusion
    from engines.contract import AttributeColumns

SIZE: Final = 32
PATCH: Final = 8
TOKENS: Final = 8
WIDTH: Final = 32
PIXELS: Final = PixelStatistics((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
_KNOWN: Final = ("color:", "title:", "red", "blue", "mug", "shoe", "cotton", "large")
WORDS: Final = (*_KNOWN, *(f"word{index}" for index in range(len(_KNOWN), 100)))  # export draws ids below 100

NAMES: Final = tuple(family.name for family in FAMILIES.values() if family.pretrained)
OWN: Final = (small.FAMILY, compact.FAMILY)
"""The families of our own; compact's backbones have one size, and random weights here."""

_ENCODER: Final[dict[str, Any]] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
_PICTURE: Final[dict[str, Any]] = _ENCODER | {"image_size": SIZE, "patch_size": PATCH}


def tokenizer(family: str) -> tokenizers.Tokenizer:
    """Return a made-up tokenizer of a few words: the special tokens of BERT, or of CLIP, whose last token also pads."""
    specials = ["<|startoftext|>", "<|endoftext|>"] if family == "clip" else ["[CLS]", "[SEP]", "[PAD]", "[UNK]"]
    vocabulary = {word: index for index, word in enumerate((*WORDS, *specials))}
    made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=specials[-1]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(specials)
    first, last = specials[:2]
    made.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(word, vocabulary[word]) for word in (first, last)]
    )
    pad = last if family == "clip" else "[PAD]"
    made.enable_padding(pad_id=vocabulary[pad], pad_token=pad)
    return made


def model(family: str, *, seed: int = 0, attributes: AttributeSpec | None = None) -> PretrainedFusion:
    """Return a random model in evaluation mode."""
    torch.manual_seed(seed)
    pretrained = FAMILIES[family].pretrained
    assert pretrained is not None
    made = pretrained(core(family), PIXELS, attributes=attributes)
    with torch.no_grad():  # the libraries' first weights are so small that every pair looks alike
        for name, parameter in made.core.named_parameters():
            if "norm" not in name.lower() and name != "logit_scale":
                parameter.normal_(std=0.15)
    return made.eval()


def source(family: str, *, seed: int = 0, attributes: AttributeSpec | None = None) -> Source:
    """Return a random model with its tokenizer and specs, as `families.load` gives them."""
    made = model(family, seed=seed, attributes=attributes)
    text = TextSpec(max_tokens=TOKENS, fields=("title", "color"))
    image = ImageSpec(height=SIZE, width=SIZE, fit=made.fit)
    return Source(family, made, tokenizer(family), image, text, {})


def source_of_own(family: str, *, seed: int = 0) -> Source:
    """Return a random model of a family of our own with its tokenizer and specs, as they are trained."""
    torch.manual_seed(seed)
    words = tokenizer(family)
    made: nn.Module
    if family == compact.FAMILY:
        sizes = {"width": WIDTH, "heads": 2, "joint": 16, "readers": 1, "facets": (3, 2), "taggers": 1, "tags": 5}
        config = compact.CompactConfig(image_size=64, max_tokens=TOKENS, known_texts=4, **sizes)
        made = compact.CompactFusion(config, pretrained=False)
        assert made.novelty is not None
        made.novelty.know(torch.arange(4 * TOKENS).view(4, TOKENS), torch.ones(4, TOKENS))
        image = ImageSpec(height=64, width=64)
    else:
        config = small.SmallConfig(words.get_vocab_size(), SIZE, TOKENS, (4, 8, 8, 16), width=WIDTH, layers=2, heads=2)
        made = small.SmallFusion(config)
        image = ImageSpec(height=SIZE, width=SIZE)
    return Source(family, made.eval(), words, image, TextSpec(max_tokens=TOKENS, fields=("title", "color")), {})


def source_with(family: str, columns: AttributeColumns, *, seed: int = 0) -> Source:
    """Return a random model that also reads columns."""
    return replace(source(family, seed=seed, attributes=attribute_spec(columns)), attributes=columns)


def core(family: str) -> PreTrainedModel:
    """Return the library's model with its own first weights."""
    vocabulary = tokenizer(family).get_vocab_size()
    words = _ENCODER | {"vocab_size": vocabulary, "max_position_embeddings": 2 * TOKENS}
    match family:
        case "vilt":
            return ViltForImageAndTextRetrieval(ViltConfig(**(words | _PICTURE), max_image_length=-1))
        case "blip":
            text = words | {"encoder_hidden_size": WIDTH, "bos_token_id": 0, "pad_token_id": 2, "sep_token_id": 1}
            return BlipForImageTextRetrieval(
                BlipConfig(text_config=text, vision_config=_PICTURE, image_text_hidden_size=16)
            )
        case "blip2":
            return Blip2ForImageTextRetrieval(_blip2_config(words))
        case "flava":
            return FlavaModel(
                FlavaConfig(text_config=words, image_config=_PICTURE, multimodal_config=_ENCODER, projection_dim=16)
            )
        case _:
            text = words | {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
            return CLIPModel(CLIPConfig(text_config=text, vision_config=_PICTURE, projection_dim=WIDTH))


def pairs(size: int, *, seed: int, side: int = SIZE) -> tuple[Tensor, Tensor, Tensor]:
    """Return random pixels, words between a first and a last special token, and the mask of their lengths."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size, 3, side, side), generator=generator, dtype=torch.uint8)
    ids = torch.randint(0, len(WORDS), (size, TOKENS), generator=generator, dtype=torch.int32)
    lengths = torch.randint(2, TOKENS + 1, (size, 1), generator=generator)
    places = torch.arange(TOKENS)[None]
    ids = torch.where(places == 0, len(WORDS), ids)
    ids = torch.where(places == lengths - 1, len(WORDS) + 1, ids)
    return pixels, ids.int(), (places < lengths).int()


def _blip2_config(words: dict[str, Any]) -> Blip2Config:
    reader = words | {"encoder_hidden_size": WIDTH, "cross_attention_frequency": 2, "use_qformer_text_input": True}
    language = {"model_type": "opt", "hidden_size": WIDTH, "ffn_dim": 32, "num_hidden_layers": 1, "vocab_size": 20}
    return Blip2Config(
        vision_config=_PICTURE,
        qformer_config=reader,
        text_config=language | {"num_attention_heads": 4, "word_embed_proj_dim": WIDTH},
        num_query_tokens=4,
        image_text_hidden_size=16,
    )
