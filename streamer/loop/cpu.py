"""CPU seconds of this process and of all that it has started: what a phase costs, however busy the machine is."""

from __future__ import annotations

import psutil


def used_s() -> float:
    """Return the CPU seconds so far, those of processes that have ended and been waited for included."""
    own = psutil.Process()
    return sum(_of(process) for process in (own, *own.children(recursive=True)))


def _of(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:  # its parent has, or will have, its seconds
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)
