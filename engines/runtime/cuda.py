"""The CUDA seam: the few calls that an engine on a GPU needs, as a protocol, and NVIDIA's bindings behind it.

Pointers, streams and graphs are plain numbers, as CUDA hands them out. `cuda-bindings` is imported when a GPU is
opened: a worker on a CPU does without. Tests drive the engine with a fake that checks the order of these calls.

Source: CUDA Runtime API, "Stream Management", "Graph Management".
"""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from engines.errors import EngineUnavailable, InferenceFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Gpu:
    """A device: its number, its name (`NVIDIA L4`), its architecture ((8, 9)), its memory and the driver's version."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    driver: str


class Cuda(Protocol):
    """One GPU. Every call may raise `InferenceFailed`, and those that need memory `MemoryError`."""

    @property
    def gpu(self) -> Gpu:
        """What it is."""
        ...

    def enter(self) -> None:
        """Make it the calling thread's GPU; before any other call from a thread."""
        ...

    def free_bytes(self) -> int:
        """Return how much of its memory nobody has."""
        ...

    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes on the GPU."""
        ...

    def free(self, address: int) -> None:
        """Give them back; nothing that is enqueued may still use them."""
        ...

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        """Return `size` bytes of the host that are never paged out, which copies can overlap with computing from."""
        ...

    def free_pinned(self, buffer: NDArray[np.uint8]) -> None:
        """Give them back; nothing that is enqueued, and no view, may still use them."""
        ...

    def create_stream(self) -> int:
        """Return a stream that does not wait for the default one."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """Give it back."""
        ...

    def copy_in(self, target: int, source: NDArray[np.uint8], stream: int) -> None:
        """Enqueue a copy of a pinned buffer to the GPU; the buffer must not change until the stream has come there."""
        ...

    def copy_out(self, target: NDArray[np.uint8], source: int, stream: int) -> None:
        """Enqueue a copy from the GPU into a pinned buffer, which must not be read until the stream has come there."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait until all that is enqueued is done."""
        ...

    def begin_capture(self, stream: int) -> None:
        """Record what is enqueued from here on, by this thread, instead of running it."""
        ...

    def end_capture(self, stream: int) -> int:
        """Return what was recorded as a graph that can be launched any number of times."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Enqueue all of a graph."""
        ...

    def destroy_graph(self, graph: int) -> None:
        """Give it back; it must not be running."""
        ...


def open_gpu(index: int = 0) -> Cuda:
    """Return a GPU of this machine.

    Raises:
        EngineUnavailable: there is none with this number, or no driver, or the bindings are not installed.
    """
    try:
        runtime: Any = importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        raise EngineUnavailable(
            f"CUDA's bindings cannot be imported ({error}): pip install 'mismatch-streamer[gpu]'"
        ) from error
    return CudaBindings(runtime, index)


class CudaBindings:
    """A `Cuda` through `cuda.bindings.runtime`."""

    def __init__(self, runtime: Any, index: int) -> None:  # noqa: ANN401 - the package has no types
        self._runtime = runtime
        try:
            count = self._call(runtime.cudaGetDeviceCount)
            if not 0 <= index < count:
                raise EngineUnavailable(f"there is no GPU {index}: this machine has {count}, counted from 0")
            self.index = index
            self.enter()
            properties = self._call(runtime.cudaGetDeviceProperties, index)
            driver = int(self._call(runtime.cudaDriverGetVersion))
        except InferenceFailed as error:
            raise EngineUnavailable(
                f"no GPU answers ({error}): is there one, with its driver, and may this container use it?"
            ) from error
        self._gpu = Gpu(
            index=index,
            name=bytes(properties.name).split(b"\0")[0].decode(errors="replace"),
            compute_capability=(int(properties.major), int(properties.minor)),
            memory_bytes=int(properties.totalGlobalMem),
            driver=f"CUDA {driver // 1000}.{driver % 1000 // 10}",
        )

    @property
    def gpu(self) -> Gpu:
        return self._gpu

    def enter(self) -> None:
        self._call(self._runtime.cudaSetDevice, self.index)

    def free_bytes(self) -> int:
        free, _ = self._call(self._runtime.cudaMemGetInfo)
        return int(free)

    def allocate(self, size: int) -> int:
        return int(self._call(self._runtime.cudaMalloc, size))

    def free(self, address: int) -> None:
        self._call(self._runtime.cudaFree, address)

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        address = int(self._call(self._runtime.cudaHostAlloc, size, self._runtime.cudaHostAllocDefault))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, buffer: NDArray[np.uint8]) -> None:
        self._call(self._runtime.cudaFreeHost, buffer.ctypes.data)

    def create_stream(self) -> int:
        return int(self._call(self._runtime.cudaStreamCreateWithFlags, self._runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        self._call(self._runtime.cudaStreamDestroy, stream)

    def copy_in(self, target: int, source: NDArray[np.uint8], stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._runtime.cudaMemcpyAsync, target, source.ctypes.data, source.nbytes, kind, stream)

    def copy_out(self, target: NDArray[np.uint8], source: int, stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._runtime.cudaMemcpyAsync, target.ctypes.data, source, target.nbytes, kind, stream)

    def synchronize(self, stream: int) -> None:
        self._call(self._runtime.cudaStreamSynchronize, stream)

    def begin_capture(self, stream: int) -> None:
        # Thread-local: what another thread does meanwhile, such as allocating, is allowed.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(self._runtime.cudaStreamBeginCapture, stream, mode)

    def end_capture(self, stream: int) -> int:
        recorded = self._call(self._runtime.cudaStreamEndCapture, stream)
        try:
            return int(self._call(self._runtime.cudaGraphInstantiate, recorded, 0))
        finally:
            self._call(self._runtime.cudaGraphDestroy, recorded)

    def launch(self, graph: int, stream: int) -> None:
        self._call(self._runtime.cudaGraphLaunch, graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._call(self._runtime.cudaGraphExecDestroy, graph)

    def _call(self, function: Any, *arguments: Any) -> Any:  # noqa: ANN401 - the package has no types
        """Return what a function of the bindings gives beside its status.

        Raises:
            MemoryError: CUDA is out of memory.
            InferenceFailed: any other status but success.
        """
        status, *values = function(*arguments)
        if status == self._runtime.cudaError_t.cudaSuccess:
            return values[0] if len(values) == 1 else tuple(values)
        _, said = self._runtime.cudaGetErrorString(status)
        message = f"{function.__name__}: {said.decode() if said else status} ({int(status)})"
        if status == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
            self._runtime.cudaGetLastError()  # it would be the status of the next call, too
            raise MemoryError(message)
        raise InferenceFailed(f"CUDA: {message}")
