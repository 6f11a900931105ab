"""`engines.runtime.tensorrt` on a fake GPU: order, shapes, streams, lifetimes, memory."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.build.compile import builder
from engines.errors import EngineUnavailable, InferenceFailed
from engines.runtime.tensorrt import TensorRtEngine, parts
from tests.fake_gpu import FakeCuda, FakeTensorRT
from tests.unit.test_runtime import batch, graph, manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUCKETS = (1, 4, 8)


@pytest.fixture
def cuda() -> FakeCuda:
    """Give a GPU with room for everything."""
    made = FakeCuda()
    made.enter()
    return made


@pytest.fixture
def plan(tmp_path: Path, cuda: FakeCuda) -> bytes:
    """Give a plan of a graph whose logit is mean pixel / (7 - sum of the ids)."""
    path = graph(tmp_path / "model.onnx")
    return builder.build(FakeTensorRT(cuda), path, manifest().inputs, builder.Target(buckets=BUCKETS)).plan


@pytest.fixture
def engine(plan: bytes, cuda: FakeCuda) -> Iterator[TensorRtEngine]:
    """Give a loaded engine; at the end nothing may be left of it."""
    made = TensorRtEngine(plan, manifest(), trt=FakeTensorRT(cuda), cuda=cuda)
    cuda.log.clear()
    yield made
    made.close()
    assert cuda.alive == 0


def expected(size: int) -> list[float]:
    """Return the logits of `batch(size)`."""
    return [row / 6 for row in range(1, size + 1)]


@pytest.mark.parametrize("size", range(1, 9))
def test_infer_gives_the_graphs_logits_in_order(engine: TensorRtEngine, size: int) -> None:
    """Of every batch size up to the largest bucket, one float32 logit per pair."""
    logits = engine.infer(batch(size))
    assert logits.dtype == np.float32
    assert logits.tolist() == pytest.approx(expected(size))


def test_infer_after_a_larger_batch_has_nothing_of_it(engine: TensorRtEngine) -> None:
    """Buffers are used again; what was in them is not."""
    engine.infer(batch(8, first_id=3))
    assert engine.infer(batch(3)).tolist() == pytest.approx(expected(3))


def test_infer_logits_survive_the_next_batch(engine: TensorRtEngine) -> None:
    """What is returned is not a view of a buffer that is used again."""
    first = engine.infer(batch(4))
    engine.infer(batch(4, first_id=3))
    assert first.tolist() == pytest.approx(expected(4))


def test_infer_of_a_bucket_is_one_launch_and_one_wait(engine: TensorRtEngine, cuda: FakeCuda) -> None:
    """Copies and computing are in the graph that was captured at start."""
    engine.infer(batch(8))
    assert [what for what, _ in cuda.log] == ["launch", "synchronize"]
    assert [what for what, _ in cuda.done[-5:]] == ["copy_in", "copy_in", "copy_in", "compute", "copy_out"]


def test_infer_uses_the_lanes_own_stream_only(engine: TensorRtEngine, cuda: FakeCuda) -> None:
    """Whatever the batch is split into, it waits for no other stream."""
    engine.infer(batch(5))
    assert len({stream for _, stream in cuda.log}) == 1


def test_infer_of_two_threads_overlaps_on_two_streams(engine: TensorRtEngine, cuda: FakeCuda) -> None:
    """While one batch is waited for, the other one is copied and enqueued: neither waits for the other's stream."""
    streams = sorted(cuda._streams)
    assert len(streams) == engine.concurrency == 2
    together = threading.Barrier(2)
    cuda.waits = dict.fromkeys(streams, lambda: together.wait(timeout=30))  # both have enqueued, neither is done
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(engine.infer, [batch(4), batch(4, first_id=3)]))
    assert found[0].tolist() == pytest.approx(expected(4))
    assert found[1].tolist() == pytest.approx([row / 4 for row in range(1, 5)])
    assert {stream for what, stream in cuda.log if what == "launch"} == set(streams)


def test_infer_from_many_threads_keeps_batches_apart(engine: TensorRtEngine) -> None:
    """A third thread waits for a lane."""
    sizes = [1 + index % 8 for index in range(60)]
    with ThreadPoolExecutor(5) as threads:
        for size, logits in zip(sizes, threads.map(lambda size: engine.infer(batch(size)), sizes), strict=True):
            assert logits.tolist() == pytest.approx(expected(size))


def test_start_without_capture_runs_all_the_same(plan: bytes, cuda: FakeCuda, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be captured is enqueued each time, and a warning says so."""
    cuda.refuse_capture = True
    engine = TensorRtEngine(plan, manifest(), trt=FakeTensorRT(cuda), cuda=cuda)
    cuda.log.clear()
    assert engine.infer(batch(4)).tolist() == pytest.approx(expected(4))
    assert [what for what, _ in cuda.log] == [*["copy_in"] * 3, "compute", "copy_out", "synchronize"]
    assert "batches of 4 run without a CUDA graph" in caplog.text
    engine.close()
    assert cuda.alive == 0


def test_start_without_memory_for_graphs_runs_all_the_same(plan: bytes, cuda: FakeCuda) -> None:
    """A graph is worth a little time, not a bucket."""
    cuda.refuse_graphs = True
    engine = TensorRtEngine(plan, manifest(), trt=FakeTensorRT(cuda), cuda=cuda)
    assert engine.infer(batch(8)).tolist() == pytest.approx(expected(8))
    assert engine.manifest.max_batch == 8


def test_start_shares_scratch_memory_between_the_contexts_of_a_lane(plan: bytes, cuda: FakeCuda) -> None:
    """Two lanes take the largest bucket's twice, not every bucket's."""
    trt = FakeTensorRT(cuda, memory_per_pair=10_000)
    engine = TensorRtEngine(plan, manifest(), trt=trt, cuda=cuda)
    assert len({context._scratch for context in trt.contexts}) == engine.concurrency
    assert len(trt.contexts) == engine.concurrency * len(BUCKETS)
    engine.close()


def test_start_with_less_memory_takes_smaller_buckets(
    plan: bytes, cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine's manifest says what is left, which is what the worker batches."""
    small = FakeCuda(memory_bytes=2 * 4 * 1000 + 2000)
    engine = TensorRtEngine(plan, manifest(), trt=FakeTensorRT(small, memory_per_pair=1000), cuda=small)
    assert engine.manifest.max_batch == 4
    assert engine.infer(batch(4)).tolist() == pytest.approx(expected(4))
    assert "no memory for batches of 8" in caplog.text
    engine.close()
    assert small.alive == 0


def test_start_without_memory_says_what_to_look_at(plan: bytes) -> None:
    """Nothing is left behind either."""
    full = FakeCuda(memory_bytes=100)
    with pytest.raises(EngineUnavailable, match="what else runs on this GPU"):
        TensorRtEngine(plan, manifest(), trt=FakeTensorRT(full), cuda=full)
    assert full.alive == 0


def test_infer_out_of_memory_splits_the_batch_from_then_on(plan: bytes, cuda: FakeCuda) -> None:
    """Pairs before and behind the part that did not fit come back in order."""
    cuda.refuse_capture = True
    trt = FakeTensorRT(cuda)
    engine = TensorRtEngine(plan, manifest(), trt=trt, cuda=cuda)
    trt.says_at_run[8] = "[executionContext] Error Code 2: OutOfMemory (Requested size was 1 bytes.)"
    assert engine.infer(batch(8)).tolist() == pytest.approx(expected(8))
    cuda.log.clear()
    trt.says_at_run.clear()
    assert engine.infer(batch(8)).tolist() == pytest.approx(expected(8))
    assert [what for what, _ in cuda.log].count("compute") == 2
    engine.close()


def test_infer_out_of_memory_for_one_pair_stops_the_worker(plan: bytes, cuda: FakeCuda) -> None:
    """It is no pair's fault: `MemoryError`, which no batch is halved for any more."""
    cuda.refuse_capture = True
    trt = FakeTensorRT(cuda)
    engine = TensorRtEngine(plan, manifest(), trt=trt, cuda=cuda)
    trt.says_at_run |= dict.fromkeys(BUCKETS, "out of memory")
    with pytest.raises(MemoryError):
        engine.infer(batch(8))
    trt.says_at_run.clear()
    assert engine.infer(batch(1)).tolist() == pytest.approx(expected(1)), "the lane is free again"


def test_infer_that_tensorrt_refuses_says_what_it_said(plan: bytes, cuda: FakeCuda) -> None:
    """`execute_async_v3` returns no reason; its log does."""
    cuda.refuse_capture = True
    trt = FakeTensorRT(cuda)
    engine = TensorRtEngine(plan, manifest(), trt=trt, cuda=cuda)
    trt.says_at_run[1] = "IExecutionContext: unspecified launch failure"
    with pytest.raises(InferenceFailed, match="batch of 1: IExecutionContext: unspecified launch failure"):
        engine.infer(batch(1))
    trt.says_at_run.clear()
    assert engine.infer(batch(1)).tolist() == pytest.approx(expected(1))


def test_infer_logit_that_is_not_finite_fails(engine: TensorRtEngine) -> None:
    """As on the CPU."""
    with pytest.raises(InferenceFailed, match="finite"):
        engine.infer(batch(first_id=7))


@pytest.mark.parametrize("size", [0, 9])
def test_infer_batch_outside_the_cap_fails(engine: TensorRtEngine, size: int) -> None:
    """The largest bucket is the cap, not that of the CPU engine."""
    with pytest.raises(InferenceFailed, match="this engine takes 1 to 8"):
        engine.infer(batch(size))


def test_start_with_a_cap_makes_no_bucket_beyond_it(plan: bytes, cuda: FakeCuda) -> None:
    """What can never be used takes no memory."""
    trt = FakeTensorRT(cuda)
    engine = TensorRtEngine(plan, manifest(), trt=trt, cuda=cuda, max_batch=3)
    assert engine.manifest.max_batch == 3
    assert len(trt.contexts) == engine.concurrency * 2
    assert engine.infer(batch(3)).tolist() == pytest.approx(expected(3))


def test_start_with_a_plan_that_is_none_says_to_build_it(cuda: FakeCuda) -> None:
    """With what TensorRT said."""
    with pytest.raises(EngineUnavailable, match=r"magicTag does not match.*build it again"):
        TensorRtEngine(b"none", manifest(), trt=FakeTensorRT(cuda), cuda=cuda)


def test_start_with_a_plan_of_another_graph_is_refused(plan: bytes, cuda: FakeCuda) -> None:
    """Inputs are compared by name, type and shape."""
    specs = manifest().inputs
    other = msgspec.structs.replace(manifest(), inputs=(msgspec.structs.replace(specs[0], dtype="float32"), *specs[1:]))
    with pytest.raises(EngineUnavailable, match="the manifest of"):
        TensorRtEngine(plan, other, trt=FakeTensorRT(cuda), cuda=cuda)


def test_device_says_gpu_tensorrt_and_buckets(engine: TensorRtEngine) -> None:
    """What people see in logs and metrics."""
    assert engine.device == "cuda:0 NVIDIA Fake 4 (tensorrt 11.4.0.106, batches of 1, 4, 8)"


@pytest.mark.parametrize(
    ("size", "buckets"),
    [(1, [1]), (5, [8]), (9, [8, 1]), (13, [8, 8]), (16, [32]), (20, [32]), (40, [64]), (65, [64, 1]), (128, [64, 64])],
)
def test_parts_fill_at_least_half_of_a_bucket(size: int, buckets: list[int]) -> None:
    """Small remainders go into small buckets."""
    assert [part.bucket for part in parts(size, (1, 8, 32, 64))] == buckets


@given(size=st.integers(1, 300), buckets=st.sets(st.integers(1, 64), min_size=1))
def test_parts_hold_every_pair_once_in_order(size: int, buckets: set[int]) -> None:
    """Whatever the buckets are, also without one for a single pair."""
    rows: list[int] = []
    for part in parts(size, sorted(buckets)):
        assert 0 < part.stop - part.start <= part.bucket
        rows.extend(range(part.start, part.stop))
    assert rows == list(range(size))


def test_close_gives_everything_back(plan: bytes, cuda: FakeCuda) -> None:
    """Memory of the GPU and of the host, streams and graphs."""
    engine: Any = TensorRtEngine(plan, manifest(), trt=FakeTensorRT(cuda), cuda=cuda)
    assert cuda.alive > 0
    engine.close()
    assert cuda.alive == 0
