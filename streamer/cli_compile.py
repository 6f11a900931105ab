"""`streamer compile`: options in, the compiling program's exit code out. It never enters this process."""

# No `from __future__ import annotations`: typer reads the annotations.
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from streamer import command

PACKAGES = ("onnx_ir", "cuda.bindings")
COMPILER = (sys.executable, "-m", "engines.build.compile")


def compile_plan(
    release: Annotated[
        str | None,
        typer.Argument(
            help="A release's directory, or with --store its name; that of the settings, or what ships, if left out."
        ),
    ] = None,
    *,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Fetch the release from this store, as scorers do; the plan goes to --plans."),
    ] = None,
    gpu: Annotated[
        str,
        typer.Option(
            metavar="N|NAME|smXY",
            help="The GPU of this machine to build for: its number, or a part of its name (L4). With --dry-run also an "
            "architecture that is not here, as sm89.",
        ),
    ] = "0",
    precision: Annotated[
        Literal["fp32", "fp16", "bf16"],
        typer.Option(help="What the graph computes in; softmax, norms and the head stay in fp32."),
    ] = "fp16",
    buckets: Annotated[
        str, typer.Option(metavar="N,N,…", help="Batch sizes to build for; the largest is the worker's batch.")
    ] = "1,8,32,64",
    plans: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where plans are kept; that of the settings, or RELEASE/plans.")
    ] = None,
    catalog: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder of `streamer collect` to take golden pairs from; drawn if unset."),
    ] = None,
    pairs: Annotated[int, typer.Option(min=2, help="Golden pairs that the plan is compared with ONNX on.")] = 512,
    max_difference: Annotated[
        float, typer.Option(min=0, help="Largest difference of a probability that is let pass.")
    ] = 0.02,
    max_flips: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of pairs whose alert may come or go.")
    ] = 0.005,
    effort: Annotated[
        int | None, typer.Option(min=0, max=5, help="0 builds quickly, 5 builds a quick plan; TensorRT's 3 if unset.")
    ] = None,
    backend: Annotated[
        Literal["tensorrt", "tensorrt_rtx"], typer.Option(help="tensorrt_rtx builds ahead of time, without a GPU.")
    ] = "tensorrt",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Build a plan in each precision, say what it takes, and keep nothing."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON value.")] = False,
) -> None:
    """Build a release's TensorRT plan, on the GPU that it is for, and prove it against ONNX before it is kept.

    A plan runs on one kind of GPU with one version of TensorRT: build it in a job on that GPU, not in a worker, which
    loads it or says that there is none. Building takes minutes the first time; kernels' times are kept for the next.
    Then the plan scores golden pairs beside ONNX Runtime in fp32, and is refused if a probability or too many alerts
    differ.

    Exit code 1: refused, or TensorRT does not know an operator of the graph; 2: it cannot be tried here.

    Example: `streamer compile releases/compact-0123456789ab --gpu L4 --catalog shop`; before a release is promoted to
    scorers on GPUs: `streamer compile compact-0123456789ab --store s3://shop/releases --plans /plans`

    Settings: STREAMER_ENGINE__RELEASE and STREAMER_ENGINE__PLANS; the options here win.
    """
    from streamer.adapt import require, train  # noqa: PLC0415

    require(PACKAGES, "gpu")
    engine = command.settings().engine
    named, folder = release or (None if store else engine.release), plans or engine.plans
    options = {
        "--store": store,
        "--gpu": gpu,
        "--precision": precision,
        "--buckets": buckets,
        "--pairs": pairs,
        "--max-difference": max_difference,
        "--max-flips": max_flips,
        "--backend": backend,
        "--plans": folder,
        "--catalog": catalog,
        "--effort": effort,
    }
    given = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    flags = [name for name, value in (("--dry-run", dry_run), ("--json", json)) if value]
    positional = [] if named is None else [str(named)]
    raise typer.Exit(train([*COMPILER, *given, *flags, *positional]))
