"""Releases of a few nodes: real files, a real graph, a real tokenizer, loaded in milliseconds."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import numpy as np
import onnx
import tokenizers
from onnx import TensorProto, helper
from tokenizers import models, pre_tokenizers

from engines import golden, releases
from engines.contract import MANIFEST_SCHEMA, Calibration, ImageSpec, Manifest, TensorSpec, TextSpec
from engines.runtime import loader

WORDS = ("[PAD]", "title", ":", "mug", "shoe", "red", "blue")
TOKEN_WEIGHT = 0.25


def graph(path: Path, *, size: int, tokens: int, bias: float) -> Path:
    """Write a model whose logit is the mean pixel / 255 + a quarter of the ids' sum + bias."""
    inputs = [
        helper.make_tensor_value_info("pixel_values", TensorProto.UINT8, ["batch", 3, size, size]),
        helper.make_tensor_value_info("input_ids", TensorProto.INT32, ["batch", tokens]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT32, ["batch", tokens]),
    ]
    constants = [
        helper.make_tensor("pixel_axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("token_axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
        helper.make_tensor("token_weight", TensorProto.FLOAT, [], [TOKEN_WEIGHT]),
        helper.make_tensor("bias", TensorProto.FLOAT, [], [bias]),
    ]
    nodes = [
        helper.make_node("Cast", ["pixel_values"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "pixel_axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["brightness"]),
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["read"]),
        helper.make_node("ReduceSum", ["read", "token_axis"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["sum"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["sum", "token_weight"], ["said"]),
        helper.make_node("Add", ["brightness", "said"], ["both"]),
        helper.make_node("Add", ["both", "bias"], ["logits"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch"])]
    built = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    onnx.save(helper.make_model(built, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return path


def draft(*, size: int, tokens: int, threshold: float = 0.5, max_batch: int = 8) -> Manifest:
    """Return the manifest of a tiny engine, its files not yet known."""
    return Manifest(
        schema_version=MANIFEST_SCHEMA,
        release="",
        family="tiny",
        created_at="2026-01-01T00:00:00Z",
        inputs=(
            TensorSpec(name="pixel_values", dtype="uint8", shape=(None, 3, size, size)),
            TensorSpec(name="input_ids", dtype="int32", shape=(None, tokens)),
            TensorSpec(name="attention_mask", dtype="int32", shape=(None, tokens)),
        ),
        image=ImageSpec(height=size, width=size),
        text=TextSpec(max_tokens=tokens, fields=("title",)),
        calibration=Calibration(),
        threshold=threshold,
        thresholds={},
        max_batch=max_batch,
        parent=None,
        metrics={},
        provenance={},
        files={},
    )


def vocabulary(path: Path, words: tuple[str, ...] = WORDS) -> Path:
    """Write a tokenizer that knows these words."""
    built = tokenizers.Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[PAD]")
    )
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.save(str(path))
    return path


def write(
    parent: Path,
    *,
    bias: float = 0.0,
    size: int = 4,
    tokens: int = 8,
    threshold: float = 0.5,
    words: tuple[str, ...] = WORDS,
    golden_words: tuple[str, ...] | None = None,
    golden_bias: float | None = None,
    with_golden: bool = True,
) -> Path:
    """Write a release and return its directory.

    Args:
        parent: where it goes.
        bias: of its logits; NaN breaks it.
        size: height and width of its pictures.
        tokens: of its texts.
        threshold: from which on it alerts.
        words: of its tokenizer.
        golden_words: of the tokenizer that its golden pairs were made with; its own if None.
        golden_bias: of the model that its golden pairs were made with; its own if None.
        with_golden: whether it has any.
    """
    manifest = draft(size=size, tokens=tokens, threshold=threshold)
    with tempfile.TemporaryDirectory() as scratch:
        files = _files(Path(scratch), size=size, tokens=tokens, bias=bias, words=words)
        if with_golden:
            files[releases.GOLDEN_FILE] = Path(scratch) / releases.GOLDEN_FILE
            files[releases.GOLDEN_FILE].write_bytes(
                _golden(
                    manifest,
                    bias=bias if golden_bias is None else golden_bias,
                    words=words if golden_words is None else golden_words,
                )
            )
        return releases.write_release(parent, manifest, files)


def _files(directory: Path, *, size: int, tokens: int, bias: float, words: tuple[str, ...]) -> dict[str, Path]:
    return {
        releases.MODEL_FILE: graph(directory / releases.MODEL_FILE, size=size, tokens=tokens, bias=bias),
        releases.TOKENIZER_FILE: vocabulary(directory / releases.TOKENIZER_FILE, words),
    }


def _golden(manifest: Manifest, *, bias: float, words: tuple[str, ...]) -> bytes:
    """Return golden pairs as a sound release of these inputs makes them; NaN has none, so 0 stands for it."""
    size, tokens = manifest.image.height, manifest.text.max_tokens
    with tempfile.TemporaryDirectory() as scratch:
        files = _files(Path(scratch), size=size, tokens=tokens, bias=0.0 if np.isnan(bias) else bias, words=words)
        made_at = releases.write_release(Path(scratch) / "made", manifest, files)
        engine, tokenizer = loader.load(made_at, threads=1), loader.load_tokenizer(made_at)
        random = np.random.default_rng(0)
        products = [
            ({"title": title}, random.integers(0, 256, (3, size, size), dtype=np.uint8))
            for title in ("red mug", "blue shoe", "mug")
        ]
        return golden.encode(golden.make(engine, tokenizer, products))


def logit(directory: Path, red: int, title: str, *, bias: float) -> float:
    """Return what a tiny release of this bias answers to a picture of one red, whatever its size."""
    tokenizer = loader.load_tokenizer(directory)
    ids, mask = tokenizer.encode([f"title: {title}"])
    return red / 3 / 255 + TOKEN_WEIGHT * float((ids * mask).sum()) + bias


def altered(directory: Path, **changes: object) -> None:
    """Write other values into the manifest of a release, as nobody should."""
    path = directory / releases.MANIFEST_FILE
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | changes))
