"""`engines.build.families` and the models it loads: one signature, the library's logits, whole round trips."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines.build import families
from engines.build.models.vilt import Vilt
from engines.contract import TextSpec
from engines.errors import EngineUnavailable
from engines.text import Tokenizer
from tests import tiny_families

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from engines.build.models.pretrained import PretrainedFusion

pytestmark = pytest.mark.usefixtures("one_torch_thread")

every_family = pytest.mark.parametrize("family", tiny_families.NAMES)


def scored(model: PretrainedFusion, *tensors: Tensor) -> Tensor:
    """Return the logits without gradients."""
    with torch.no_grad():
        logits: Tensor = model(*tensors)
    return logits


def pixels_of(model: PretrainedFusion, pixel_values: Tensor) -> Tensor:
    """Return what a stock processor makes of the pixels: 0..1, then mean and deviation."""
    mean, std = (torch.tensor(channel)[:, None, None] for channel in model.pixels)
    return (pixel_values / 255 - mean) / std


def test_families_lists_every_name() -> None:
    """The family that is trained from scratch stands beside those that come from checkpoints."""
    assert list(families.FAMILIES) == ["small", "compact", "vilt", "blip", "blip2", "flava", "clip"]


@every_family
def test_forward_gives_one_logit_per_pair(family: str) -> None:
    """float32 (B,), different for different pairs."""
    logits = scored(tiny_families.model(family), *tiny_families.pairs(5, seed=1))
    assert logits.shape == (5,)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert logits.std() > 1e-3


@every_family
def test_training_lowers_the_loss(family: str) -> None:
    """Few steps on 32 pairs with random labels fit them better than chance."""
    model = tiny_families.model(family).train()
    pairs = tiny_families.pairs(32, seed=2)
    labels = (torch.arange(32) % 2).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    torch.manual_seed(0)
    for _ in range(40):
        loss = F.binary_cross_entropy_with_logits(model(*pairs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) / 3 < min(0.6, 0.9 * losses[0])


@every_family
def test_batched_equals_single(family: str) -> None:
    """A pair's logit does not depend on the pairs beside it."""
    model = tiny_families.model(family)
    pairs = tiny_families.pairs(6, seed=3)
    single = torch.cat([scored(model, *(tensor[i : i + 1] for tensor in pairs)) for i in range(6)])
    assert torch.allclose(scored(model, *pairs), single, atol=1e-5)


@every_family
def test_padding_is_not_read(family: str) -> None:
    """Neither what stands behind the mask nor how much of it changes the logit."""
    model = tiny_families.model(family)
    pixels, ids, mask = tiny_families.pairs(5, seed=4)
    logits = scored(model, pixels, ids, mask)
    other = torch.where(mask == 1, ids, 3)
    assert torch.allclose(scored(model, pixels, other, mask), logits, atol=1e-5)
    longer = [F.pad(tensor, (0, 4)) for tensor in (ids, mask)]
    assert torch.allclose(scored(model, pixels, *longer), logits, atol=1e-5)


@every_family
def test_save_and_load_gives_the_same_logits(family: str, tmp_path: Path) -> None:
    """A checkpoint comes back with its weights, its normalisation, its tokenizer and its specs."""
    source = tiny_families.source(family)
    families.save(source, tmp_path / "checkpoint")
    loaded = families.load(family, tmp_path / "checkpoint", max_tokens=tiny_families.TOKENS, fields=source.text.fields)
    pairs = tiny_families.pairs(4, seed=5)
    assert torch.allclose(loaded.model(*pairs), source.model(*pairs), atol=1e-6)
    assert not loaded.model.training
    assert (loaded.image, loaded.text) == (source.image, source.text)
    assert loaded.provenance["checkpoint"] == "checkpoint"
    assert loaded.tokenizer.encode("title: red mug").ids == source.tokenizer.encode("title: red mug").ids


@every_family
def test_tokenizer_pads_with_the_checkpoints_own_token(family: str, tmp_path: Path) -> None:
    """Special tokens come first and last, whatever is cut, and the rest is the checkpoint's own padding."""
    families.save(tiny_families.source(family), tmp_path)
    loaded = families.load(family, tmp_path)
    tokenizer = Tokenizer(loaded.tokenizer, TextSpec(max_tokens=6, fields=("title",)))
    ids, mask = tokenizer.encode(["title: mug", "title: red blue mug shoe cotton large"])
    first, last = len(tiny_families.WORDS), len(tiny_families.WORDS) + 1
    pad = last if family == "clip" else last + 1
    assert ids[0].tolist() == [first, 1, 4, last, pad, pad]
    assert mask[0].tolist() == [1, 1, 1, 1, 0, 0]
    assert ids[1, [0, -1]].tolist() == [first, last]


def replace_tokenizer(directory: Path, files: dict[str, str]) -> None:
    """Put other tokenizer files into a checkpoint."""
    (directory / "tokenizer.json").unlink()
    for name, content in files.items():
        (directory / name).write_text(content)


def test_load_reads_a_vocabulary_of_bert(tmp_path: Path) -> None:
    """Hubs hold checkpoints that are older than tokenizer.json: a vocab.txt and a class name."""
    families.save(tiny_families.source("vilt"), tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "title", ":", "red", "mug", "##s"]
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    replace_tokenizer(tmp_path, {"vocab.txt": "\n".join(words), "tokenizer_config.json": json.dumps(config)})
    tokenizer = Tokenizer(families.load("vilt", tmp_path).tokenizer, TextSpec(max_tokens=8, fields=("title",)))
    ids, mask = tokenizer.encode(["title: Red mugs"])
    assert ids.tolist() == [[2, 5, 6, 7, 8, 9, 3, 0]]
    assert mask.tolist() == [[1] * 7 + [0]]


def test_load_reads_merges_of_clip(tmp_path: Path) -> None:
    """CLIP's byte pairs, and an end of text that also pads."""
    families.save(tiny_families.source("clip"), tmp_path)
    tokens = ["r", "e", "d</w>", ":</w>", "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    config = {"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>"}
    files = {
        "vocab.json": json.dumps({token: index for index, token in enumerate(tokens)}),
        "merges.txt": "#version: 0.2\nr e\nre d</w>\n",
        "tokenizer_config.json": json.dumps(config),
    }
    replace_tokenizer(tmp_path, files)
    tokenizer = Tokenizer(families.load("clip", tmp_path).tokenizer, TextSpec(max_tokens=6, fields=("title",)))
    ids, mask = tokenizer.encode(["Red: red"])
    assert ids.tolist() == [[6, 5, 3, 5, 7, 7]]
    assert mask.tolist() == [[1, 1, 1, 1, 1, 0]]


@every_family
def test_load_caps_tokens_at_the_checkpoints_positions(family: str, tmp_path: Path) -> None:
    """A text is never longer than what has positions."""
    families.save(tiny_families.source(family), tmp_path)
    assert families.load(family, tmp_path).text.max_tokens == 2 * tiny_families.TOKENS


@every_family
def test_load_nothing_there_is_unavailable(family: str, tmp_path: Path) -> None:
    """An empty directory is no checkpoint."""
    with pytest.raises(EngineUnavailable):
        families.load(family, tmp_path)


def test_load_unreachable_hub_id_is_unavailable() -> None:
    """An id that is neither cached nor to be downloaded is no checkpoint."""
    with pytest.raises(EngineUnavailable, match="nobody/nothing"):
        families.load("clip", "nobody/nothing")


def test_load_checkpoint_of_another_family_is_unavailable(tmp_path: Path) -> None:
    """The library would only warn, and score with random weights."""
    families.save(tiny_families.source("clip"), tmp_path)
    with pytest.raises(EngineUnavailable, match="model_type 'clip'"):
        families.load("vilt", tmp_path)


def test_load_checkpoint_without_encoder_is_unavailable(tmp_path: Path) -> None:
    """Weights that are not there are not made up."""
    source = tiny_families.source("blip")
    families.save(source, tmp_path)
    state = source.model.core.state_dict()  # type: ignore[union-attr, operator]
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("text_encoder")}
    source.model.core.save_pretrained(tmp_path, state_dict=kept)  # type: ignore[union-attr, operator]
    with pytest.raises(EngineUnavailable, match=r"lacks .* text_encoder"):
        families.load("blip", tmp_path)


def test_load_checkpoint_without_head_starts_one(tmp_path: Path) -> None:
    """Masked-language ViLT checkpoints have no ranking head; they can be adapted all the same."""
    source = tiny_families.source("vilt")
    families.save(source, tmp_path)
    assert isinstance(source.model, Vilt)
    source.model.core.vilt.save_pretrained(tmp_path)
    loaded = families.load("vilt", tmp_path)
    assert scored(loaded.model, *tiny_families.pairs(2, seed=6)).isfinite().all()  # type: ignore[arg-type]


def test_load_small_says_how_to_train() -> None:
    """A family that has no checkpoints says where it comes from."""
    with pytest.raises(EngineUnavailable, match="python -m engines"):
        families.load("small", "anything")


def test_load_unknown_family_names_the_known() -> None:
    """A name that is not in the registry is answered by those that are."""
    with pytest.raises(EngineUnavailable, match="small, compact"):
        families.load("albef", "anything")


def test_vilt_equals_the_library() -> None:
    """Raster order and fixed positions give what the library's drawn order gives."""
    model = tiny_families.model("vilt")
    pixels, ids, mask = tiny_families.pairs(5, seed=7)
    with torch.no_grad():
        stock = model.core(input_ids=ids, attention_mask=mask, pixel_values=pixels_of(model, pixels)).logits
    assert torch.allclose(scored(model, pixels, ids, mask), -stock.squeeze(-1), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (56, 24), (8, 40)])
def test_vilt_other_canvas_equals_the_library(height: int, width: int) -> None:
    """Positions are interpolated as the library does for a canvas that the checkpoint was not trained with."""
    model = tiny_families.model("vilt")
    generator = torch.Generator().manual_seed(8)
    pixels = torch.randint(0, 256, (3, 3, height, width), generator=generator, dtype=torch.uint8)
    _, ids, mask = tiny_families.pairs(3, seed=8)
    with torch.no_grad():
        stock = model.core(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=pixels_of(model, pixels),
            pixel_mask=torch.ones(3, height, width),
        ).logits
    assert torch.allclose(scored(model, pixels, ids, mask), -stock.squeeze(-1), atol=1e-5)


def test_blip_equals_the_library() -> None:
    """The logit is the log-odds of the library's own two classes."""
    model = tiny_families.model("blip")
    pixels, ids, mask = tiny_families.pairs(5, seed=9)
    with torch.no_grad():
        stock = model.core(input_ids=ids, attention_mask=mask, pixel_values=pixels_of(model, pixels)).itm_score
    assert torch.allclose(torch.sigmoid(scored(model, pixels, ids, mask)), stock.softmax(-1)[:, 0], atol=1e-5)


def test_blip2_equals_the_library() -> None:
    """The logit is the log-odds of the library's own two classes, without its mask of ones."""
    model = tiny_families.model("blip2")
    pixels, ids, mask = tiny_families.pairs(5, seed=10)
    with torch.no_grad():
        stock = model.core(
            pixel_values=pixels_of(model, pixels),
            input_ids=ids,
            attention_mask=mask,
            use_image_text_matching_head=True,
        ).logits_per_image
    assert torch.allclose(torch.sigmoid(scored(model, pixels, ids, mask)), stock.softmax(-1)[:, 0], atol=1e-5)


def test_flava_reads_the_librarys_class_token() -> None:
    """The head stands on what the library's multimodal encoder says."""
    model = tiny_families.model("flava")
    pixels, ids, mask = tiny_families.pairs(5, seed=11)
    with torch.no_grad():
        stock = model.core(input_ids=ids, attention_mask=mask, pixel_values=pixels_of(model, pixels))
        expected = model.head(stock.multimodal_embeddings[:, 0]).squeeze(-1)  # type: ignore[operator]
    assert torch.allclose(scored(model, pixels, ids, mask), expected, atol=1e-5)


def test_clip_is_affine_in_the_librarys_similarity() -> None:
    """The scaled cosine is the library's; the margin shifts it."""
    model = tiny_families.model("clip")
    pixels, ids, mask = tiny_families.pairs(5, seed=12)
    with torch.no_grad():
        stock = model.core(input_ids=ids, attention_mask=mask, pixel_values=pixels_of(model, pixels))
        expected = model.core.logit_scale.exp() * model.margin - stock.logits_per_image.diagonal()
    assert torch.allclose(scored(model, pixels, ids, mask), expected, atol=1e-4)


def test_save_writes_what_a_stock_processor_reads(tmp_path: Path) -> None:
    """Mean, deviation and size stand where the library looks for them."""
    families.save(tiny_families.source("blip"), tmp_path)
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == list(tiny_families.PIXELS.mean)
    assert processor["size"] == {"height": tiny_families.SIZE, "width": tiny_families.SIZE}
