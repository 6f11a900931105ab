"""Threads that nothing waits for give way to those that score."""

from __future__ import annotations

import os
import threading

NICENESS = 10
"""Of a thread that loads a release or tries a challenger: the engine that runs has the cores first."""


def give_way() -> None:
    """Give the calling thread a low priority, on Linux: elsewhere priorities are of processes."""
    if os.uname().sysname == "Linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
