"""The GPU engine: a TensorRT plan, run through its own API. No torch.

A plan is loaded, never built: `streamer compile` does that, in a job on the GPU it is for. Two lanes (see
`engines.runtime.lanes`) are double buffering: `concurrency` is 2, and while one batch computes the next one is copied.

A batch runs in the smallest bucket that it half fills, or in several; see `parts`. Where a bucket does not fit into the
GPU's memory, smaller ones do its work.
"""

from __future__ import annotations

import importlib
import logging
import queue
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from engines.errors import EngineUnavailable
from engines.runtime.inputs import checked, checked_logits
from engines.runtime.lanes import OUTPUT, Lane, Plan
from engines.runtime.messages import logger_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from engines.contract import Batch, Manifest
    from engines.runtime.cuda import Cuda

LANES: Final = 2
"""One computes, one copies; a third would only add waiting."""

BACKENDS: Final = ("tensorrt", "tensorrt_rtx")
"""Modules with TensorRT's API, the first one that is installed is taken."""

_log: Final = logging.getLogger(__name__)


class Part(NamedTuple):
    """Rows `start` to `stop` of a batch, which run as a batch of `bucket`."""

    start: int
    stop: int
    bucket: int


def parts(size: int, buckets: Sequence[int]) -> Iterator[Part]:
    """Yield how a batch of `size` is run in these buckets, ascending.

    What remains goes into the smallest bucket that holds it if it fills at least half of it, else as much as fills
    the largest bucket below goes first: 9 pairs for buckets of 1, 8, 32 are 8 and 1, not 32.
    """
    start = 0
    while start < size:
        left = size - start
        holding = next((bucket for bucket in buckets if bucket >= left), None)
        below = max((bucket for bucket in buckets if bucket <= left), default=None)
        assert holding is not None or below is not None
        if below is None or (holding is not None and holding <= 2 * left):
            assert holding is not None
            yield Part(start, size, holding)
            return
        yield Part(start, start + below, below)
        start += below


def load_backend() -> ModuleType:
    """Return TensorRT's module.

    Raises:
        EngineUnavailable: none is installed, or its libraries cannot be loaded.
    """
    reasons: list[str] = []
    for name in BACKENDS:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: one of its libraries is missing
            reasons.append(str(error))
    raise EngineUnavailable(f"TensorRT cannot be imported ({reasons[0]}): pip install 'mismatch-streamer[gpu]'")


class TensorRtEngine:
    """An `engines.contract.Engine` on a GPU.

    Args:
        plan: A serialized plan; see `engines.plans`.
        manifest: Of the release that it was built from; a plan that says otherwise is refused. The engine's own
            manifest says the largest bucket for `max_batch`, or `max_batch`.
        trt: TensorRT's module.
        cuda: The GPU.
        max_batch: A cap.

    Raises:
        EngineUnavailable: TensorRT does not load the plan, or it is not what the manifest says, or the GPU has no
            memory for its smallest bucket.
        InferenceFailed: CUDA fails.
    """

    concurrency = LANES

    def __init__(
        self,
        plan: bytes,
        manifest: Manifest,
        *,
        trt: ModuleType,
        cuda: Cuda,
        max_batch: int | None = None,
    ) -> None:
        cuda.enter()
        self._cuda = cuda
        self._plan = _load(plan, manifest, trt)
        self._lanes: queue.LifoQueue[Lane] = queue.LifoQueue()  # the last one used is warm in the caches
        buckets = sorted(self._plan.profiles)
        if max_batch is not None:  # the one that holds it is the largest that is needed
            buckets = [*(one for one in buckets if one < max_batch), *[one for one in buckets if one >= max_batch][:1]]
        self._buckets = self._fit(buckets)
        largest = self._buckets[-1]
        self._manifest = msgspec.structs.replace(manifest, max_batch=min(max_batch or largest, largest))
        self._version = f"{trt.__name__} {trt.__version__}"

    @property
    def manifest(self) -> Manifest:
        """The release this engine runs."""
        return self._manifest

    @property
    def device(self) -> str:
        """Where it runs, for people."""
        gpu = self._cuda.gpu
        return f"cuda:{gpu.index} {gpu.name} ({self._version}, batches of {', '.join(map(str, self._buckets))})"

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        """Return logits (B,), float32: the log-odds, before calibration, that picture and text do NOT match.

        Raises:
            InferenceFailed: the batch is not what the manifest says, CUDA or TensorRT fails, or a logit is not finite.
            MemoryError: not even the smallest bucket has memory to run in.
        """
        inputs = checked(batch, self._manifest)
        self._cuda.enter()
        lane = self._lanes.get()
        try:
            logits = self._run(lane, inputs, len(batch))
        finally:
            self._lanes.put(lane)
        return checked_logits(logits, len(batch))

    def close(self) -> None:
        """Free the memory; no call may follow."""
        self._cuda.enter()
        for lane in self._all_lanes():
            lane.close()
        del self._plan

    def _run(self, lane: Lane, inputs: dict[str, NDArray[Any]], size: int) -> NDArray[np.float32]:
        done: list[NDArray[np.float32]] = []
        start = 0
        while start < size:
            part = next(parts(size - start, self._buckets))
            stop = start + part.stop
            try:
                done.append(lane.run({name: rows[start:stop] for name, rows in inputs.items()}, part.bucket))
            except MemoryError as error:
                self._shrink(part.bucket, error)
            else:
                start = stop
        return np.concatenate(done)

    def _shrink(self, bucket: int, error: MemoryError) -> None:
        """Go on with the buckets below one that has no memory to run in.

        Raises:
            MemoryError: there are none.
        """
        smaller = [one for one in self._buckets if one < bucket]
        if not smaller:
            raise error
        _log.warning("the GPU is out of memory for batches of %d (%s): they run in smaller ones now", bucket, error)
        self._buckets = smaller  # a new list: the other lane's thread may be reading the former one

    def _fit(self, buckets: list[int]) -> list[int]:
        """Make the lanes for as many buckets, from the smallest up, as the GPU has memory for."""
        reason: MemoryError | None = None
        for count in range(len(buckets), 0, -1):
            try:
                for _ in range(LANES):
                    lane = Lane(self._cuda, self._plan, buckets[:count])
                    self._lanes.put(lane)
                    lane.warm()
            except MemoryError as error:
                reason = error
                for lane in self._all_lanes():
                    lane.close()
                _log.warning("the GPU has no memory for batches of %d: %s", buckets[count - 1], error)
            except BaseException:
                for lane in self._all_lanes():
                    lane.close()
                raise
            else:
                return buckets[:count]
        free_mb = self._cuda.free_bytes() // 2**20
        raise EngineUnavailable(
            f"{self._cuda.gpu.name} has {free_mb} MB free, too little for this plan's smallest batch ({reason}): "
            "what else runs on this GPU?"
        )

    def _all_lanes(self) -> Iterator[Lane]:
        while not self._lanes.empty():
            yield self._lanes.get_nowait()


def _load(plan: bytes, manifest: Manifest, trt: ModuleType) -> Plan:
    messages = logger_of(trt)
    runtime = trt.Runtime(messages)
    engine = runtime.deserialize_cuda_engine(plan) if runtime is not None else None
    if engine is None:
        raise EngineUnavailable(f"TensorRT does not load the plan ({messages.said()}): build it again on this GPU")
    found = {name: (str(dtype), shape) for name, dtype, shape in _tensors(engine, trt)}
    expected = {spec.name: (spec.dtype, spec.shape[1:]) for spec in manifest.inputs} | {OUTPUT: ("float32", ())}
    if found != expected:
        raise EngineUnavailable(f"the plan takes and gives {found}, the manifest of {manifest.release} says {expected}")
    first = manifest.inputs[0].name
    profiles = {
        int(engine.get_tensor_profile_shape(first, index)[2][0]): index
        for index in range(engine.num_optimization_profiles)
    }
    return Plan(trt, runtime, engine, profiles, manifest.inputs, messages)


def _tensors(engine: Any, trt: ModuleType) -> Iterator[tuple[str, np.dtype[Any], tuple[int, ...]]]:  # noqa: ANN401 - as above
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        yield name, np.dtype(trt.nptype(engine.get_tensor_dtype(name))), tuple(engine.get_tensor_shape(name))[1:]
