"""What a run of `quality.py` has used and seen so far, kept in DIR/run.json: a run that was cut goes on counting."""

from __future__ import annotations

import hashlib
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

RUN_FILE: Final = "run.json"


class Kept(msgspec.Struct):
    """`of` tells runs of other recipes apart; `whole` is false where work of unknown cost was there before."""

    of: str
    whole: bool
    seconds: dict[str, float] = {}
    finished: list[str] = []
    curves: list[dict[str, Any]] = []


class Run:
    """Seconds of each stage, and learning curves.

    A stage counts the time up to its last `tick`, which stands where its work is saved: what was lost is done again and
    counted then; of readers that are trained beside each other, what one lost may be counted twice. A stage that was
    finished before is not counted again.

    `work` is the folder for what is trained.

    Args:
        out: the run's folder.
        facts: that its work follows from.
        now: a monotonic clock, in seconds.
    """

    def __init__(self, out: Path, facts: object, now: Callable[[], float] = time.monotonic) -> None:
        self._file, self._now = out / RUN_FILE, now
        of = hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()[:12]
        found = msgspec.json.decode(self._file.read_bytes(), type=Kept) if self._file.exists() else None
        self.work = out / "work"
        used = self.work.exists() and any(self.work.iterdir())
        self.kept = found if found is not None and found.of == of else Kept(of, whole=not used)
        self._stage, self._since = "", 0.0
        self._write()

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Count what is done inside."""
        self._stage, self._since = name, self._now()
        yield
        self.tick()
        self.kept.finished.append(name)
        self._stage = ""
        self._write()

    def tick(self) -> None:
        """Count what was done since the last time, and keep it."""
        now = self._now()
        if self._stage and self._stage not in self.kept.finished:
            self.kept.seconds[self._stage] = self.kept.seconds.get(self._stage, 0.0) + now - self._since
        self._since = now
        self._write()

    def skip(self) -> None:
        """Leave out what was done since the last tick: it belongs to measuring."""
        self._since = self._now()

    def note(self, point: dict[str, Any]) -> None:
        """Keep a point of a learning curve."""
        self.kept.curves.append(point)
        self._write()

    def seconds(self) -> dict[str, float]:
        """Return what each stage took, over all runs."""
        return {name: round(spent, 1) for name, spent in self.kept.seconds.items()}

    def _write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_suffix(".partial")
        unfinished.write_bytes(msgspec.json.encode(self.kept))
        unfinished.replace(self._file)
