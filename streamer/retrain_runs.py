"""Runs of retraining on disk: one folder each, and what it must know to go on after it was killed.

    WORK/<run>/run.json     a Run: what it began with; from then on it is unfinished
    WORK/<run>/labels/      the pinned labels, while it is unfinished
    WORK/<run>/champion/    the release that it goes on from
    WORK/<run>/ended.json   how it ended; only the card, the decision and, for a while, the challenger stay

What stands in between belongs to `engines.build.retrain`, of which the name of the challenger and the decision are read
here, and to `streamer.retrain_erased`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from contextlib import contextmanager
from datetime import datetime  # noqa: TC003 - msgspec reads the annotations
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from streamer.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

RUN_FILE: Final = "run.json"
ENDED_FILE: Final = "ended.json"
LABELS_FOLDER: Final = "labels"
CHAMPION_FOLDER: Final = "champion"
CARD_FOLDER: Final = "card"
CHALLENGER_FOLDER: Final = "challenger"
CHALLENGER_FILE: Final = "challenger.json"
DECISION_FILE: Final = "decision.json"
LOCK_FILE: Final = ".lock"
_KEPT: Final = frozenset({RUN_FILE, ENDED_FILE, DECISION_FILE, CHALLENGER_FILE, CHALLENGER_FOLDER, CARD_FOLDER})

KEPT_CHALLENGERS: Final = 10
"""Of the last runs that have ended, to be inspected: 16 to 120 MB each. The store has those that were promoted."""

T = TypeVar("T", bound=msgspec.Struct)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a run began with: why, when, the champion's name, the catalogue, and options of the training program.

    Nobody is told of what comes of a dry run, whoever goes on with it.
    """

    name: str
    reason: str
    began_at: datetime
    champion: str
    catalog: str | None
    passed: tuple[str, ...]
    dry_run: bool = False


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended: promoted, refused, passed (nobody was told), or given up (something was promoted meanwhile).

    `erased`: it was given up since it may have learned from something that was erased; its challenger is not kept.
    """

    outcome: str
    ended_at: datetime
    erased: bool = False


class Named(msgspec.Struct, frozen=True):
    """The release that a run has made."""

    release: str


class Reason(msgspec.Struct, frozen=True):
    """Why the gate has refused; the training program says more of it."""

    code: str


class Decision(msgspec.Struct, frozen=True):
    """What the gate has said of a run."""

    promote: bool
    reasons: list[Reason]


class Runs:
    """All runs in a directory; one process at a time may work there.

    Args:
        work: the directory.
    """

    def __init__(self, work: Path) -> None:
        self.work = work

    def unfinished(self) -> Run | None:
        """Return the run that has begun and not ended; the last one, should there be more.

        What runs that have ended should not have kept, since they were killed as they ended, is removed, and so are
        challengers of long ago.
        """
        found = [_read(path, Run) for path in self.work.glob(f"*/{RUN_FILE}")]
        runs = sorted(found, key=lambda run: run.began_at)  # names tell seconds only
        for run in (ended := [run for run in runs if (self.folder(run) / ENDED_FILE).exists()]):
            self.tidy(run)
        for run in ended[:-KEPT_CHALLENGERS]:
            shutil.rmtree(self.folder(run) / CHALLENGER_FOLDER, ignore_errors=True)
        return next((run for run in reversed(runs) if run not in ended), None)

    def begin(
        self,
        *,
        reason: str,
        at: datetime,
        champion: str,
        catalog: Path | None,
        passed: Sequence[str],
        dry_run: bool = False,
    ) -> Run:
        """Return a new run; it is unfinished from now on."""
        run = Run(
            name=f"{at:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
            reason=reason,
            began_at=at,
            champion=champion,
            catalog=None if catalog is None else str(catalog.resolve()),
            passed=tuple(passed),
            dry_run=dry_run,
        )
        self.folder(run).mkdir(parents=True)
        _write(self.folder(run) / RUN_FILE, run)
        return run

    def folder(self, run: Run) -> Path:
        """Return where a run stands."""
        return self.work / run.name

    def challenger(self, run: Run) -> str | None:
        """Return the name of the release that a run has made, None where it has made none.

        Raises:
            FatalError: work_unusable.
        """
        path = self.folder(run) / CHALLENGER_FILE
        return _read(path, Named).release if path.exists() else None

    def decision(self, run: Run) -> Decision | None:
        """Return what the gate has said of a run, None where it has said nothing yet.

        Raises:
            FatalError: work_unusable.
        """
        path = self.folder(run) / DECISION_FILE
        return _read(path, Decision) if path.exists() else None

    def end(self, run: Run, outcome: str, at: datetime, *, erased: bool = False) -> None:
        """Mark a run as ended, and remove what only training needs, the labels above all; if erased, all weights."""
        folder = self.folder(run)
        _write(folder / ENDED_FILE, Ended(outcome=outcome, ended_at=at, erased=erased))
        self.tidy(run)

    def tidy(self, run: Run) -> None:
        """Remove what an ended run does not keep."""
        ended = _read(self.folder(run) / ENDED_FILE, Ended)
        kept = _KEPT - {CHALLENGER_FOLDER} if ended.erased else _KEPT
        for path in self.folder(run).iterdir():
            if path.name in kept:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextmanager
def alone(work: Path) -> Generator[None]:
    """Keep other processes out of the directory.

    Raises:
        FatalError: work_in_use.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FatalError("work_in_use", f"another retraining is at work in {work}: wait for it") from error
        yield


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
