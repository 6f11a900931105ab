"""How long an event loop has stood still: a process stopped, throttled or moved, or a call that blocked it.

Timers go on meanwhile, and all fire at once when it comes back, before what hosts sent in time is looked at. Whoever
judges others by a timer asks here first whether it was there to see.
"""

from __future__ import annotations

import asyncio
from typing import Final

BEAT_S: Final = 0.05
STALL_S: Final = 0.5  # a beat that is less late than this is a busy loop's


class LoopLag:
    """Counts stalls from `start` to `stop`; belongs to one event loop."""

    def __init__(self) -> None:
        self._lost_s = 0.0
        self._due: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to count; needs a running loop."""
        self._due = asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def stop(self) -> None:
        """Let go of the loop."""
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def lost_s(self) -> float:
        """Return the seconds of all stalls, with one that has just ended and that no beat has noticed yet."""
        return self._lost_s + self._late_s()

    def _late_s(self) -> float:
        if self._due is None:
            return 0.0
        late_s = asyncio.get_running_loop().time() - self._due.when()
        return late_s if late_s > STALL_S else 0.0

    def _beat(self) -> None:
        self._lost_s += self._late_s()
        self.start()
