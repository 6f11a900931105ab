"""The precision is in the graph: float32 → float16 or bfloat16, but for what would lose too much. onnx-ir only.

TensorRT 11 builds strongly typed networks: it computes each operator in the type that the graph gives it. What is left
in float32, in the terms of the graph:

* softmax and norms, and the parts they are written out as (sums, powers, roots, exponentials);
* what stands between a product and the softmax behind it: the mask is added there, and its -3e38 is no float16;
* the stem: what stands before the first product on every way from an input, so that normalised pixels and masks are
  exact until they are cast; tables of embeddings are not part of it;
* operators with a constant that the low type has not, such as the 1e-12 that a norm is clamped to;
* the head: the last product before the logit, and what follows it.

Everything else follows its producers in the low type, with casts where the two meet. A product is a `MatMul`, `Gemm`,
`Conv`, `ConvTranspose` or `Einsum`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from engines.errors import GraphUnsupported

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

Precision = Literal["fp32", "fp16", "bf16"]

PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16", "bf16")

_LOW: Final = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
_PRODUCTS: Final = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"})
_SENSITIVE: Final = frozenset(
    {
        *("Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "GroupNormalization"),
        *("InstanceNormalization", "BatchNormalization", "LpNormalization", "MeanVarianceNormalization"),
        *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
        *("Pow", "Sqrt", "Exp", "Log", "Reciprocal", "CumSum", "Range", "Resize"),
    }
)
_CAST: Final = frozenset({"Cast", "CastLike"})
_BFLOAT16_OPSET: Final = 22
_INLINE_BYTES: Final = 2**31 - 2**20  # a protobuf message holds no more; weights above stand beside the graph


def cast(model: Path, precision: Precision, out: Path) -> int:
    """Write the graph of `model` in another precision to `out`, its inputs and outputs as they were.

    Returns:
        How many of its operators compute in the low precision; 0 for fp32, which is the graph as it is.

    Raises:
        GraphUnsupported: the graph has control flow, or an operator that has no such precision.
    """
    graph = ir.load(model)
    changed = 0 if precision == "fp32" else _lower(graph, _LOW[precision])
    size = sum(initializer.const_value.nbytes for initializer in _initializers(graph) if initializer.const_value)
    ir.save(graph, out, external_data=f"{out.name}.data" if size > _INLINE_BYTES else None)
    return changed


def _lower(model: ir.Model, low: ir.DataType) -> int:
    for prepare in (passes.InlinePass(), passes.LiftConstantsToInitializersPass(), passes.ShapeInferencePass()):
        prepare(model)
    graph = model.graph
    if low == ir.DataType.BFLOAT16:
        _allow_bfloat16(graph)
    _refuse_control_flow(graph)
    kept = _kept(graph, low)
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    lowered = 0
    for node in [node for node in graph if node.op_type not in _CAST]:
        floats = [(index, value) for index, value in enumerate(node.inputs) if value is not None and _is_float(value)]
        wanted = ir.DataType.FLOAT if node in kept or not floats else low
        for index, value in floats:
            if value.dtype != wanted:
                if (value, wanted) not in casts:
                    casts[value, wanted] = _converted(graph, value, wanted)
                node.replace_input_with(index, casts[value, wanted])
        if wanted == low:
            lowered += 1
            for output in node.outputs:
                if output.dtype == ir.DataType.FLOAT:
                    output.dtype = low
    passes.RemoveUnusedNodesPass()(model)
    return lowered


def _refuse_control_flow(graph: ir.Graph) -> None:
    if branching := [node.name or node.op_type for node in graph if _has_subgraph(node)]:
        raise GraphUnsupported(f"the graph has control flow ({', '.join(branching)}): export it without")


def _allow_bfloat16(graph: ir.Graph) -> None:
    """Raise the graph to the opset whose operators take bfloat16; but for one, nothing else changed in them."""
    if graph.opset_imports.get("", 0) < _BFLOAT16_OPSET:
        if any(node.op_type == "GroupNormalization" for node in graph):
            raise GraphUnsupported("GroupNormalization of an opset below 21 does not go with bf16: use fp16")
        graph.opset_imports[""] = _BFLOAT16_OPSET


def _kept(graph: ir.Graph, low: ir.DataType) -> set[ir.Node]:
    """Return the nodes that stay in float32."""
    kept = {node for node in graph if node.op_type in _SENSITIVE or _has_lost_constant(node, low)}
    for node in graph:
        if node.op_type in ("Softmax", "LogSoftmax"):
            kept.update(before for before in _back(node) if before.op_type not in _PRODUCTS)
    for output in graph.outputs:
        if (last := output.producer()) is not None:
            kept.update((last, *(() if last.op_type in _PRODUCTS else _back(last))))
    return kept | _stem(graph)


def _has_lost_constant(node: ir.Node, low: ir.DataType) -> bool:
    """Tell whether a number of the graph, not a weight, would become 0 or infinite in the low type."""
    for value in node.inputs:
        if value is not None and value.const_value is not None and value.const_value.size == 1 and _is_float(value):
            number = abs(float(value.const_value.numpy().item()))
            limits = ml_dtypes.finfo(low.numpy())
            if 0 < number < float(limits.smallest_normal) or float(limits.max) < number < float("inf"):
                return True
    return False


def _back(node: ir.Node) -> Iterator[ir.Node]:
    """Yield what leads to a node, up to and with the products that are met on each way."""
    waiting, seen = [node], {node}
    while waiting:
        for before in waiting.pop().predecessors():
            if before not in seen:
                seen.add(before)
                yield before
                if before.op_type not in _PRODUCTS:
                    waiting.append(before)


def _stem(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that no product stands before."""
    stem: set[ir.Node] = set()
    for node in graph:
        looks_up = node.op_type == "Gather" and node.inputs[0] is not None and node.inputs[0].is_initializer()
        if node.op_type not in _PRODUCTS and not looks_up and all(before in stem for before in node.predecessors()):
            stem.add(node)
    return stem


def _converted(graph: ir.Graph, value: ir.Value, wanted: ir.DataType) -> ir.Value:
    """Return the value in another type: a weight that is converted here, or what a cast before the node gives."""
    if value.const_value is not None and value.is_initializer():
        constant = ir.Tensor(_clipped(value.const_value.numpy(), wanted), name=f"{value.name}_{wanted.name}")
        weight = ir.Value(name=constant.name, shape=constant.shape, type=ir.TensorType(wanted), const_value=constant)
        graph.register_initializer(weight)
        return weight
    node = ir.node("Cast", [value], attributes={"to": wanted}, name=f"{value.name}_to_{wanted.name}")
    (cast_value,) = node.outputs
    cast_value.name, cast_value.shape, cast_value.dtype = f"{value.name}_{wanted.name}", value.shape, wanted
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    return cast_value


def _clipped(weight: NDArray[Any], wanted: ir.DataType) -> NDArray[Any]:
    """Return a constant in another type; what is finite stays finite."""
    target = np.dtype(wanted.numpy())
    limit = float(ml_dtypes.finfo(target).max)
    finite = np.where(np.isfinite(weight), np.clip(weight, -limit, limit), weight)
    return np.asarray(finite).astype(target)


def _is_float(value: ir.Value) -> bool:
    return value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _has_subgraph(node: ir.Node) -> bool:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attributes.values())


def _initializers(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.initializers.values()
