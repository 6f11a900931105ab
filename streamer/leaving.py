"""A worker that is to leave, and cannot: it is ended."""

from __future__ import annotations

import faulthandler
import os
import threading

import structlog

log = structlog.get_logger(__name__)

LEAVE_S = 5.0
"""For a worker that has drained, or failed, to close what it holds and leave its group."""

EXIT_HUNG = 3


def end_within(seconds: float) -> None:
    """End the process, come what may, that many seconds from now.

    While a worker that is leaving hangs, its group waits for it: in an engine that does not answer, in a Faust that
    waits for what has crashed, on a broker that is away. What it has not committed by then is another's to do.
    """

    def end() -> None:
        log.error("worker.hung", seconds=seconds)
        faulthandler.dump_traceback()
        os._exit(EXIT_HUNG)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
