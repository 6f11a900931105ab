"""What building a plan takes, by family and precision: the plan table of the README.

    python benchmarks/tensorrt_plans.py [--families small,clip] [--gpu sm89] [--out plans.json]

Every family at its published size with random weights, cast and built by the code of `streamer compile`, with a profile
for each batch. Without a GPU: `tensorrt_rtx` builds ahead of time for an architecture. `blip2` has 1.2 billion
parameters and is left out unless it is named.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sized_models import LABELS, write_release

from engines.build.compile import builder, cli, run
from engines.build.compile.cast import PRECISIONS, Precision
from engines.errors import GraphUnsupported

console = Console(stderr=True)


def main(  # noqa: PLR0917 - options, typer passes them by name
    families: Annotated[str, typer.Option(help="Which, separated by commas.")] = "small,compact,clip,vilt,blip,flava",
    precisions: Annotated[str, typer.Option(help="Which, separated by commas.")] = "fp32,fp16",
    buckets: Annotated[str, typer.Option(help="Batch sizes.")] = "1,8,32",
    gpu: Annotated[str, typer.Option(help="What to build for.")] = "sm89",
    backend: Annotated[str, typer.Option(help="tensorrt or tensorrt_rtx.")] = "tensorrt_rtx",
    out: Annotated[Path | None, typer.Option(help="Where the figures are kept as JSON.")] = None,
) -> None:
    """Build, measure, throw away."""
    trt = builder.load_backend(backend)
    target = builder.Target(buckets=cli.batch_sizes(buckets), compute_capability=cli.architecture(gpu))
    rows: list[dict[str, Any]] = []
    for family in families.split(","):
        chosen = [precision for precision in PRECISIONS if precision in precisions.split(",")]
        rows += measure(family, chosen, target, trt)
        if out is not None:
            out.write_bytes(msgspec.json.format(msgspec.json.encode(rows)))
        console.print(table(rows))
    print(f"{trt.__name__} {trt.__version__}, {gpu}, batches of {buckets}\n")
    print("| family | precision | parse, s | build, s | of CPU, s | plan, MB |\n| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(f"| {' | '.join(str(value) for value in row.values())} |")


def measure(family: str, precisions: list[Precision], target: builder.Target, trt: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - TensorRT's module
    """Return the rows of one family; a graph that TensorRT refuses is a row, too."""
    console.print(f"exporting {family}")
    with tempfile.TemporaryDirectory() as folder, Progress(console=console, transient=True) as progress:
        release, _ = write_release(family, Path(folder))
        try:
            built = list(run.rehearse(release, precisions, target, trt=trt, progress=progress))
        except GraphUnsupported as error:
            console.print(str(error), markup=False)
            return [
                {
                    "label": LABELS[family],
                    "precision": "refused",
                    "parse_s": "-",
                    "build_s": "-",
                    "cpu_s": "-",
                    "plan_mb": "-",
                }
            ]
    return [
        {
            "label": LABELS[family],
            "precision": row.precision,
            "parse_s": round(row.parse_s, 2),
            "build_s": round(row.build_s, 1),
            "cpu_s": round(row.cpu_s, 1),
            "plan_mb": round(row.plan_bytes / 1e6, 1),
        }
        for row in built
    ]


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the rows so far."""
    shown = Table(*rows[0])
    for row in rows:
        shown.add_row(*map(str, row.values()))
    return shown


if __name__ == "__main__":
    typer.run(main)
