"""Processes that end by SIGKILL before a call of a function, as one that is out of memory may anywhere.

    python -m tests.killed OWNER FUNCTION CALL score    # `streamer score`, until the CALLth call of OWNER.FUNCTION

OWNER is a module, or a class in one.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from importlib import import_module
from typing import Any, NamedTuple


class Point(NamedTuple):
    """Before which call of which function a process is killed."""

    owner: str
    function: str
    call: int = 1

    def arm(self) -> None:
        """Let this process end there."""
        target: Any = _found(self.owner)
        original, calls = getattr(target, self.function), itertools.count(1)

        def dying(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - of any function
            if next(calls) == self.call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(target, self.function, dying)


def _found(owner: str) -> object:
    try:
        return import_module(owner)
    except ModuleNotFoundError:
        module, _, name = owner.rpartition(".")
        found: object = getattr(import_module(module), name)
        return found


if __name__ == "__main__":
    from streamer.cli import main

    chosen, name, number, *command = sys.argv[1:]
    Point(chosen, name, int(number)).arm()
    main(command)
