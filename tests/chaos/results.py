"""What came of runs, kept in a file: a table that takes hours is made in as many sittings as it takes."""

from __future__ import annotations

import hashlib
import signal
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grimp
import msgspec
from rich.table import Table

from tests.chaos.checker import Verdict  # noqa: TC001 - msgspec reads the annotations
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.size import PLANNED, Size

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
WORKER = "streamer.scorer"
TIDY = (0, -signal.SIGTERM)
"""One that has just started dies of SIGTERM: it takes no signals yet, and has nothing to leave in order."""
SPARED: tuple[Fault, ...] = ("pause", "broker", "cut", "images", "clock")
"""Faults of others, that no worker ends for."""
REDELIVERED_AT_MOST = 0.02
"""Of the events, outcomes that a planned rebalance repeats."""

ENOUGH_RUNS = 10
"""Runs of a fault in which it must have met everything that it is for: else the table shows less than it says."""

_SIGNALS, _ENGINE = ("young", "rebalance"), ("raises", "memory", "hangs", "breaks")
MEETS: dict[Fault, tuple[str, ...]] = {
    "kill": _SIGNALS,
    "terminate": _SIGNALS,
    "engine": _ENGINE,
    "mixed": (*_SIGNALS, *_ENGINE),
}


@dataclass(frozen=True, slots=True)
class Exit:
    """A process that ended; `told` says whether it had been sent a signal, by the schedule or by a scale-down."""

    slot: int
    code: int
    told: bool
    lived_s: float


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        hits: how many workers were ended in their first second, and how many in a rebalance; what befell engines.
        exits: of the workers, until all was settled.
        liveness_kills: how many were ended because they failed their liveness.
        untidy: how many did not leave in order when the run was over.
        seconds: by the wall clock, all included.
        busy: the share of the machine that other work took.
    """

    fault: Fault
    seed: int
    verdict: Verdict
    hits: dict[str, int]
    exits: list[Exit]
    liveness_kills: int
    untidy: int
    seconds: float
    busy: float = 0.0

    def problems(self) -> list[str]:
        """Return what the run broke, in words."""
        verdict = self.verdict
        found = [*verdict.wrong, *verdict.ahead]
        found += [f"{verdict.lost} events without an outcome"] if verdict.lost else []
        found += [f"{verdict.lag} records not committed"] if verdict.lag else []
        found += [f"{self.untidy} workers did not leave in order"] if self.untidy else []
        found += [f"{self.liveness_kills} workers failed their liveness"] if self.liveness_kills else []
        if self.fault in SPARED and self.restarts:
            found.append(f"{self.restarts} workers ended by themselves")
        late = [one for one in self.exits if self.fault in PLANNED and one.code not in TIDY]
        found += [f"{len(late)} workers did not drain in time"] if late else []
        if self.fault in PLANNED and verdict.duplicates > REDELIVERED_AT_MOST * verdict.events:
            found.append(f"{verdict.duplicates} of {verdict.events} outcomes redelivered by a planned rebalance")
        return found

    @property
    def restarts(self) -> int:
        """How many workers ended by themselves and were started again."""
        return sum(not one.told for one in self.exits)


@dataclass
class Results:
    """All runs of one size and one state of the code."""

    size: Size
    code: str
    runs: list[Result] = field(default_factory=list)
    broken_off: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, size: Size) -> Results:
        """Return what stands in the file, nothing where there is none.

        Raises:
            ValueError: it is of another size, or of other code.
        """
        fresh = cls(size, code_digest())
        if not path.exists():
            return fresh
        found = msgspec.json.decode(path.read_bytes(), type=cls)
        if (found.size, found.code) != (fresh.size, fresh.code):
            raise ValueError(f"{path} is of runs of another size, or of other code: move it away, or name another file")
        found.broken_off.clear()  # they are tried again
        return found

    def save(self, path: Path) -> None:
        """Write the file; a job that is ended meanwhile leaves the one before."""
        draft = path.with_name(f"{path.name}.draft")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))
        draft.rename(path)

    def has(self, fault: Fault, seed: int) -> bool:
        """Whether this run was made."""
        return any((one.fault, one.seed) == (fault, seed) for one in self.runs)

    def missed(self) -> list[str]:
        """Return what faults never met in all their runs, in words."""
        missed = []
        for fault, moments in MEETS.items():
            runs = [one for one in self.runs if one.fault == fault]
            never = [moment for moment in moments if not sum(one.hits.get(moment, 0) for one in runs)]
            if never and len(runs) >= ENOUGH_RUNS:
                missed.append(f"{fault}: {', '.join(never)} never happened in {len(runs)} runs")
        return missed

    def table(self) -> Table:
        """Return the figures, one line for each fault."""
        seeds = sorted({one.seed for one in self.runs})
        shown = Table(
            title=f"Delivery under faults: {self.size.events:,} events a run, {self.size.partitions} partitions, "
            f"{self.size.workers} workers",
            caption=f"seeds {seeds[0]} to {seeds[-1]}, code {self.code}" if seeds else None,
        )
        for column in _COLUMNS:
            shown.add_column(column, justify="left" if column == "fault" else "right")
        for fault in FAULTS:
            if of_fault := [one for one in self.runs if one.fault == fault]:
                shown.add_row(fault, *_cells(of_fault))
        return shown


_COLUMNS = (
    "fault",
    "runs",
    "events",
    "lost",
    "wrong",
    "ahead",
    "redelivered",
    "alerts again",
    "restarts",
    "recovery s",
    "met",
)


def _cells(runs: Sequence[Result]) -> list[str]:
    verdicts = [one.verdict for one in runs]
    events = sum(verdict.events for verdict in verdicts)
    again = sum(verdict.duplicates for verdict in verdicts)
    recoveries = [verdict.recovery_s for verdict in verdicts]
    return [
        str(len(runs)),
        f"{events:,}",
        str(sum(verdict.lost for verdict in verdicts)),
        str(sum(len(one.problems()) - len(one.verdict.ahead) for one in runs)),
        str(sum(len(verdict.ahead) for verdict in verdicts)),
        f"{again:,} ({again / max(events, 1):.2%})",
        f"{sum(verdict.repeated_alerts for verdict in verdicts):,}",
        f"{sum(one.restarts for one in runs)}",
        f"{statistics.median(recoveries):.1f}, at most {max(recoveries):.1f}",
        ", ".join(f"{sum(one.hits.get(name, 0) for one in runs)} {name}" for name in MEETS.get(runs[0].fault, ())),
    ]


def code_digest() -> str:
    """Return a digest of the code that a run is about, a worker's with all that it imports, and of what makes it."""
    graph = grimp.build_graph("streamer", "engines", cache_dir=None)
    modules = {WORKER, *graph.find_upstream_modules(WORKER)}
    worker = (path for module in modules for path in _files_of(ROOT / module.replace(".", "/")))
    digest = hashlib.sha256()
    for path in sorted({*worker, *(ROOT / "tests/chaos").rglob("*.py")}):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _files_of(module: Path) -> list[Path]:
    return [path for path in (module.with_suffix(".py"), module / "__init__.py") if path.exists()]
