"""What cannot be proven without a GPU, in one command: `make gpu-check`.

    python benchmarks/gpu_check.py [--families small,clip] [--soak-s 600] [--out gpu-check]

For each family at its published size (random weights; `small` is the release that ships): a plan is compiled, so parity
is the gate's own; then seconds from the start of a process to a warm engine, GPU memory, pairs/s for each batch beside
ONNX Runtime's CUDA provider and torch.compile, and how much of the interpreter another thread gets meanwhile. Then the
engine that ships runs batches of every size from two threads for `--soak-s`, each logit compared with the CPU's, its
memory watched. Figures go to DIR/gpu-check.json, a table to stdout. What cannot be measured, a comparison whose package
is not there among it, is a problem and hides nothing of the rest; exit code 1: there are problems, 2: there is no GPU.
"""

from __future__ import annotations

import gc
import logging
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import numpy as np
import torch
import typer
from gpu_figures import cold_start, compiled_throughput, interpreter_share, random_batch, throughput
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sized_models import LABELS, SHIPPED, write_release

from engines import calibration, releases
from engines.build import restore
from engines.build.compile import builder, cli, gate, run
from engines.build.compile.cast import Precision  # noqa: TC001 - typer reads the annotations
from engines.contract import Batch, Calibration
from engines.errors import EngineError, EngineUnavailable
from engines.runtime import loader
from engines.text import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from engines.contract import Engine
    from engines.runtime.cuda import Cuda

DRIFT: Final = 0.02
"""Largest difference of a probability in the soak: the gate's."""

GROWTH_BYTES: Final = 64 * 2**20
"""Of GPU memory during the soak: more is a leak."""

LEAST_SHARE: Final = 0.5
"""Of the interpreter that another thread gets while a batch runs: less means that something holds it."""

console = Console(stderr=True)


def main(  # noqa: PLR0917 - options, typer passes them by name
    families: Annotated[str, typer.Option(help="Which, separated by commas.")] = "small,compact,clip,vilt,blip,flava",
    precision: Annotated[Precision, typer.Option(help="What the graphs are cast to.")] = "fp16",
    buckets: Annotated[str, typer.Option(help="Batch sizes.")] = "1,8,32,64",
    gpu: Annotated[str, typer.Option(help="Number or name.")] = "0",
    backend: Annotated[str, typer.Option(help="tensorrt or tensorrt_rtx.")] = "tensorrt",
    soak_s: Annotated[float, typer.Option(min=1, help="How long the soak lasts.")] = 600,
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("gpu-check"),
) -> None:
    """Prove on this machine's GPU what is unproven without one."""
    try:
        cuda = cli.find_gpu(gpu)
        trt = builder.load_backend(backend)
    except EngineError as error:
        console.print(f"[red]{error.code}:[/] {error}", soft_wrap=True)
        raise typer.Exit(2) from error
    facts: dict[str, Any] = {"gpu": msgspec.to_builtins(cuda.gpu), "tensorrt": trt.__version__, "families": {}}
    problems: list[str] = []
    sizes = cli.batch_sizes(buckets)
    logging.getLogger("engines.runtime.lanes").addHandler(Problems(problems))
    logging.getLogger("engines.runtime.tensorrt").addHandler(Problems(problems))
    out.mkdir(parents=True, exist_ok=True)
    for family in families.split(","):
        options = run.Options(precision=precision, target=builder.Target(buckets=sizes))
        facts["families"][family] = attempt(family, problems, examine, family, options, trt, cuda, problems)
        gc.collect()
        torch.cuda.empty_cache()
        (out / "gpu-check.json").write_bytes(msgspec.json.format(msgspec.json.encode(facts)))
    target = builder.Target(buckets=sizes)
    facts["soak"] = attempt("soak", problems, soak_shipped, trt, cuda, soak_s, target, problems)
    facts["problems"] = problems
    (out / "gpu-check.json").write_bytes(msgspec.json.format(msgspec.json.encode(facts)))
    Console().print(table(facts["families"]))
    print(msgspec.json.encode(facts["soak"]).decode())
    for problem in problems:
        console.print(f"[red]{problem}[/]", soft_wrap=True)
    raise typer.Exit(1 if problems else 0)


class Problems(logging.Handler):
    """Takes what the engine warns of, a batch without a CUDA graph or without memory, for a problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        self._problems.append(record.getMessage())


def attempt(name: str, problems: list[str], measure: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 - any figure
    """Return what is measured; None where it cannot be, which is a problem of that name and no reason to stop."""
    try:
        return measure(*arguments)
    except Exception as error:  # noqa: BLE001 - of TensorRT, ONNX Runtime, torch, or the memory
        problems.append(f"{name}: {getattr(error, 'code', type(error).__name__)}: {error}")
        return None


def examine(family: str, options: run.Options, trt: Any, cuda: Cuda, problems: list[str]) -> dict[str, Any]:  # noqa: ANN401 - TensorRT's module
    """Return the figures of one family; what is off goes into `problems`.

    Raises:
        EngineError: there is no plan of it: it is refused, or TensorRT cannot build it.
    """
    console.print(f"exporting {family}")
    with tempfile.TemporaryDirectory() as folder, Progress(console=console, transient=True) as progress:
        release, model = write_release(family, Path(folder))
        if model is None:
            model = restore.restore(release).model
        else:
            release = spread(release, progress)
        record = run.compile_release(release, options, trt=trt, cuda=cuda, progress=progress)
        again = run.compile_release(release, options, trt=trt, cuda=cuda, progress=progress)
        manifest = releases.verify(release)
        sizes, gpu = record.buckets, cuda.gpu.index

        def beside(what: str, measure: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 - any figure
            return attempt(f"{family}, {what}", problems, measure, *arguments)

        facts: dict[str, Any] = {
            "parity": record.parity,
            "build_s": record.provenance["build_s"],
            "build_again_s": again.provenance["build_s"],  # with the timing cache of the first build
            "plan_mb": record.plan_bytes / 1e6,
            "cold_start_s": beside("cold start", cold_start, release, loader.Place(runtime="tensorrt", gpu=gpu)),
            **run_plan(release, sizes, trt, cuda),
            "onnx_cuda": beside("beside ONNX Runtime", onnx_cuda_throughput, release, sizes, gpu),
            "torch_compile": beside("beside torch.compile", compiled_throughput, model, manifest, sizes),
        }
    if facts["interpreter_share"] < LEAST_SHARE:
        problems.append(f"{family}: another thread gets {facts['interpreter_share']:.0%} of the interpreter")
    return facts


def run_plan(release: Path, sizes: tuple[int, ...], trt: Any, cuda: Cuda) -> dict[str, Any]:  # noqa: ANN401 - TensorRT's module
    """Return what the release's plan does in this process."""
    before = cuda.free_bytes()
    manifest = releases.verify(release)
    with closing(loader.load_plan(release, manifest, loader.Place(), None, cuda=cuda, trt=trt)) as engine:
        return {
            "gpu_mb": (before - cuda.free_bytes()) / 2**20,
            "tensorrt": throughput(engine, sizes),
            "interpreter_share": interpreter_share(engine),
        }


def onnx_cuda_throughput(release: Path, sizes: tuple[int, ...], gpu: int) -> dict[str, float]:
    """Return pairs/s of ONNX Runtime's CUDA provider, to which a worker without a plan falls back, up to its cap.

    Raises:
        EngineUnavailable: it falls back to something else: this onnxruntime has no such provider, or it does not start.
    """
    refused: list[str] = []
    with tempfile.TemporaryDirectory() as no_plans:
        place = loader.Place(runtime="auto", gpu=gpu, plans=Path(no_plans))
        with closing(loader.load(release, place=place, warn=refused.append)) as engine:
            if not engine.device.startswith("cuda (onnxruntime"):
                raise EngineUnavailable(f"without a plan it is {engine.device}: {'; '.join(refused)}")
            return throughput(engine, [size for size in sizes if size <= engine.manifest.max_batch])


def spread(release: Path, progress: Progress) -> Path:
    """Return the release with a calibration under which its golden pairs differ: random weights score all alike."""
    manifest = releases.read_manifest(release)
    tokenizer = Tokenizer.from_file(release / releases.TOKENIZER_FILE, manifest.text)
    pairs = gate.gather(manifest, tokenizer, progress=progress)
    engine = loader.load(release, place=loader.Place(runtime="cpu"))
    fitted = centred(pairs.score(engine, progress))
    engine.close()
    return releases.write_release(
        release.parent,
        msgspec.structs.replace(manifest, calibration=fitted),
        {name: release / name for name in manifest.files},
    )


def centred(logits: NDArray[np.float32]) -> Calibration:
    """Return the calibration that makes logits of mean 0 and deviation 1 of these."""
    scale = 1 / max(float(logits.std()), 1e-6)
    return Calibration(scale=scale, shift=-scale * float(logits.mean()))


def soak_shipped(trt: Any, cuda: Cuda, seconds: float, target: builder.Target, problems: list[str]) -> dict[str, Any]:  # noqa: ANN401 - TensorRT's module
    """Run the engine that ships for long; what is off goes into `problems`."""
    with tempfile.TemporaryDirectory() as folder, Progress(console=console, transient=True) as progress:
        release, _ = write_release(SHIPPED, Path(folder))
        run.compile_release(release, run.Options(target=target), trt=trt, cuda=cuda, progress=progress)
        manifest = releases.verify(release)
        with (
            closing(loader.load_plan(release, manifest, loader.Place(), None, cuda=cuda, trt=trt)) as engine,
            closing(loader.load(release, place=loader.Place(runtime="cpu"))) as reference,
        ):
            facts = soak(engine, reference, cuda, seconds, progress)
    if not facts["largest"] <= DRIFT:
        problems.append(f"soak: a probability differs from the CPU's by {facts['largest']:.4f}")
    if facts["growth_bytes"] > GROWTH_BYTES:
        problems.append(f"soak: GPU memory grew by {facts['growth_bytes'] / 2**20:.0f} MB")
    return facts


def soak(engine: Engine, reference: Engine, cuda: Cuda, seconds: float, progress: Progress) -> dict[str, Any]:
    """Return what batches of every size from two threads did: largest difference, memory, latencies in ms."""
    rows = random_batch(engine.manifest, 4 * engine.manifest.max_batch, seed=1)
    cap = reference.manifest.max_batch
    expected = np.concatenate([reference.infer(_rows(rows, at, at + cap)) for at in range(0, len(rows), cap)])
    fitted = engine.manifest.calibration
    free, ended, task = cuda.free_bytes(), time.monotonic() + seconds, progress.add_task("soak", total=seconds)

    def work(seed: int) -> tuple[float, list[float]]:
        generator = np.random.default_rng(seed)
        largest, times_ms = 0.0, []
        while (left := ended - time.monotonic()) > 0:
            size = int(generator.integers(1, engine.manifest.max_batch + 1))
            at = int(generator.integers(0, len(rows) - size))
            started = time.perf_counter()
            found = engine.infer(_rows(rows, at, at + size))
            times_ms.append((time.perf_counter() - started) * 1000)
            off = calibration.apply(fitted, found) - calibration.apply(fitted, expected[at : at + size])
            largest = max(largest, float(np.abs(off).max()))
            if seed == 0:
                progress.update(task, completed=seconds - left)
        return largest, times_ms

    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(work, range(2)))
    times_ms = np.concatenate([times for _, times in done])
    return {
        "seconds": seconds,
        "batches": len(times_ms),
        "largest": max(largest for largest, _ in done),
        "growth_bytes": free - cuda.free_bytes(),
        "ms_p50": float(np.percentile(times_ms, 50)),
        "ms_p99": float(np.percentile(times_ms, 99)),
    }


def _rows(batch: Batch, start: int, stop: int) -> Batch:
    return Batch(
        batch.pixel_values[start:stop],
        batch.input_ids[start:stop],
        batch.attention_mask[start:stop],
        None if batch.attributes is None else batch.attributes[start:stop],
    )


def table(families: dict[str, dict[str, Any] | None]) -> Table:
    """Return a line for each family."""
    shown = Table("family", "max |Δp|", "flips", "cold start, s", "GPU, MB", "pairs/s", "ONNX CUDA", "torch.compile")
    for family, facts in families.items():
        if facts is None:
            shown.add_row(LABELS.get(family, family), "failed")
            continue
        rates = [facts[name] for name in ("tensorrt", "onnx_cuda", "torch_compile")]
        shown.add_row(
            LABELS[family],
            f"{facts['parity']['largest']:.5f}",
            str(facts["parity"]["flips"]),
            "-" if facts["cold_start_s"] is None else f"{facts['cold_start_s']:.1f}",
            f"{facts['gpu_mb']:.0f}",
            *(f"{max(rate.values()):.0f}" if rate else "-" for rate in rates),
        )
    return shown


if __name__ == "__main__":
    typer.run(main)
