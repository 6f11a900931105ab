"""CPU time of the processes below this one, as the kernel counts it (Linux)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def descendants() -> list[int]:
    """Return every process below this one."""
    found, todo = [], [os.getpid()]
    while todo:
        children = children_of(todo.pop())
        found += children
        todo += children
    return found


def children_of(pid: int) -> list[int]:
    """Return the children of all threads of a process; none of one that has ended."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since
                found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def cpu_s(pids: list[int]) -> float:
    """Return what these processes have taken, those included that they have outlived; to a hundredth of a second.

    One that has ended since counts for nothing here: its parent has, or will have, its time.
    """
    ticks = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # utime, stime, and both of its dead children
    return ticks / os.sysconf("SC_CLK_TCK")
