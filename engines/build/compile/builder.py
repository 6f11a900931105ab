"""An ONNX graph → a TensorRT plan. The same code for `tensorrt` and for `tensorrt_rtx`, which builds without a GPU.

The network is strongly typed: `engines.build.compile.cast` decided every precision. There is one optimization profile
for each bucket, of exactly that batch (the runtime fills the last batch up), so kernels are chosen for the shapes that
run, and a captured CUDA graph stays valid. Nothing here needs a GPU, but TensorRT itself does, for timing kernels.
"""

from __future__ import annotations

import importlib
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from engines.errors import EngineUnavailable, GraphUnsupported
from engines.runtime.messages import logger_of

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path
    from types import ModuleType

    from rich.progress import Progress

    from engines.contract import TensorSpec

BACKENDS: Final = ("tensorrt", "tensorrt_rtx")

BUCKETS: Final = (1, 8, 32, 64)
"""Batches that a plan is built for unless told otherwise: one update, light load, the CPU engine's cap, full load."""

_MAX_ERRORS: Final = 10


@dataclass(frozen=True)
class Target:
    """What to build for.

    Attributes:
        buckets: Batch sizes, ascending.
        compute_capability: (8, 9) builds ahead of time for that architecture, which only `tensorrt_rtx` can; None: the
            GPU in this machine.
        workspace_bytes: GPU memory that kernels may be tried with; None: all of it.
        optimization_level: 0 (quick build) to 5 (quick plan); None: TensorRT's own default, 3.
        tf32: Whether products of float32 may drop mantissa bits; not, since who asks for fp32 wants its numbers.
    """

    buckets: tuple[int, ...] = BUCKETS
    compute_capability: tuple[int, int] | None = None
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    tf32: bool = False


@dataclass(frozen=True)
class Built:
    """A plan and what it took."""

    plan: bytes
    timing_cache: bytes
    parse_s: float
    build_s: float


def load_backend(name: str) -> ModuleType:
    """Return TensorRT's module.

    Raises:
        EngineUnavailable: it is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: one of its libraries is missing
        raise EngineUnavailable(
            f"{name} cannot be imported ({error}): pip install 'mismatch-streamer[gpu]' on the machine with the GPU"
        ) from error


def build(
    trt: ModuleType,
    model: Path,
    inputs: Sequence[TensorSpec],
    target: Target,
    *,
    timing_cache: bytes = b"",
    progress: Progress | None = None,
) -> Built:
    """Return the plan of an ONNX graph.

    Args:
        trt: `tensorrt` or `tensorrt_rtx`.
        model: The graph in the precision to run; external weights stand beside it.
        inputs: Of the graph, as the manifest says.
        target: What to build for.
        timing_cache: Of an earlier build with the same TensorRT on the same GPU; another's is ignored.
        progress: Shows the phases of the build.

    Raises:
        GraphUnsupported: TensorRT does not know an operator, or cannot build the graph; the message reports each.
        EngineUnavailable: the builder does not start, or cannot build for this target.
    """
    logger = logger_of(trt)
    builder = trt.Builder(logger)
    if builder is None:
        raise EngineUnavailable(f"TensorRT does not start here: {logger.said()}")
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    started = time.perf_counter()
    _parse(trt, network, logger, model)
    parsed = time.perf_counter()
    config = _config(trt, builder, target, inputs)
    _set_timing_cache(config, timing_cache)
    if progress is not None:
        config.progress_monitor = _monitor(trt, progress)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise GraphUnsupported(f"TensorRT cannot build {model.name}: {logger.said() or 'it does not say why'}")
    return Built(
        plan=bytes(plan),
        timing_cache=_timing_cache_of(config),
        parse_s=parsed - started,
        build_s=time.perf_counter() - parsed,
    )


def _parse(trt: ModuleType, network: Any, logger: Any, model: Path) -> None:  # noqa: ANN401 - as above
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(model)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [_line(error) for error in errors[:_MAX_ERRORS]]
    if len(errors) > _MAX_ERRORS:
        lines.append(f"… and {len(errors) - _MAX_ERRORS} more")
    raise GraphUnsupported(
        f"TensorRT cannot read {model.name}:\n  " + "\n  ".join(lines or [logger.said()]) + "\n"
        "Rewrite these operators in the model's own code (engines/build/models/), or run the release with "
        "STREAMER_ENGINE__RUNTIME=onnx-cuda, which knows more of them and needs onnxruntime-gpu in place of "
        "onnxruntime (README, TensorRT)"
    )


def _line(error: Any) -> str:  # noqa: ANN401 - as above
    node = f"{error.node_operator() or 'graph'} {error.node_name() or ''}".strip()
    return f"{node} (node {error.node()}): {error.desc()} [{error.code().name}]"


def _config(trt: ModuleType, builder: Any, target: Target, inputs: Sequence[TensorSpec]) -> Any:  # noqa: ANN401 - as above
    config = builder.create_builder_config()
    if target.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.workspace_bytes)
    if target.optimization_level is not None:
        config.builder_optimization_level = target.optimization_level
    if not target.tf32:  # TensorRT's default is to allow it
        config.clear_flag(trt.BuilderFlag.TF32)
    if target.compute_capability is not None:
        _aim(trt, config, target.compute_capability)
    for bucket in target.buckets:
        profile = builder.create_optimization_profile()
        for spec in inputs:
            shape = tuple(bucket if size is None else size for size in spec.shape)
            profile.set_shape(spec.name, min=shape, opt=shape, max=shape)
        config.add_optimization_profile(profile)
    return config


def _set_timing_cache(config: Any, content: bytes) -> None:  # noqa: ANN401 - as above
    """Let the build use what an earlier one has timed; another GPU's or another version's times are left out."""
    with _quiet_about_rtx():
        if not config.set_timing_cache(config.create_timing_cache(content), ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _timing_cache_of(config: Any) -> bytes:  # noqa: ANN401 - as above
    with _quiet_about_rtx():
        cache = config.get_timing_cache()
        return bytes(cache.serialize()) if cache is not None else b""


@contextmanager
def _quiet_about_rtx() -> Generator[None]:
    """TensorRT for RTX has these calls for compatibility, does nothing in them, and says so each time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _aim(trt: ModuleType, config: Any, capability: tuple[int, int]) -> None:  # noqa: ANN401 - as above
    """Build for an architecture that is not at hand."""
    name = f"SM{capability[0]}{capability[1]}"
    known = getattr(trt, "ComputeCapability", None)
    if known is None:
        raise EngineUnavailable(
            f"{trt.__name__} builds for the GPU in this machine only: run it there, or tensorrt_rtx"
        )
    if not hasattr(known, name):
        names = sorted(name for name in dir(known) if name.startswith("SM"))
        raise EngineUnavailable(
            f"{trt.__name__} {trt.__version__} cannot build for {name}; it can for {', '.join(names)}"
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(known, name), 0)


def _monitor(trt: ModuleType, progress: Progress) -> Any:  # noqa: ANN401 - as above
    """Return what shows TensorRT's phases as bars; they nest."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._bars: dict[str, Any] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            indent = "  " if parent_phase else ""
            self._bars[phase_name] = progress.add_task(f"{indent}{phase_name}", total=num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress.update(self._bars[phase_name], completed=step + 1)
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            progress.remove_task(self._bars.pop(phase_name))

    return Monitor()
