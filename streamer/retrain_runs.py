"""Runs of retraining on disk: one folder each, and what it must know to go on after it was killed.

    WORK/<run>/run.json     a Run: what it began with; from then on it is unfinished
    WORK/<run>/labels/      the pinned labels, while it is unfinished
    WORK/<run>/champion/    the release that it goes on from
    WORK/<run>/ended.json   how it ended; only the card, the challenger and the decision stay

What stands in between belongs to `engines.build.retrain`.
"""

from __future__ import annotations

import os
import secrets
import shutil
from datetime import datetime  # noqa: TC003 - msgspec reads the annotations
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from streamer.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Sequence

RUN_FILE: Final = "run.json"
ENDED_FILE: Final = "ended.json"
LABELS_FOLDER: Final = "labels"
CHAMPION_FOLDER: Final = "champion"
CARD_FOLDER: Final = "card"
_KEPT: Final = frozenset({RUN_FILE, ENDED_FILE, "decision.json", "challenger.json", "challenger", CARD_FOLDER})

T = TypeVar("T", bound=msgspec.Struct)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a run began with: why, when, the champion's name, the catalogue, and options of the training program."""

    name: str
    reason: str
    began_at: datetime
    champion: str
    catalog: str | None
    passed: tuple[str, ...]


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended: promoted, refused, passed (nobody was told), or given up (something was promoted meanwhile)."""

    outcome: str
    ended_at: datetime


class Runs:
    """All runs in a directory; one process at a time may work there.

    Args:
        work: the directory.
    """

    def __init__(self, work: Path) -> None:
        self.work = work

    def unfinished(self) -> Run | None:
        """Return the run that has begun and not ended; the last one, should there be more."""
        found = [path.parent for path in sorted(self.work.glob(f"*/{RUN_FILE}"))]
        open_ones = [folder for folder in found if not (folder / ENDED_FILE).exists()]
        return _read(open_ones[-1] / RUN_FILE, Run) if open_ones else None

    def begin(self, *, reason: str, at: datetime, champion: str, catalog: Path | None, passed: Sequence[str]) -> Run:
        """Return a new run; it is unfinished from now on."""
        run = Run(
            name=f"{at:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
            reason=reason,
            began_at=at,
            champion=champion,
            catalog=None if catalog is None else str(catalog.resolve()),
            passed=tuple(passed),
        )
        self.folder(run).mkdir(parents=True)
        _write(self.folder(run) / RUN_FILE, run)
        return run

    def folder(self, run: Run) -> Path:
        """Return where a run stands."""
        return self.work / run.name

    def end(self, run: Run, outcome: str, at: datetime) -> None:
        """Mark a run as ended, and remove what only training needs, the labels above all."""
        folder = self.folder(run)
        _write(folder / ENDED_FILE, Ended(outcome=outcome, ended_at=at))
        self.tidy(run)

    def tidy(self, run: Run) -> None:
        """Remove what an ended run does not keep."""
        for path in self.folder(run).iterdir():
            if path.name in _KEPT:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise FatalError("work_unusable", f"{path}: {error}; remove {path.parent} and run again") from error


def _write(path: Path, content: msgspec.Struct) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
