"""What compiling prints: how a plan was proven and where it stands, or what a rehearsal took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engines.build.compile.run import Rehearsed
    from engines.plans import PlanRecord

_MB = 1e6


def summary(record: PlanRecord) -> Table:
    """Return a plan's facts for people."""
    parity = record.parity
    table = Table(show_header=False)
    table.add_row("plan", f"{record.plan_file}, {record.plan_bytes / _MB:.1f} MB")
    table.add_row("for", f"{record.key.gpu}, {record.key.backend} {record.key.version}")
    table.add_row("batches", ", ".join(map(str, record.buckets)))
    table.add_row("precision", f"{record.precision}: {record.provenance['lowered']} operators below float32")
    table.add_row("built in", f"{record.provenance['build_s']:.1f} s")
    table.add_row(
        "against ONNX",
        f"{parity['pairs']} pairs ({parity['golden']}): probabilities differ by up to {parity['largest']:.5f}, "
        f"{parity['mean']:.6f} on average; {parity['flips']} alerts flip",
    )
    return table


def record_json(record: PlanRecord) -> str:
    """Return the record as JSON."""
    return msgspec.json.encode(record).decode()


def rehearsal(rows: Iterable[Rehearsed]) -> Table:
    """Return what each precision took."""
    table = Table("precision", "low operators", "parse, s", "build, s", "CPU, s", "plan, MB")
    for row in rows:
        table.add_row(
            row.precision,
            str(row.lowered),
            f"{row.parse_s:.2f}",
            f"{row.build_s:.1f}",
            f"{row.cpu_s:.1f}",
            f"{row.plan_bytes / _MB:.1f}",
        )
    return table


def rehearsal_json(rows: Iterable[Rehearsed]) -> str:
    """Return the same as JSON, an object for each precision."""
    return msgspec.json.encode(list(rows)).decode()
