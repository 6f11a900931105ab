"""`python -m engines.build.compile`, which `streamer compile` runs: options in, a plan beside its release.

Exit code 1: the plan is refused, or TensorRT cannot build the graph. 2: it cannot be tried here.
"""

# No `from __future__ import annotations`: typer reads the annotations.
import logging
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from engines.build.compile import builder, gate, report, run
from engines.build.compile.cast import PRECISIONS, Precision
from engines.errors import EngineError, EngineUnavailable, GraphUnsupported, ParityExceeded, ReleaseRefused
from engines.plans import folder_of
from engines.releases import shipped
from engines.runtime.cuda import Cuda, open_gpu
from engines.store import ReleaseStore

EXIT_REFUSED: Final = 1
EXIT_CANNOT: Final = 2

_SM: Final = re.compile(r"sm(\d+)(\d)")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    """Run one command line and exit with its code."""
    try:
        app()
    except EngineError as error:
        refused = isinstance(error, (ParityExceeded, ReleaseRefused, GraphUnsupported))
        Console(stderr=True).print(f"[bold red]{error.code}:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(EXIT_REFUSED if refused else EXIT_CANNOT)


@app.command("compile")
def compile_plan(  # noqa: PLR0917 - options, typer passes them by name
    release: Annotated[
        str | None, typer.Argument(help="A release's directory, or name in the store; the one that ships if left out.")
    ] = None,
    store: Annotated[str | None, typer.Option(help="Where the release is fetched from.")] = None,
    gpu: Annotated[str, typer.Option(help="Number or name of the GPU; sm89 and the like with --dry-run.")] = "0",
    precision: Annotated[Precision, typer.Option(help="What the graph is cast to.")] = "fp16",
    buckets: Annotated[str, typer.Option(help="Batch sizes.")] = ",".join(map(str, builder.BUCKETS)),
    plans: Annotated[Path | None, typer.Option(help="Where the plan goes; RELEASE/plans if unset.")] = None,
    catalog: Annotated[Path | None, typer.Option(help="Folder to take golden pairs from.")] = None,
    pairs: Annotated[int, typer.Option(min=2, help="Golden pairs.")] = gate.PAIRS,
    max_difference: Annotated[float, typer.Option(min=0, help="Of a probability.")] = gate.MAX_DIFFERENCE,
    max_flips: Annotated[float, typer.Option(min=0, max=1, help="Share of alerts.")] = gate.MAX_FLIPS,
    effort: Annotated[int | None, typer.Option(min=0, max=5, help="TensorRT's optimization level.")] = None,
    backend: Annotated[Literal["tensorrt", "tensorrt_rtx"], typer.Option(help="Which TensorRT.")] = "tensorrt",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build in every precision, keep nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Build a release's TensorRT plan; `streamer compile --help` explains the options."""
    sizes = batch_sizes(buckets)
    console = Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console)])
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    trt = builder.load_backend(backend)
    with Progress(*columns, console=console) as progress, found(release, store, plans) as directory:
        where = folder_of(directory, plans)
        if dry_run:
            target = builder.Target(buckets=sizes, compute_capability=architecture(gpu), optimization_level=effort)
            rows = list(run.rehearse(directory, PRECISIONS, target, trt=trt, progress=progress))
            shown = report.rehearsal_json(rows) if json else report.rehearsal(rows)
        else:
            options = run.Options(
                precision=precision,
                target=builder.Target(buckets=sizes, optimization_level=effort),
                folder=plans,
                catalog=catalog,
                pairs=pairs,
                tolerance=gate.Tolerance(max_difference, max_flips),
            )
            record = run.compile_release(directory, options, trt=trt, cuda=find_gpu(gpu), progress=progress)
            shown = report.record_json(record) if json else report.summary(record)
    if isinstance(shown, str):
        typer.echo(shown)
    else:
        Console(highlight=False).print(shown)
    if not dry_run:
        console.print(f"stored in {where}", soft_wrap=True, markup=False, highlight=False)


@contextmanager
def found(release: str | None, store: str | None, plans: Path | None) -> Generator[Path]:
    """Give the directory of a release: as it is named, or fetched from the store, and then removed afterwards.

    Raises:
        EngineUnavailable: a release of the store is named without a folder for its plan, or none is named.
        ReleaseUnavailable, ManifestInvalid, ReleaseCorrupt: the store does not have it, or not whole.
    """
    if store is None:
        yield shipped() if release is None else Path(release)
        return
    if release is None or plans is None:
        raise EngineUnavailable(
            "--store needs a release's name (`streamer releases list`) and --plans DIR, the folder that workers read: "
            "STREAMER_ENGINE__PLANS"
        )
    with ReleaseStore(store).fetched(release) as directory:
        yield directory


def batch_sizes(buckets: str) -> tuple[int, ...]:
    """Return the batch sizes that an option names, ascending.

    Raises:
        EngineUnavailable: it names none.
    """
    try:
        sizes = sorted({int(part) for part in buckets.split(",")})
    except ValueError:
        sizes = [0]
    if sizes[0] < 1:
        raise EngineUnavailable(f"--buckets {buckets}: batch sizes, separated by commas, as in 1,8,32,64")
    return tuple(sizes)


def architecture(gpu: str) -> tuple[int, int] | None:
    """Return the compute capability that `sm89` names; None: whichever GPU is in this machine."""
    named = _SM.fullmatch(gpu.lower())
    return (int(named[1]), int(named[2])) if named else None


def find_gpu(name: str, opened: Any = open_gpu) -> Cuda:  # noqa: ANN401 - tests give another machine's
    """Return the GPU with this number, or the first one whose name has this part.

    Raises:
        EngineUnavailable: there is none in this machine; the message names those that are.
    """
    if name.isdigit():
        return opened(int(name))  # type: ignore[no-any-return]
    if architecture(name):
        raise EngineUnavailable(f"--gpu {name} is for --dry-run: a plan is proven, and kept, on the GPU that it is for")
    names: list[str] = []
    while True:
        try:
            cuda: Cuda = opened(len(names))
        except EngineUnavailable as error:
            if not names:
                raise
            raise EngineUnavailable(f"no GPU here is called {name}; there are {', '.join(names)}") from error
        if name.lower() in cuda.gpu.name.lower():
            return cuda
        names.append(cuda.gpu.name)
