"""Time as a run has it: the wall clock, slowed down by what other work takes of the machine's cores.

Schedules and deadlines of a run are kept in it. Beside other work a run then is the same run, only slower: its faults
fall among the same events, and nothing is taken for dead that only waits for a core.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Self

SAMPLE_S = 0.25
SLOWEST = 0.1
"""Of the wall clock, however little a machine leaves: what hangs is found in the end."""

_IDLE, _IOWAIT = 3, 4  # Source: proc_stat(5), columns of the first line of /proc/stat
_COLUMNS = 8  # those behind are parts of the first ones
_OWN = slice(11, 15)  # Source: proc_pid_stat(5), utime to cstime behind the name


class Pace:
    """The clock of one run, in seconds; an async context manager."""

    def __init__(self) -> None:
        self._elapsed_s = 0.0
        self._share = 1.0
        self._sampled = time.monotonic()
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._sample())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def now(self) -> float:
        """Return the seconds that the run has had."""
        return self._elapsed_s + self._share * (time.monotonic() - self._sampled)

    async def until(self, moment: float) -> None:
        """Return at this time of `now`."""
        while (left_s := moment - self.now()) > 0:  # noqa: ASYNC110 - nobody sets a clock of one's own
            await asyncio.sleep(min(SAMPLE_S, left_s))

    def advance(self, wall_s: float, busy_s: float, own_s: float) -> None:
        """Take note of a stretch of time.

        Args:
            wall_s: that went by.
            busy_s: in which cores worked, their sum, divided by the number of cores.
            own_s: in which they worked for this run, likewise.
        """
        self._elapsed_s += self._share * wall_s
        self._share = share(wall_s, busy_s, own_s)

    async def _sample(self) -> None:
        busy_s, own_s = _busy_s(), _own_s()
        while True:
            await asyncio.sleep(SAMPLE_S)
            before, self._sampled = self._sampled, time.monotonic()
            busy_before, busy_s, own_before, own_s = busy_s, _busy_s(), own_s, _own_s()
            self.advance(self._sampled - before, busy_s - busy_before, own_s - own_before)


def share(wall_s: float, busy_s: float, own_s: float) -> float:
    """Return which share of a stretch of time a run could have had: all that others did not take."""
    if wall_s <= 0:
        return 1.0
    return min(1.0, max(SLOWEST, 1 - max(0.0, busy_s - own_s) / wall_s))


def _busy_s() -> float:
    """Return how long the machine's cores have worked, by their mean."""
    ticks = [int(column) for column in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]]
    busy = sum(ticks[:_COLUMNS]) - ticks[_IDLE] - ticks[_IOWAIT]
    return busy / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)


def _own_s() -> float:
    """Return how long they have worked for this process and its children, those that are gone included."""
    own = sum(os.times()[:4])
    me = os.getpid()
    for child in Path(f"/proc/{me}/task/{me}/children").read_text(encoding="ascii").split():
        try:
            columns = Path(f"/proc/{child}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            continue
        own += sum(map(int, columns[_OWN])) / os.sysconf("SC_CLK_TCK")
    return own / (os.cpu_count() or 1)
