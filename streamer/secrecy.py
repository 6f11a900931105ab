"""What other processes of the same user may read of this one: nothing, where the kernel is Linux.

A decoder that a picture has taken over runs as the worker's user. Without this it could read the worker's environment
and memory, and so the broker's password, from `/proc`. Source: prctl(2), PR_SET_DUMPABLE; proc(5).
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def keep_to_itself() -> None:
    """Close this process's `/proc` entries to others, and let it leave no core; a program that it starts is open again.

    Raises:
        OSError: the kernel refuses.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
