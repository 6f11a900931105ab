"""The CPU engine: ONNX Runtime, the reference for every other runtime; on a GPU, what to fall back to.

Knows a model file and its manifest; nothing of products, events or files around them.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime

from engines.errors import EngineUnavailable, InferenceFailed
from engines.runtime.inputs import blank, checked, checked_logits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.contract import Batch, Manifest

_ONNX_TYPES: Final = {"uint8": "tensor(uint8)", "int32": "tensor(int32)", "float32": "tensor(float)"}

CPU_PROVIDER: Final = "CPUExecutionProvider"

_CHUNK: Final = 4
"""Pairs in one run of the graph: their activations stay in the core's cache, whatever else the host does there."""


GPU_PROVIDERS: Final = {"TensorrtExecutionProvider": "TensorRT", "CUDAExecutionProvider": "CUDA"}
"""ONNX Runtime's providers that need `onnxruntime-gpu`, and what they are called here."""

_GPU_CONCURRENCY: Final = 2  # one batch computed, one copied


class OnnxEngine:
    """An `engines.contract.Engine` on the CPU, or through one of ONNX Runtime's GPU providers.

    On the CPU each of its threads runs a batch of its own. Threads that shared each operator instead would meet after
    every one of them, and wait there whenever another job of the host, such as decoding, holds a core.

    Args:
        model: The release's `model.onnx`.
        manifest: What the model expects; a graph that says otherwise is refused.
        threads: Batches that run at the same time; 0: one per core this process may use. Only on the CPU.
        provider: Where it runs. A provider that is not there is refused: ONNX Runtime itself would take the CPU.
        provider_options: What the provider is told, as its own documentation has it.

    Raises:
        EngineUnavailable: ONNX Runtime has no such provider here, cannot load the model, or the graph is not what the
            manifest says.
    """

    def __init__(
        self,
        model: Path,
        manifest: Manifest,
        *,
        threads: int = 0,
        provider: str = CPU_PROVIDER,
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        if provider not in onnxruntime.get_available_providers():
            raise EngineUnavailable(f"this onnxruntime has no {provider}: install onnxruntime-gpu in its place")
        if provider in GPU_PROVIDERS:
            onnxruntime.preload_dlls()  # CUDA and cuDNN that came as packages are on no path of the loader's
        try:
            session: Any = onnxruntime.InferenceSession(
                str(model), _session_options(), providers=[(provider, dict(provider_options or {}))]
            )
        except Exception as error:  # the runtime's errors have no common base
            raise EngineUnavailable(f"ONNX Runtime cannot load {model}: {error}") from error
        if provider not in session.get_providers():  # it says so on stderr only
            raise EngineUnavailable(f"ONNX Runtime's {provider} does not start here: see its message above")
        _check_graph(session, manifest)
        self._provider = provider
        self._chunk = manifest.max_batch if provider in GPU_PROVIDERS else _CHUNK
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
        return _GPU_CONCURRENCY if self._provider in GPU_PROVIDERS else self._threads

    @property
    def device(self) -> str:
        """Where it runs, for people."""
        if self._provider in GPU_PROVIDERS:
            return f"cuda (onnxruntime, {GPU_PROVIDERS[self._provider]})"
        return "cpu (onnxruntime)"

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        """Return logits (B,), float32: the log-odds, before calibration, that picture and text do NOT match.

        Raises:
            InferenceFailed: the batch is not what the manifest says, the runtime raised, or a logit is not finite.
            MemoryError: the GPU is out of memory.
        """
        inputs = checked(batch, self._manifest)
        try:
            chunks = _chunks(inputs, len(batch), self._chunk)
            logits = np.concatenate([self._session.run(None, chunk)[0] for chunk in chunks])
        except Exception as error:  # the runtime's errors have no common base
            if "memory" in str(error).lower() and self._provider in GPU_PROVIDERS:
                raise MemoryError(f"ONNX Runtime: {error}") from error
            raise InferenceFailed(f"ONNX Runtime: {error}") from error
        return checked_logits(logits, len(batch))

    def warm(self) -> None:
        """Run the smallest and the largest batch, so the first products do not pay for allocations.

        Raises:
            InferenceFailed: the model does not run.
        """
        for size in sorted({1, self._manifest.max_batch}):
            self.infer(blank(self._manifest, size))

    def close(self) -> None:
        """Give the memory back to the system; no call may follow."""
        del self._session
        _trim()


def _trim() -> None:
    """Let glibc return what it keeps of freed memory: otherwise each engine that is swapped out leaves some 25 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have no such call
    if trim is not None:
        trim(0)


def _chunks(inputs: dict[str, NDArray[Any]], size: int, chunk: int) -> Iterator[dict[str, NDArray[Any]]]:
    for at in range(0, size, chunk):
        yield {name: tensor[at : at + chunk] for name, tensor in inputs.items()}


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
