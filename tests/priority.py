"""How much of a busy machine a process gets."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def set_niceness(pid: int, niceness: int) -> None:
    """Set the niceness of a process that has just started, and that of its session, where the kernel groups by those.

    What this user may not do is left as it is.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, niceness)
    with contextlib.suppress(OSError):  # Source: sched(7), "The autogroup feature"
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness), encoding="ascii")
