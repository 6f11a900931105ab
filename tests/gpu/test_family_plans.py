"""Every family's graph, cast and built by the code that compiles: real plans, by `tensorrt_rtx`, without a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from engines.build.compile import builder
from engines.build.compile.cast import PRECISIONS, cast
from engines.contract import Batch
from engines.errors import EngineUnavailable, GraphUnsupported
from engines.runtime.onnx import OnnxEngine
from tests import tiny_families
from tests.fakes import manifest
from tests.unit.test_runtime import graph
from tests.unit.test_runtime import manifest as manifest_of_graph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from engines.build.assemble import Source
    from engines.build.compile.cast import Precision

    Exported = Callable[[str], tuple[Source, Path]]

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TARGET = builder.Target(buckets=(1, 4), compute_capability=(8, 6))


@pytest.fixture(scope="module")
def rtx() -> ModuleType:
    """Give TensorRT for RTX, which builds ahead of time."""
    return pytest.importorskip("tensorrt_rtx")


@pytest.fixture(params=(*tiny_families.OWN, *tiny_families.NAMES))
def family(request: pytest.FixtureRequest, exported_family: Exported) -> tuple[Source, Path]:
    """Give a random model and its graph."""
    return exported_family(request.param)


def engine(source: Source, path: Path) -> OnnxEngine:
    """Return the graph as ONNX Runtime runs it."""
    made = manifest(inputs=source.inputs, image=source.image, text=source.text)
    return OnnxEngine(path, made, threads=1)


def types(path: Path, *operators: str) -> set[str]:
    """Return the types that these operators compute in."""
    nodes = [node for node in ir.load(path).graph if node.op_type in operators]
    assert nodes
    return {str(node.outputs[0].dtype) for node in nodes}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_plan_of_every_family_is_built(
    family: tuple[Source, Path], precision: Precision, rtx: ModuleType, tmp_path: Path
) -> None:
    """Strongly typed, with a profile for each batch, and smaller with less precision: no operator is in the way."""
    source, path = family
    cast(path, precision, tmp_path / "cast.onnx")
    built = builder.build(rtx, tmp_path / "cast.onnx", source.inputs, TARGET)
    weights = sum(initializer.const_value.nbytes for initializer in ir.load(path).graph.initializers.values())
    assert len(built.plan) > weights / 2
    assert built.parse_s > 0
    assert built.build_s > 0


def test_plan_in_bfloat16_is_built(exported_family: Exported, rtx: ModuleType, tmp_path: Path) -> None:
    """Which ONNX's opset 20 has no convolution for: the cast raises it."""
    source, path = exported_family("clip")
    assert cast(path, "bf16", tmp_path / "cast.onnx") > 0
    onnx.checker.check_model(onnx.load(tmp_path / "cast.onnx"), full_check=True)
    assert types(tmp_path / "cast.onnx", "Conv") == {"BFLOAT16"}
    assert builder.build(rtx, tmp_path / "cast.onnx", source.inputs, TARGET).plan


def test_cast_graph_gives_nearly_the_same_logits(family: tuple[Source, Path], tmp_path: Path) -> None:
    """Within a hundredth of the logits' spread, run by ONNX Runtime in half precision, whatever the texts' lengths."""
    source, path = family
    lowered = cast(path, "fp16", tmp_path / "cast.onnx")
    pairs = Batch(*(tensor.numpy() for tensor in tiny_families.pairs(8, seed=3, side=source.image.height)))
    expected, found = (engine(source, graph).infer(pairs) for graph in (path, tmp_path / "cast.onnx"))
    assert lowered > 20
    assert (expected != found).any()
    assert np.abs(expected - found).max() < 0.02 * max(expected.std(), 0.05)


def test_cast_graph_is_valid_and_keeps_what_is_sensitive(family: tuple[Source, Path], tmp_path: Path) -> None:
    """Products are in the low type but for the head's, softmax and norms are not, inputs and outputs are as before."""
    _, path = family
    low = tmp_path / "cast.onnx"
    cast(path, "fp16", low)
    onnx.checker.check_model(onnx.load(low), full_check=True)
    assert types(low, "Softmax", "LayerNormalization") == {"FLOAT"}
    assert types(low, "Conv") == {"FLOAT16"}
    assert "FLOAT16" in types(low, "MatMul", "Gemm")
    before, after = ir.load(path).graph, ir.load(low).graph
    for one, other in zip([*before.inputs, *before.outputs], [*after.inputs, *after.outputs], strict=True):
        assert (one.name, one.dtype, one.shape) == (other.name, other.dtype, other.shape)


def test_cast_graph_adds_its_mask_in_float32(family: tuple[Source, Path], tmp_path: Path) -> None:
    """What stands between a product and its softmax: a mask of -3e38 is no float16."""
    _, path = family
    cast(path, "fp16", tmp_path / "cast.onnx")
    for node in ir.load(tmp_path / "cast.onnx").graph:
        if node.op_type == "Softmax":
            producer = node.inputs[0].producer()
            assert str(producer.outputs[0].dtype) == "FLOAT"


def test_cast_graph_has_its_head_in_float32(family: tuple[Source, Path], tmp_path: Path) -> None:
    """The logit is not rounded: all that follows the last product, and that product."""
    _, path = family
    cast(path, "fp16", tmp_path / "cast.onnx")
    node = ir.load(tmp_path / "cast.onnx").graph.outputs[0].producer()
    waiting = [node]
    while waiting:
        node = waiting.pop()
        assert str(node.outputs[0].dtype) in ("FLOAT", "INT64", "BOOL", "INT32", "UINT8")
        if node.op_type not in ("MatMul", "Gemm", "Conv", "Einsum"):
            waiting.extend(before for before in node.predecessors() if before.op_type != "Cast")


def test_cast_of_fp32_is_the_graph_as_it_is(exported_family: Exported, tmp_path: Path) -> None:
    """Nothing is lowered, and the logits are the same bits."""
    source, path = exported_family("clip")
    assert cast(path, "fp32", tmp_path / "cast.onnx") == 0
    pairs = Batch(*(tensor.numpy() for tensor in tiny_families.pairs(5, seed=3)))
    assert (engine(source, path).infer(pairs) == engine(source, tmp_path / "cast.onnx").infer(pairs)).all()


def test_cast_keeps_what_has_a_constant_that_half_precision_lacks(tmp_path: Path) -> None:
    """A norm that is clamped to 1e-12 would be clamped to 0, and divided by."""
    floats, made = onnx.TensorProto.FLOAT, onnx.helper
    nodes = [
        made.make_node("MatMul", ["x", "w"], ["a"]),
        made.make_node("Clip", ["a", "tiny"], ["b"]),
        made.make_node("Clip", ["b", "small"], ["c"]),
        made.make_node("MatMul", ["c", "w"], ["d"]),
        made.make_node("MatMul", ["d", "w"], ["logits"]),
    ]
    weights = [
        made.make_tensor("w", floats, [2, 2], [1.0, 2.0, 3.0, 4.0]),
        made.make_tensor("tiny", floats, [], [1e-12]),
        made.make_tensor("small", floats, [], [0.5]),
    ]
    ends = [made.make_tensor_value_info(name, floats, ["batch", 2]) for name in ("x", "logits")]
    model = made.make_model(
        made.make_graph(nodes, "norm", ends[:1], ends[1:], weights), opset_imports=[made.make_opsetid("", 20)]
    )
    onnx.save(model, tmp_path / "model.onnx")
    assert cast(tmp_path / "model.onnx", "fp16", tmp_path / "cast.onnx") == 3
    found = [str(node.outputs[0].dtype) for node in ir.load(tmp_path / "cast.onnx").graph if node.op_type == "Clip"]
    assert found == ["FLOAT", "FLOAT16"]
    assert cast(tmp_path / "model.onnx", "bf16", tmp_path / "cast.onnx") == 4, "bfloat16 has it"


def test_cast_of_large_weights_puts_them_beside_the_graph(
    exported_family: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A protobuf message holds 2 GB; the file beside is found by ONNX Runtime and by TensorRT's parser alike."""
    monkeypatch.setattr("engines.build.compile.cast._INLINE_BYTES", 1000)
    source, path = exported_family("clip")
    cast(path, "fp16", tmp_path / "cast.onnx")
    assert (tmp_path / "cast.onnx.data").stat().st_size > 1000
    pairs = Batch(*(tensor.numpy() for tensor in tiny_families.pairs(5, seed=3)))
    assert np.isfinite(engine(source, tmp_path / "cast.onnx").infer(pairs)).all()
    rtx = pytest.importorskip("tensorrt_rtx")
    assert builder.build(rtx, tmp_path / "cast.onnx", source.inputs, builder.Target((1,), (8, 6))).plan


def test_cast_of_a_graph_without_products_changes_nothing(tmp_path: Path) -> None:
    """All of it is stem and head."""
    assert [cast(graph(tmp_path / "model.onnx"), one, tmp_path / "cast.onnx") for one in PRECISIONS] == [0, 0, 0]


def test_cast_of_control_flow_is_refused(tmp_path: Path) -> None:
    """A branch's own graph is not looked into."""
    model = onnx.load(graph(tmp_path / "model.onnx"))
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["mean"], ["same"])],
        "branch",
        [],
        [onnx.helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, ["batch"])],
    )
    model.graph.initializer.append(onnx.helper.make_tensor("yes", onnx.TensorProto.BOOL, [], [True]))
    model.graph.node.insert(2, onnx.helper.make_node("If", ["yes"], ["m"], then_branch=branch, else_branch=branch))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(GraphUnsupported, match="control flow"):
        cast(tmp_path / "model.onnx", "fp16", tmp_path / "cast.onnx")


def test_build_of_an_unknown_operator_reports_it(rtx: ModuleType, tmp_path: Path) -> None:
    """By operator and node, with what TensorRT says and what to do."""
    model = onnx.load(graph(tmp_path / "model.onnx"))
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Haggle", "shop"
    model.graph.node[-1].name = "the_last_word"
    model.opset_import.append(onnx.helper.make_opsetid("shop", 1))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(GraphUnsupported) as caught:
        builder.build(rtx, tmp_path / "model.onnx", manifest_of_graph().inputs, TARGET)
    said = str(caught.value)
    assert "Haggle the_last_word (node 6): " in said
    assert "engines/build/models/" in said
    assert "onnx-cuda" in said


def test_build_of_a_file_that_is_no_graph_is_reported(rtx: ModuleType, tmp_path: Path) -> None:
    """There is no operator to name."""
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(GraphUnsupported, match=r"cannot read model\.onnx"):
        builder.build(rtx, tmp_path / "model.onnx", manifest_of_graph().inputs, TARGET)


def test_build_for_an_unknown_architecture_names_those_that_are(rtx: ModuleType, tmp_path: Path) -> None:
    """A GPU that this TensorRT does not build for is a fact of the package, said in its terms."""
    path = graph(tmp_path / "model.onnx")
    with pytest.raises(EngineUnavailable, match=r"cannot build for SM90; it can for .*SM89"):
        builder.build(rtx, path, manifest_of_graph().inputs, builder.Target(compute_capability=(9, 0)))


def test_build_keeps_and_takes_a_timing_cache(rtx: ModuleType, tmp_path: Path) -> None:
    """Another machine's, or none at all, begins a new one instead of failing."""
    path = graph(tmp_path / "model.onnx")
    first = builder.build(rtx, path, manifest_of_graph().inputs, TARGET)
    assert first.timing_cache
    for cache in (first.timing_cache, b"of something else"):
        assert builder.build(rtx, path, manifest_of_graph().inputs, TARGET, timing_cache=cache).timing_cache
