"""One stream of a GPU with all that a batch needs on its way: the unit that double buffering has two of.

A lane has pinned buffers on the host and their twins on the GPU, as large as the largest bucket, scratch memory that
its contexts share since they never run at the same time, and for each bucket a context whose shapes and addresses are
set once. A run enqueues copies in, computing and the copy out on the lane's own stream and waits for that stream only;
after the first runs of a bucket all of it is one CUDA graph. While one lane computes, another one copies.

A context is never changed after its graph is captured: a graph holds the shapes and addresses of that moment.
Source: TensorRT developer guide, "CUDA Graphs"; "one execution context per captured graph".
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engines.errors import EngineUnavailable, InferenceFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from engines.contract import TensorSpec
    from engines.runtime.cuda import Cuda

OUTPUT: Final = "logits"
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A plan that is on the GPU, shared by its lanes.

    Attributes:
        trt: TensorRT's module.
        engine: Its ICudaEngine.
        profiles: The optimization profile of each bucket, a batch size.
        inputs: As the manifest has them.
        messages: TensorRT's logger; see `engines.runtime.messages`.
        runtime: What loaded the engine, which must outlive it.
    """

    trt: ModuleType
    runtime: Any
    engine: Any
    profiles: Mapping[int, int]
    inputs: Sequence[TensorSpec]
    messages: Any


@dataclass(frozen=True)
class _Tensor:
    """A buffer of the host as it is enqueued, as the tensor that it holds, and its twin's address on the GPU."""

    pinned: NDArray[np.uint8]
    rows: NDArray[Any]
    address: int

    def head(self, size: int) -> NDArray[np.uint8]:
        """Return the bytes of the first `size` rows."""
        return self.pinned[: size * self.rows[:1].nbytes]


class Lane:
    """Runs one batch at a time; used by one thread at a time.

    Args:
        cuda: The GPU.
        plan: What it runs.
        buckets: Batch sizes that it is ready for, ascending.

    Raises:
        MemoryError: the GPU, or the host's pinned memory, has no room for these buckets.
        EngineUnavailable: TensorRT makes no context.
        InferenceFailed: CUDA fails.
    """

    def __init__(self, cuda: Cuda, plan: Plan, buckets: Sequence[int]) -> None:
        self._cuda = cuda
        self._plan = plan
        self._graphs: dict[int, int] = {}
        self._contexts: dict[int, Any] = {}
        self._inputs: dict[str, _Tensor] = {}
        self._freeing = ExitStack()
        try:
            self._make(buckets)
        except BaseException:
            self.close()
            raise

    def warm(self) -> None:
        """Run each bucket once as it is and once while it is captured; then it is a graph.

        Raises:
            InferenceFailed, MemoryError: as `run`.
        """
        for bucket in self._contexts:
            self._enqueue(bucket)  # TensorRT loads kernels lazily, which must not happen while capturing
            self._cuda.synchronize(self._stream)
            self._capture(bucket)

    def run(self, inputs: Mapping[str, NDArray[Any]], bucket: int) -> NDArray[np.float32]:
        """Return the logits of up to `bucket` pairs; missing rows are filled with the last one.

        Raises:
            InferenceFailed: CUDA or TensorRT fails.
            MemoryError: there is no memory left for it on the GPU.
        """
        size = 0
        for name, tensor in inputs.items():
            size = len(tensor)
            rows = self._inputs[name].rows
            rows[:size] = tensor
            rows[size:bucket] = tensor[-1]
        if bucket in self._graphs:
            self._cuda.launch(self._graphs[bucket], self._stream)
        else:
            self._enqueue(bucket)
        self._cuda.synchronize(self._stream)
        return np.array(self._output.rows[:size])

    def close(self) -> None:
        """Give everything back; nothing may be running."""
        for graph in self._graphs.values():
            self._cuda.destroy_graph(graph)
        self._graphs.clear()
        self._contexts.clear()  # behind the graphs that were captured of them, before the memory that they use
        self._freeing.close()

    def _make(self, buckets: Sequence[int]) -> None:
        cuda, largest = self._cuda, buckets[-1]
        self._stream = cuda.create_stream()
        self._freeing.callback(cuda.destroy_stream, self._stream)
        for spec in self._plan.inputs:
            shape = (largest, *(size for size in spec.shape[1:] if size is not None))
            self._inputs[spec.name] = self._tensor(shape, np.dtype(spec.dtype))
        self._output = self._tensor((largest,), np.dtype(np.float32))
        engine = self._plan.engine
        scratch_bytes = max(
            engine.get_device_memory_size_for_profile_v2(self._plan.profiles[bucket]) for bucket in buckets
        )
        scratch = self._allocate(scratch_bytes) if scratch_bytes else 0
        for bucket in buckets:
            self._contexts[bucket] = self._context(bucket, scratch, scratch_bytes)
        cuda.synchronize(self._stream)

    def _tensor(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Tensor:
        pinned = self._cuda.allocate_pinned(int(np.prod(shape)) * dtype.itemsize)
        self._freeing.callback(self._cuda.free_pinned, pinned)
        pinned[:] = 0
        return _Tensor(pinned, pinned.view(dtype).reshape(shape), self._allocate(pinned.nbytes))

    def _allocate(self, size: int) -> int:
        address = self._cuda.allocate(size)
        self._freeing.callback(self._cuda.free, address)
        return address

    def _context(self, bucket: int, scratch: int, scratch_bytes: int) -> Any:  # noqa: ANN401 - TensorRT has no types
        """Return a context that is ready to be enqueued: profile, memory, shapes and addresses set."""
        plan = self._plan
        context = plan.engine.create_execution_context(plan.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise _failure(plan.messages.said(), f"TensorRT makes no context for batches of {bucket}", load=True)
        context.set_device_memory(scratch, scratch_bytes)
        done = context.set_optimization_profile_async(plan.profiles[bucket], self._stream)
        for spec in plan.inputs:
            shape = tuple(bucket if size is None else size for size in spec.shape)
            done = done and context.set_input_shape(spec.name, shape)
            done = done and context.set_tensor_address(spec.name, self._inputs[spec.name].address)
        if not (done and context.set_tensor_address(OUTPUT, self._output.address)):
            raise _failure(plan.messages.said(), f"TensorRT takes no batches of {bucket}", load=True)
        return context

    def _enqueue(self, bucket: int) -> None:
        for tensor in self._inputs.values():
            self._cuda.copy_in(tensor.address, tensor.head(bucket), self._stream)
        if not self._contexts[bucket].execute_async_v3(self._stream):
            raise _failure(self._plan.messages.said(), f"TensorRT does not run a batch of {bucket}", load=False)
        self._cuda.copy_out(self._output.head(bucket), self._output.address, self._stream)

    def _capture(self, bucket: int) -> None:
        """Make the bucket a graph; what cannot be captured runs as it did."""
        failed: Exception | None = None
        graph: int | None = None
        try:
            self._cuda.begin_capture(self._stream)
            try:
                self._enqueue(bucket)
            except (InferenceFailed, MemoryError) as error:
                failed = error
            graph = self._cuda.end_capture(self._stream)  # also after a failure: the stream would stay unusable
        except (InferenceFailed, MemoryError) as error:
            failed = failed or error
        if graph is not None and failed is None:
            self._graphs[bucket] = graph
            return
        if graph is not None:
            self._cuda.destroy_graph(graph)
        _log.warning("batches of %d run without a CUDA graph, which costs some time each: %s", bucket, failed)


def _failure(said: str, what: str, *, load: bool) -> Exception:
    if "outofmemory" in said.lower().replace(" ", "").replace("_", ""):
        return MemoryError(f"{what}: {said}")
    message = f"{what}: {said or 'it does not say why'}"
    return EngineUnavailable(message) if load else InferenceFailed(message)
