"""The CPU engine: ONNX Runtime, the reference that every other runtime is compared with.

Knows a model file and its manifest; nothing of products, events or files around them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime

from engines.contract import Batch
from engines.errors import EngineUnavailable, InferenceFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.contract import Manifest, TensorSpec

_ONNX_TYPES: Final = {"uint8": "tensor(uint8)", "int32": "tensor(int32)", "float32": "tensor(float)"}

_CHUNK: Final = 4
"""Pairs in one run of the graph: their activations stay in the core's cache, whatever else the host does there."""


class OnnxEngine:
    """An `engines.contract.Engine` on the CPU.

    Each of its threads runs a batch of its own. Threads that shared each operator instead would meet after every one of
    them, and wait there whenever another job of the host, such as decoding, holds a core.

    Args:
        model: The release's `model.onnx`.
        manifest: What the model expects; a graph that says otherwise is refused.
        threads: Batches that run at the same time; 0: one per core this process may use.

    Raises:
        EngineUnavailable: ONNX Runtime cannot load the model, or the graph is not what the manifest says.
    """

    def __init__(self, model: Path, manifest: Manifest, *, threads: int = 0) -> None:
        try:
            session: Any = onnxruntime.InferenceSession(
                str(model), _session_options(), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's errors have no common base
            raise EngineUnavailable(f"ONNX Runtime cannot load {model}: {error}") from error
        _check_graph(session, manifest)
        self._session: Any = session
        self._manifest = manifest
        self._threads = threads or len(os.sched_getaffinity(0))

    @property
    def manifest(self) -> Manifest:
        """The release this engine runs."""
        return self._manifest

    @property
    def concurrency(self) -> int:
        """How many batches run at the same time."""
        return self._threads

    @property
    def device(self) -> str:
        """Where it runs, for people."""
        return "cpu (onnxruntime)"

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        """Return logits (B,), float32: the log-odds, before calibration, that picture and text do NOT match.

        Raises:
            InferenceFailed: the batch is not what the manifest says, the runtime raised, or a logit is not finite.
        """
        inputs = self._inputs(batch)
        try:
            logits = np.concatenate([self._session.run(None, chunk)[0] for chunk in _chunks(inputs, len(batch))])
        except Exception as error:  # the runtime's errors have no common base
            raise InferenceFailed(f"ONNX Runtime: {error}") from error
        if logits.shape != (len(batch),) or not np.isfinite(logits).all():
            raise InferenceFailed(f"{len(batch)} pairs gave logits of shape {logits.shape}, or not all are finite")
        return np.asarray(logits, dtype=np.float32)

    def warm(self) -> None:
        """Run the smallest and the largest batch, so the first products do not pay for allocations.

        Raises:
            InferenceFailed: the model does not run.
        """
        for size in sorted({1, self._manifest.max_batch}):
            self.infer(_blank_batch(self._manifest, size))

    def close(self) -> None:
        """Free the memory; no call may follow."""
        del self._session

    def _inputs(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Return the batch by input name, checked: the runtime's own messages do not say which input is wrong."""
        if not 1 <= len(batch) <= self._manifest.max_batch:
            raise InferenceFailed(f"{len(batch)} pairs in a batch; this engine takes 1 to {self._manifest.max_batch}")
        inputs: dict[str, NDArray[Any]] = {spec.name: getattr(batch, spec.name) for spec in self._manifest.inputs}
        for spec in self._manifest.inputs:
            _check_tensor(inputs[spec.name], spec, len(batch))
        return inputs


def _chunks(inputs: dict[str, NDArray[Any]], size: int) -> Iterator[dict[str, NDArray[Any]]]:
    for at in range(0, size, _CHUNK):
        yield {name: tensor[at : at + _CHUNK] for name, tensor in inputs.items()}


def _session_options() -> Any:  # noqa: ANN401 - the runtime has no types
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors; the runtime writes to stderr by itself
    return options


def _check_graph(session: Any, manifest: Manifest) -> None:  # noqa: ANN401 - the runtime has no types
    graph = {node.name: (node.type, tuple(node.shape[1:])) for node in session.get_inputs()}
    declared = {spec.name: (_ONNX_TYPES[spec.dtype], spec.shape[1:]) for spec in manifest.inputs}
    if graph != declared:
        raise EngineUnavailable(f"the graph takes {graph}, the manifest of {manifest.release} says {declared}")


def _check_tensor(tensor: NDArray[Any] | None, spec: TensorSpec, size: int) -> None:
    shape = (size, *spec.shape[1:])
    if tensor is None:
        raise InferenceFailed(f"the batch has no {spec.name}; it must be {spec.dtype} {shape}")
    if tensor.dtype != spec.dtype or tensor.shape != shape:
        raise InferenceFailed(f"{spec.name} is {tensor.dtype} {tensor.shape}; it must be {spec.dtype} {shape}")


def _blank_batch(manifest: Manifest, size: int) -> Batch:
    image, tokens = manifest.image, manifest.text.max_tokens
    columns = [spec.shape[1] or 0 for spec in manifest.inputs if spec.name == "attributes"]
    return Batch(
        pixel_values=np.zeros((size, 3, image.height, image.width), dtype=np.uint8),
        input_ids=np.zeros((size, tokens), dtype=np.int32),
        attention_mask=np.ones((size, tokens), dtype=np.int32),
        attributes=np.zeros((size, columns[0], 2), dtype=np.float32) if columns else None,
    )
