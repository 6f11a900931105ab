"""`benchmarks/gpu_check.py`, as far as it runs without a GPU: on the fake one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import gpu_check
import gpu_figures
import msgspec
import numpy as np
import pytest
import typer
from rich.progress import Progress

from engines import releases
from engines.build.compile import builder, cli, gate
from engines.errors import EngineUnavailable
from engines.runtime.loader import Place
from engines.runtime.onnx import OnnxEngine
from engines.runtime.tensorrt import TensorRtEngine
from tests.fake_gpu import FakeCuda, FakeTensorRT
from tests.unit.test_runtime import graph, manifest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure for moments: the figures of a fake say nothing."""
    monkeypatch.setattr(gpu_figures, "SECONDS", 0.01)
    monkeypatch.setattr(gpu_check, "interpreter_share", lambda _: 1.0)


def engines(tmp_path: Path, *, drift: float = 0.0) -> tuple[FakeCuda, TensorRtEngine, OnnxEngine]:
    """Return a fake GPU, an engine on it that is off by `drift`, and the CPU's."""
    cuda = FakeCuda()
    cuda.enter()
    trt = FakeTensorRT(cuda, change=lambda logits: logits + np.float32(drift))
    path = graph(tmp_path / "model.onnx")
    plan = builder.build(trt, path, manifest().inputs, builder.Target(buckets=(1, 4))).plan
    return cuda, TensorRtEngine(plan, manifest(), trt=trt, cuda=cuda), OnnxEngine(path, manifest(), threads=1)


@pytest.mark.parametrize(("drift", "largest"), [(0.0, 0.0), (1.0, 0.2)])
def test_soak_compares_every_batch_with_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drift: float, largest: float
) -> None:
    """An engine that is off is found, one that is not is not."""
    ids = gpu_check.random_batch

    def readable(*arguments: object, **seed: int) -> object:  # ids that this graph divides by nothing with
        batch = ids(*arguments, **seed)
        batch.input_ids[:] = 0
        batch.pixel_values[:] //= 64
        return batch

    monkeypatch.setattr(gpu_check, "random_batch", readable)
    cuda, engine, reference = engines(tmp_path, drift=drift)
    with Progress(disable=True) as progress:
        facts = gpu_check.soak(engine, reference, cuda, 0.3, progress)
    assert facts["batches"] > 2
    assert facts["growth_bytes"] == 0
    assert facts["largest"] == pytest.approx(largest, abs=0.07)
    assert (facts["largest"] > gpu_check.DRIFT) == bool(drift)


def test_check_without_a_gpu_ends_with_exit_code_two(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """And says why; nothing is written."""
    with pytest.raises(typer.Exit) as caught:
        gpu_check.main(families="small", gpu="999", soak_s=1, out=tmp_path / "out")
    assert caught.value.exit_code == 2
    assert "engine_unavailable" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("short", "one_torch_thread")
def test_check_without_what_it_compares_with_ends_with_exit_code_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each comparison that is missing is told, and a family that fails hides neither the next one nor the soak."""
    cuda = FakeCuda()
    trt = FakeTensorRT(cuda)
    monkeypatch.setattr(cli, "find_gpu", lambda _: cuda)
    monkeypatch.setattr(builder, "load_backend", lambda _: trt)
    gather = gate.gather
    monkeypatch.setattr(gate, "gather", lambda *given, **named: gather(*given, **named | {"count": 24}))
    with pytest.raises(typer.Exit) as caught:
        gpu_check.main(families="unknown,small", buckets="1,4", soak_s=0.3, out=tmp_path)
    assert caught.value.exit_code == 1
    facts = msgspec.json.decode((tmp_path / "gpu-check.json").read_bytes())
    failed, *missing = facts["problems"]
    assert failed == "unknown: KeyError: 'unknown'"
    assert [problem.rpartition(": engine_unavailable: ")[0] for problem in missing] == [
        "small, cold start",
        "small, beside ONNX Runtime",
        "small, beside torch.compile",
    ]
    assert "small, beside ONNX Runtime" in capsys.readouterr().err
    assert facts["families"]["unknown"] is None
    assert facts["families"]["small"]["tensorrt"]["4"] > 0
    assert facts["soak"]["batches"] > 0
    assert cuda.alive == 0


def test_cold_start_is_that_of_a_process_of_its_own() -> None:
    """Which has nothing imported and nothing loaded; one that does not come up says why."""
    assert gpu_figures.cold_start(releases.shipped(), Place(runtime="cpu")) > 0.1
    with pytest.raises(EngineUnavailable, match=r"no engine in a new process: .*onnxruntime-gpu"):
        gpu_figures.cold_start(releases.shipped(), Place(runtime="onnx-cuda"))


def test_warning_of_the_engine_is_a_problem() -> None:
    """A batch that runs without a CUDA graph still runs; the check must not pass over it."""
    problems: list[str] = []
    log = logging.getLogger("engines.runtime.lanes")
    handler = gpu_check.Problems(problems)
    log.addHandler(handler)
    log.warning("batches of %d run without a CUDA graph", 8)
    log.removeHandler(handler)
    assert problems == ["batches of 8 run without a CUDA graph"]


def test_calibration_that_spreads_makes_deviation_one() -> None:
    """Random weights score all alike; the gate would prove nothing on them."""
    logits = np.array([5.0, 5.1, 5.3], np.float32)
    fitted = gpu_check.centred(logits)
    assert np.std(fitted.scale * logits + fitted.shift) == pytest.approx(1.0, rel=1e-4)
