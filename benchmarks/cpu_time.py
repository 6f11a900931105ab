"""CPU time of the processes below this one, as the kernel counts it (Linux)."""

from __future__ import annotations

import os
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
    """Return the children of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text(encoding="ascii").split()]


def cpu_s(pids: list[int]) -> float:
    """Return what these processes have taken, those included that they have outlived; to a hundredth of a second."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))  # utime, stime, and both of its dead children
    return ticks / os.sysconf("SC_CLK_TCK")
