"""A GPU and a TensorRT of numpy and ONNX Runtime, which are strict about what a real one leaves undefined.

`FakeCuda` runs nothing when it is enqueued: a stream is a list of work that `synchronize` does. So a buffer of the host
that is changed, or read, too early holds the wrong bytes here, always. It refuses what is freed, unpinned, foreign to
the thread's GPU, or left over at the end. `FakeTensorRT` "builds" a plan that holds the ONNX graph and runs it through
ONNX Runtime on the bytes at the addresses it was given, with TensorRT's own method names and return values.
"""

from __future__ import annotations

import itertools
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np
import onnxruntime

from engines.errors import InferenceFailed
from engines.runtime.cuda import Gpu

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from numpy.typing import NDArray

    Work = Callable[[], object]

POISON = 0xAB
"""What fresh memory holds."""


class FakeCuda:
    """An `engines.runtime.cuda.Cuda`; `memory_bytes` is what can be allocated on it."""

    def __init__(self, *, memory_bytes: int = 2**40, name: str = "NVIDIA Fake 4") -> None:
        self.gpu = Gpu(0, name, (8, 9), memory_bytes, "CUDA 13.0")
        self.log: list[tuple[str, int]] = []  # what was asked of which stream, in order
        self.done: list[tuple[str, int]] = []  # what was done
        self.refuse_capture = False
        self.refuse_graphs = False
        self.waits: dict[int, Callable[[], object]] = {}  # called while a stream is synchronized
        self._entered: set[int] = set()
        self._numbers = itertools.count(1)
        self._memory: dict[int, NDArray[np.uint8]] = {}
        self._pinned: dict[int, NDArray[np.uint8]] = {}
        self._streams: dict[int, list[tuple[str, Work]]] = {}
        self._captures: dict[int, tuple[int, list[tuple[str, Work]]]] = {}
        self._graphs: dict[int, list[tuple[str, Work]]] = {}
        self._busy = threading.Lock()

    @property
    def alive(self) -> int:
        """How many things are not given back."""
        return len(self._memory) + len(self._pinned) + len(self._streams) + len(self._graphs)

    def enter(self) -> None:
        self._entered.add(threading.get_ident())

    def free_bytes(self) -> int:
        return self.gpu.memory_bytes - sum(block.nbytes for block in self._memory.values())

    def allocate(self, size: int) -> int:
        self._check_thread()
        if size > self.free_bytes():
            raise MemoryError(f"{size} bytes asked, {self.free_bytes()} free")
        address = next(self._numbers) << 32
        self._memory[address] = np.full(size, POISON, np.uint8)
        return address

    def free(self, address: int) -> None:
        assert not any(self._streams.values()), "memory is freed while work is enqueued"
        del self._memory[address]

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        self._check_thread()
        buffer = np.full(size, POISON, np.uint8)
        self._pinned[buffer.ctypes.data] = buffer
        return buffer

    def free_pinned(self, buffer: NDArray[np.uint8]) -> None:
        assert not any(self._streams.values()), "pinned memory is freed while work is enqueued"
        del self._pinned[buffer.ctypes.data]

    def create_stream(self) -> int:
        self._check_thread()
        stream = next(self._numbers)
        self._streams[stream] = []
        return stream

    def destroy_stream(self, stream: int) -> None:
        assert not self._streams.pop(stream), "a stream is destroyed while work is enqueued"

    def copy_in(self, target: int, source: NDArray[np.uint8], stream: int) -> None:
        self._check_pinned(source)
        self.enqueue("copy_in", stream, lambda: self._copy(self.at(target, source.nbytes), source))

    def copy_out(self, target: NDArray[np.uint8], source: int, stream: int) -> None:
        self._check_pinned(target)
        self.enqueue("copy_out", stream, lambda: self._copy(target, self.at(source, target.nbytes)))

    def enqueue(self, what: str, stream: int, work: Work) -> None:
        """Put work behind what a stream, which is not the default one, has to do; or into what is captured there."""
        self._check_thread()
        assert stream in self._streams, f"{stream} is no stream of ours"
        self.log.append((what, stream))
        if stream in self._captures:
            thread, recorded = self._captures[stream]
            assert thread == threading.get_ident(), "another thread enqueues into a capture"
            if self.refuse_capture:
                raise InferenceFailed("CUDA: operation not permitted when stream is capturing (900)")
            recorded.append((what, work))
        else:
            self._streams[stream].append((what, work))

    def synchronize(self, stream: int) -> None:
        self._check_thread()
        assert stream not in self._captures, "a stream is waited for while it is captured"
        self.log.append(("synchronize", stream))
        if stream in self.waits:
            self.waits[stream]()
        with self._busy:  # the computing of one stream at a time
            while self._streams[stream]:
                what, work = self._streams[stream].pop(0)
                work()
                self.done.append((what, stream))

    def begin_capture(self, stream: int) -> None:
        assert not self._streams[stream], "a capture begins while work is enqueued"
        self._captures[stream] = (threading.get_ident(), [])

    def end_capture(self, stream: int) -> int:
        _, recorded = self._captures.pop(stream)
        if self.refuse_graphs:
            raise MemoryError("cudaGraphInstantiate: out of memory (2)")
        graph = next(self._numbers)
        self._graphs[graph] = recorded
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self._check_thread()
        self.log.append(("launch", stream))
        self._streams[stream].extend(self._graphs[graph])

    def destroy_graph(self, graph: int) -> None:
        assert not any(self._streams.values()), "a graph is destroyed while work is enqueued"
        del self._graphs[graph]

    def at(self, address: int, size: int) -> NDArray[np.uint8]:
        """Return the memory at an address, which must be there and large enough."""
        block = self._memory[address]
        assert size <= block.nbytes, f"{size} bytes of a buffer of {block.nbytes}"
        return block[:size]

    def _copy(self, target: NDArray[np.uint8], source: NDArray[np.uint8]) -> None:
        for buffer in (target, source):
            assert _base(buffer) in {*map(_base, self._pinned.values()), *map(_base, self._memory.values())}, "freed"
        target[:] = source

    def _check_pinned(self, buffer: NDArray[np.uint8]) -> None:
        assert _base(buffer) in map(_base, self._pinned.values()), "a copy that is not pinned would not overlap"

    def _check_thread(self) -> None:
        assert threading.get_ident() in self._entered, "this thread has not entered the GPU"


def _base(array: NDArray[Any]) -> int:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return int(array.ctypes.data)


class _PlanFile(msgspec.Struct):
    """What a fake plan holds."""

    model: bytes
    shapes: list[dict[str, list[int]]]  # of each profile


@dataclass
class _Profile:
    shapes: dict[str, list[int]] = field(default_factory=dict)

    def set_shape(self, name: str, *, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:  # noqa: A002 - TensorRT's names
        assert min == opt == max
        self.shapes[name] = list(max)


class _Logger:
    Severity: ClassVar[Any] = type(
        "Severity", (), {name: name for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")}
    )

    def log(self, severity: object, message: str) -> None:
        raise NotImplementedError


class _Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"+"


class _Config:
    progress_monitor: object = None

    def __init__(self) -> None:
        self.flags = {"TF32"}
        self.profiles: list[_Profile] = []
        self._cache: _Cache | None = None

    def create_timing_cache(self, content: bytes) -> _Cache:
        return _Cache(content)

    def set_timing_cache(self, cache: _Cache, *, ignore_mismatch: bool) -> bool:
        if cache.content.startswith(b"other"):
            return False
        self._cache = cache
        return True

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def get_timing_cache(self) -> _Cache | None:
        return self._cache

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1


class _Builder:
    def __init__(self, logger: _Logger) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> dict[str, bytes]:
        assert flags == 1, "strongly typed and nothing else"
        return {}

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: dict[str, bytes], config: _Config) -> bytes:
        assert not config.flags
        shapes = [profile.shapes for profile in config.profiles]
        return msgspec.msgpack.encode(_PlanFile(network["model"], shapes))


class _Parser:
    def __init__(self, network: dict[str, bytes], logger: _Logger) -> None:
        self.network = network

    def parse_from_file(self, path: str) -> bool:
        self.network["model"] = Path(path).read_bytes()
        return True


class FakeTensorRT:
    """Stands in for the module `tensorrt` on a `FakeCuda`.

    Args:
        cuda: Where it runs.
        memory_per_pair: Scratch memory, in bytes, that a bucket takes for each of its pairs.
        change: Is applied to every logit, as a GPU's rounding, or a defect, would be.
    """

    __name__ = "tensorrt"
    __version__ = "11.4.0.106"

    ILogger = _Logger
    Builder = _Builder
    OnnxParser = _Parser

    class IProgressMonitor:
        """Shows nothing."""

    BuilderFlag = type("Flag", (), {"TF32": "TF32"})
    NetworkDefinitionCreationFlag = type("Flag", (), {"STRONGLY_TYPED": 0})
    ExecutionContextAllocationStrategy = type("Strategy", (), {"USER_MANAGED": "user"})

    def __init__(
        self,
        cuda: FakeCuda,
        *,
        memory_per_pair: int = 16,
        change: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda logits: logits,
    ) -> None:
        self.cuda = cuda
        self.memory_per_pair = memory_per_pair
        self.change = change
        self.says_at_run: dict[int, str] = {}  # by bucket: what it says while it does not run such a batch
        self.contexts: list[FakeContext] = []

    def nptype(self, dtype: object) -> object:
        return dtype

    def Runtime(self, logger: _Logger) -> _Runtime:  # noqa: N802 - TensorRT's name
        return _Runtime(self, logger)


class _Runtime:
    def __init__(self, trt: FakeTensorRT, logger: _Logger) -> None:
        self._trt, self._logger = trt, logger

    def deserialize_cuda_engine(self, plan: bytes) -> FakeCudaEngine | None:
        try:
            content = msgspec.msgpack.decode(plan, type=_PlanFile)
        except msgspec.DecodeError:
            self._logger.log("ERROR", "magicTag does not match")
            return None
        return FakeCudaEngine(self._trt, self._logger, content)


class FakeCudaEngine:
    """An ICudaEngine."""

    _TYPES: ClassVar = {"tensor(uint8)": "uint8", "tensor(int32)": "int32", "tensor(float)": "float32"}

    def __init__(self, trt: FakeTensorRT, logger: _Logger, content: _PlanFile) -> None:
        self.trt, self.logger, self.content = trt, logger, content
        self.session: Any = onnxruntime.InferenceSession(content.model, providers=["CPUExecutionProvider"])
        self._tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.num_io_tensors = len(self._tensors)
        self.num_optimization_profiles = len(content.shapes)

    def get_tensor_name(self, index: int) -> str:
        return str(self._tensors[index].name)

    def get_tensor_dtype(self, name: str) -> str:
        return self._TYPES[next(tensor.type for tensor in self._tensors if tensor.name == name)]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = next(tensor.shape for tensor in self._tensors if tensor.name == name)
        return (-1, *shape[1:])

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [tuple(self.content.shapes[index][name])] * 3

    def get_device_memory_size_for_profile_v2(self, index: int) -> int:
        return self.bucket(index) * self.trt.memory_per_pair

    def create_execution_context(self, strategy: object) -> FakeContext:
        assert strategy == "user"
        context = FakeContext(self)
        self.trt.contexts.append(context)
        return context

    def bucket(self, index: int) -> int:
        return next(iter(self.content.shapes[index].values()))[0]


class FakeContext:
    """An IExecutionContext that must not change once it has run: graphs hold what it was then."""

    def __init__(self, engine: FakeCudaEngine) -> None:
        self._engine = engine
        self._scratch = (0, 0)
        self._profile = -1
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._ran = False

    def set_device_memory(self, memory: int, size: int) -> None:
        self._change()
        self._scratch = (memory, size)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self._change()
        self._engine.trt.cuda.enqueue("set_profile", stream, lambda: None)
        self._profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._change()
        self._shapes[name] = shape
        return list(shape) == self._engine.content.shapes[self._profile][name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._change()
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        engine = self._engine
        bucket = engine.bucket(self._profile)
        if bucket in engine.trt.says_at_run:
            engine.logger.log("ERROR", engine.trt.says_at_run[bucket])
            return False
        assert self._addresses.keys() == {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        assert self._shapes.keys() == self._addresses.keys() - {"logits"}
        self._ran = True
        engine.trt.cuda.enqueue("compute", stream, self._compute)
        return True

    def _compute(self) -> None:
        engine, cuda = self._engine, self._engine.trt.cuda
        needed = engine.get_device_memory_size_for_profile_v2(self._profile)
        assert needed <= self._scratch[1]
        cuda.at(self._scratch[0], needed)[:] = POISON
        feed = {}
        for name, shape in self._shapes.items():
            dtype = np.dtype(engine.get_tensor_dtype(name))
            size = int(np.prod(shape)) * dtype.itemsize
            feed[name] = cuda.at(self._addresses[name], size).view(dtype).reshape(shape)
        logits = engine.trt.change(engine.session.run(None, feed)[0])
        cuda.at(self._addresses["logits"], logits.nbytes)[:] = logits.view(np.uint8)

    def _change(self) -> None:
        assert not self._ran, "a context is changed after it has run: a graph may have been captured of it"


@contextmanager
def nothing_left(cuda: FakeCuda) -> Generator[None]:
    """Check that everything that the block takes of the GPU is given back."""
    yield
    assert cuda.alive == 0, "memory, streams or graphs are left"
