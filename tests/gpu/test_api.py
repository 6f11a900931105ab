"""What the code asks of TensorRT and CUDA is what their packages offer, as far as that can be seen without a GPU.

Names are collected from the code itself. `tensorrt_rtx` imports, so its classes are asked. TensorRT 11's own bindings
do not import without its libraries: their shared object is read for the names that it registers, whole strings in its
constants, which says that a name is there, not on which class.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import engines
from engines.errors import EngineUnavailable, InferenceFailed
from engines.runtime import cuda
from tests import fake_gpu

if TYPE_CHECKING:
    from types import ModuleType

USED: dict[str, tuple[str, ...]] = {
    "Builder": ("create_network", "create_builder_config", "create_optimization_profile", "build_serialized_network"),
    "IBuilderConfig": (
        *("set_memory_pool_limit", "builder_optimization_level", "clear_flag", "add_optimization_profile"),
        *("create_timing_cache", "set_timing_cache", "get_timing_cache", "progress_monitor"),
    ),
    "IOptimizationProfile": ("set_shape",),
    "ITimingCache": ("serialize",),
    "IProgressMonitor": ("phase_start", "step_complete", "phase_finish"),
    "OnnxParser": ("parse_from_file", "num_errors", "get_error"),
    "ParserError": ("node_operator", "node_name", "node", "desc", "code"),
    "Runtime": ("deserialize_cuda_engine",),
    "ICudaEngine": (
        *("num_io_tensors", "get_tensor_name", "get_tensor_dtype", "get_tensor_shape", "num_optimization_profiles"),
        *("get_tensor_profile_shape", "get_device_memory_size_for_profile_v2", "create_execution_context"),
    ),
    "IExecutionContext": (
        *("set_device_memory", "set_optimization_profile_async", "set_input_shape", "set_tensor_address"),
        "execute_async_v3",
    ),
    "ILogger": ("log", "Severity"),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "BuilderFlag": ("TF32",),
    "MemoryPoolType": ("WORKSPACE",),
    "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
}
AHEAD_OF_TIME = ("num_compute_capabilities", "set_compute_capability", "ComputeCapability")  # tensorrt_rtx only
GONE = ("execute_async_v2", "EXPLICIT_BATCH", "OBEY_PRECISION_CONSTRAINTS", "get_binding_index")
"""What TensorRT 11 no longer has, which older code still calls."""

MODULES = ("build/compile/builder.py", "runtime/lanes.py", "runtime/tensorrt.py", "runtime/messages.py")


@pytest.fixture(scope="module")
def rtx() -> ModuleType:
    """Give TensorRT for RTX."""
    return pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def registered() -> set[str]:
    """Give every whole string in the shared object of TensorRT 11's bindings."""
    try:
        files = importlib.metadata.files("tensorrt-cu13-bindings") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("tensorrt-cu13-bindings is not installed")
    (library,) = (Path(str(file.locate())) for file in files if file.name == "tensorrt.so")
    return {found.decode() for found in re.findall(rb"[A-Za-z_][A-Za-z0-9_]+", library.read_bytes())}


@pytest.mark.parametrize("kind", USED)
def test_class_of_tensorrt_rtx_has_what_is_used(rtx: ModuleType, kind: str) -> None:
    """On the class that the code asks for it."""
    missing = [name for name in USED[kind] if not hasattr(getattr(rtx, kind), name)]
    assert not missing


@pytest.mark.parametrize("kind", USED)
def test_bindings_of_tensorrt_11_register_what_is_used(registered: set[str], kind: str) -> None:
    """By name."""
    assert not {kind, *USED[kind]} - registered


def test_bindings_of_tensorrt_11_lack_what_is_gone(registered: set[str]) -> None:
    """Without this, the test above could pass on a search that finds everything."""
    assert not registered & set(GONE)
    assert importlib.metadata.version("tensorrt-cu13-bindings").startswith("11.")


def test_code_uses_nothing_of_tensorrt_that_is_not_listed(rtx: ModuleType) -> None:
    """Each attribute in the modules that talk to TensorRT is in the list, is Python's, or is our own."""
    known = {name for names in USED.values() for name in names} | USED.keys() | set(AHEAD_OF_TIME) | {"nptype"}
    public = {name for kind in USED for name in dir(getattr(rtx, kind)) if not name.startswith("_")} | set(dir(rtx))
    public = {name for name in public if not name.startswith("_")}
    ours = {"name", "log", "ERROR", "INTERNAL_ERROR", "WARNING", "engine", "update", "float32", "uint8"}  # or of others
    used: set[str] = set()
    for module in MODULES:
        tree = ast.parse((Path(engines.__file__).parent / module).read_text())
        used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert used & public - known - ours == set()


def test_fake_tensorrt_has_no_method_that_tensorrt_lacks(rtx: ModuleType) -> None:
    """What passes on the fake must exist."""
    pairs = (
        (fake_gpu.FakeContext, rtx.IExecutionContext),
        (fake_gpu._Builder, rtx.Builder),
        (fake_gpu._Config, rtx.IBuilderConfig),
        (fake_gpu._Profile, rtx.IOptimizationProfile),
        (fake_gpu._Parser, rtx.OnnxParser),
        (fake_gpu._Runtime, rtx.Runtime),
    )
    for fake, real in pairs:
        own = {name for name, value in vars(fake).items() if callable(value) and not name.startswith("_")}
        assert own <= set(dir(real)), fake
    engine = {name for name in vars(fake_gpu.FakeCudaEngine) if not name.startswith("_")} - {"bucket"}
    assert engine <= set(dir(rtx.ICudaEngine))


def test_cuda_without_a_gpu_says_what_to_look_at() -> None:
    """With CUDA's own words."""
    pytest.importorskip("cuda.bindings.runtime")
    with pytest.raises(EngineUnavailable, match=r"may this container use it|counted from 0"):
        cuda.open_gpu(999)


def test_cuda_calls_fit_the_bindings() -> None:
    """Each call of the seam reaches CUDA with arguments that the bindings take, and comes back as an error of ours."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    if int(runtime.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("there is a GPU, on which these calls would work on made-up addresses")
    gpu = object.__new__(cuda.CudaBindings)
    gpu._runtime, gpu.index = runtime, 0
    buffer = np.zeros(8, np.uint8)
    calls: dict[str, tuple[Any, ...]] = {
        "enter": (),
        "free_bytes": (),
        "allocate": (8,),
        "free": (16,),
        "allocate_pinned": (8,),
        "free_pinned": (buffer,),
        "create_stream": (),
        "destroy_stream": (16,),
        "copy_in": (16, buffer, 16),
        "copy_out": (buffer, 16, 16),
        "synchronize": (16,),
        "begin_capture": (16,),
        "launch": (16, 16),
        "destroy_graph": (16,),
    }
    assert calls.keys() | {"gpu", "end_capture"} == {name for name in vars(cuda.Cuda) if not name.startswith("_")}
    for name, arguments in calls.items():
        with pytest.raises(InferenceFailed, match=r"CUDA: cuda\w+: .* \(\d+\)"):
            getattr(gpu, name)(*arguments)


class _Answers:
    """CUDA's bindings, answering one status."""

    cudaError_t = importlib.import_module("types").SimpleNamespace(cudaSuccess=0, cudaErrorMemoryAllocation=2)  # noqa: N815 - CUDA's name

    def __init__(self, *answer: object) -> None:
        self.answer = answer
        self.cleared = False

    def cudaMalloc(self, size: int) -> tuple[object, ...]:  # noqa: N802 - CUDA's name
        return self.answer

    def cudaGetErrorString(self, status: object) -> tuple[int, bytes]:  # noqa: N802 - CUDA's name
        return 0, b"out of memory"

    def cudaGetLastError(self) -> tuple[int]:  # noqa: N802 - CUDA's name
        self.cleared = True
        return (0,)


def test_cuda_out_of_memory_is_memory_error() -> None:
    """Which engines and batchers know what to do with; the status does not stay behind for the next call."""
    answers = _Answers(2, None)
    gpu = object.__new__(cuda.CudaBindings)
    gpu._runtime = answers
    with pytest.raises(MemoryError, match="cudaMalloc: out of memory"):
        gpu.allocate(8)
    assert answers.cleared
    gpu._runtime = _Answers(0, 4096)
    assert gpu.allocate(8) == 4096
