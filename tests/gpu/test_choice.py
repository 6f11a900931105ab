"""Which runtime a worker takes, and what it says when that is not the first choice."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from engines.errors import EngineUnavailable, InferenceFailed
from engines.runtime import loader
from engines.runtime.loader import Place, load
from tests.unit.test_cli import code_of
from tests.unit.test_runtime import release

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["release"]  # a fixture


def test_auto_on_an_installation_for_cpus_is_the_cpu(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is missing there, so nothing is said."""
    monkeypatch.setattr(loader, "_expects_gpu", lambda: False)
    said: list[str] = []
    assert load(release, warn=said.append).device == "cpu (onnxruntime)"
    assert said == []


def test_auto_without_a_gpu_that_was_expected_says_each_step(release: Path) -> None:
    """An installation for GPUs that ends on the CPU does so loudly."""
    pytest.importorskip("cuda.bindings.runtime")
    said: list[str] = []
    engine = load(release, warn=said.append)
    if engine.device != "cpu (onnxruntime)":
        pytest.skip("there is a GPU")
    tensorrt, cuda, cpu = said
    assert tensorrt.startswith("tensorrt does not run: no GPU answers")
    assert cuda.startswith("onnx-cuda does not run: this onnxruntime has no CUDAExecutionProvider")
    assert cpu == "the engine runs on the CPU: cpu (onnxruntime)"


def test_auto_with_a_runtime_that_fails_while_it_warms_goes_on_to_the_next(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver may load an engine that it cannot run."""

    def fail(*_: object) -> None:
        raise InferenceFailed("CUDA: no kernel image is available for execution on the device (209)")

    monkeypatch.setattr(loader, "_expects_gpu", lambda: True)
    monkeypatch.setattr(loader, "_tensorrt", fail)
    monkeypatch.setattr(loader, "_onnx", fail)
    said: list[str] = []
    assert load(release, warn=said.append).device == "cpu (onnxruntime)"
    assert [line.split(":")[0] for line in said] == [
        "tensorrt does not run",
        "onnx-cuda does not run",
        "the engine runs on the CPU",
    ]


@pytest.mark.parametrize("runtime", ["tensorrt", "onnx-cuda", "onnx-tensorrt"])
def test_runtime_that_is_asked_for_is_the_only_one_tried(release: Path, runtime: loader.Runtime) -> None:
    """A pod that is meant for a GPU does not quietly crawl on its CPU."""
    with pytest.raises(EngineUnavailable):
        load(release, place=Place(runtime=runtime))


def test_cpu_that_is_asked_for_is_taken_without_a_word(release: Path) -> None:
    """Whatever else is there."""
    said: list[str] = []
    assert load(release, place=Place(runtime="cpu"), warn=said.append).device == "cpu (onnxruntime)"
    assert said == []


def test_compile_without_tensorrt_says_what_to_install(capfd: pytest.CaptureFixture[str]) -> None:
    """Through the program that compiles: its exit code is the command's."""
    pytest.importorskip("cuda.bindings.runtime")
    if loader.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    assert code_of("compile") == 2
    assert "pip install 'mismatch-streamer[gpu]'" in capfd.readouterr().err


def test_compile_imports_no_training_library() -> None:
    """The job on the GPU has neither torch nor transformers."""
    code = (
        "import sys, engines.build.compile.cli\n"
        "print(sorted({'torch', 'transformers', 'onnxscript', 'accelerate'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
