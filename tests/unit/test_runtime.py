"""`engines.runtime`: a graph of a few nodes stands in for a model."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnx
import pytest
import tokenizers
from onnx import TensorProto, helper
from tokenizers import models

from engines import releases
from engines.contract import Batch
from engines.errors import EngineUnavailable, InferenceFailed, ReleaseCorrupt
from engines.runtime import loader
from tests.tiny_release import draft

if TYPE_CHECKING:
    from pathlib import Path

    from engines.contract import Manifest

SIZE, TOKENS, MAX_BATCH = 4, 8, 3


def graph(path: Path, *, tokens: int = TOKENS) -> Path:
    """Write a model whose logit is mean pixel / (7 - sum of the ids that are read): infinite when they add up to 7."""
    inputs = [
        helper.make_tensor_value_info("pixel_values", TensorProto.UINT8, ["batch", 3, SIZE, SIZE]),
        helper.make_tensor_value_info("input_ids", TensorProto.INT32, ["batch", tokens]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT32, ["batch", tokens]),
    ]
    constants = [
        helper.make_tensor("pixel_axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("token_axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("seven", TensorProto.FLOAT, [], [7.0]),
    ]
    nodes = [
        helper.make_node("Cast", ["pixel_values"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "pixel_axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["read"]),
        helper.make_node("ReduceSum", ["read", "token_axis"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["sum"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["seven", "sum"], ["rest"]),
        helper.make_node("Div", ["mean", "rest"], ["logits"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch"])]
    built = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    onnx.save(helper.make_model(built, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return path


def manifest() -> Manifest:
    """Return the manifest of a tiny engine, its files not yet known."""
    return draft(size=SIZE, tokens=TOKENS, max_batch=MAX_BATCH)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Give the directory of a published release."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"[PAD]": 0, "mug": 1}, unk_token="[PAD]"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    files = {"model.onnx": graph(tmp_path / "model.onnx"), "tokenizer.json": tmp_path / "tokenizer.json"}
    return releases.write_release(tmp_path / "releases", manifest(), files)


def batch(size: int = 1, *, first_id: int = 1) -> Batch:
    """Return pairs whose pixels are 1, 2, 3, … and whose only id is `first_id`."""
    ids = np.zeros((size, TOKENS), dtype=np.int32)
    ids[:, 0] = first_id
    pixels = np.arange(1, size + 1, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, SIZE, SIZE), dtype=np.uint8)
    return Batch(pixel_values=pixels, input_ids=ids, attention_mask=np.ones((size, TOKENS), dtype=np.int32))


def test_load_gives_a_warm_engine_that_infers(release: Path) -> None:
    """One finite float32 logit per pair, in the order of the batch."""
    engine = loader.load(release, threads=1)
    logits = engine.infer(batch(3))
    assert logits.dtype == np.float32
    assert logits.tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert engine.manifest.release == release.name
    assert engine.device == "cpu (onnxruntime)"
    engine.close()


def test_load_max_batch_only_lowers_the_cap(release: Path) -> None:
    """A caller's cap stands in the engine's manifest when it is below the release's own."""
    assert loader.load(release, max_batch=2).manifest.max_batch == 2
    assert loader.load(release, max_batch=99).manifest.max_batch == MAX_BATCH


def test_load_altered_release_is_corrupt(release: Path) -> None:
    """No model is loaded from a release that is not whole."""
    (release / "model.onnx").write_bytes(b"other")
    with pytest.raises(ReleaseCorrupt):
        loader.load(release)


def test_load_model_that_is_none_is_unavailable(tmp_path: Path) -> None:
    """A file that is no model says so, whatever the runtime raises."""
    for name in ("model.onnx", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"no model")
    named = {name: tmp_path / name for name in ("model.onnx", "tokenizer.json")}
    with pytest.raises(EngineUnavailable):
        loader.load(releases.write_release(tmp_path / "releases", manifest(), named))


def test_load_graph_unlike_its_manifest_is_unavailable(tmp_path: Path) -> None:
    """A graph with other inputs than the manifest declares is refused when it is loaded, not at the first product."""
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    files = {"model.onnx": graph(tmp_path / "model.onnx", tokens=9), "tokenizer.json": tmp_path / "tokenizer.json"}
    with pytest.raises(EngineUnavailable, match="the manifest of"):
        loader.load(releases.write_release(tmp_path / "releases", manifest(), files))


def test_infer_logit_that_is_not_finite_fails(release: Path) -> None:
    """An infinite logit is an error, never a score."""
    with pytest.raises(InferenceFailed, match="finite"):
        loader.load(release).infer(batch(first_id=7))


@pytest.mark.parametrize("size", [0, MAX_BATCH + 1])
def test_infer_batch_outside_the_cap_fails(release: Path, size: int) -> None:
    """The cap of the manifest holds."""
    with pytest.raises(InferenceFailed, match="this engine takes 1 to 3"):
        loader.load(release).infer(batch(size))


def test_infer_wrong_tensor_names_the_input(release: Path) -> None:
    """A tensor of another type or shape is named, with what it should be."""
    wrong = msgspec.structs.replace(batch(), input_ids=np.zeros((1, TOKENS), dtype=np.int64))
    with pytest.raises(InferenceFailed, match=r"input_ids is int64 \(1, 8\); it must be int32"):
        loader.load(release).infer(wrong)


def test_load_tokenizer_reads_the_release(release: Path) -> None:
    """The tokenizer comes with the engine, at the width of its manifest."""
    ids, _ = loader.load_tokenizer(release).encode(["mug"])
    assert ids.tolist() == [[1, 0, 0, 0, 0, 0, 0, 0]]


def test_runtime_imports_no_training_library() -> None:
    """Everything a scorer needs of the engine loads without torch, onnx or transformers."""
    code = (
        "import sys, engines.calibration, engines.image, engines.releases, engines.runtime.loader, engines.text\n"
        "print(sorted({'torch', 'onnx', 'transformers', 'engines.build'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


SWAPPING = """
import resource
from pathlib import Path
from engines import releases
from engines.runtime import loader

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

place, running = loader.Place(runtime="cpu"), None
for swap in range(6):
    engine, _ = loader.load_checked(releases.shipped(), threads=1, max_batch=16, place=place)
    if running is not None:
        running.close()
    running = engine
    print(resident_mb())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_close_engines_one_after_another_gives_the_memory_back() -> None:
    """After five swaps a process has no more memory than after the first one."""
    done = subprocess.run([sys.executable, "-c", SWAPPING], capture_output=True, text=True, check=True)
    resident_mb = [float(line) for line in done.stdout.split()]
    assert resident_mb[-1] < resident_mb[1] + 15, resident_mb
