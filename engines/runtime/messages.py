"""What TensorRT says while it works: kept for errors, since it returns no reasons. Imports no TensorRT itself."""

from __future__ import annotations

import logging
import threading
from collections import deque
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import ModuleType

_KEPT: Final = 5
_log: Final = logging.getLogger(__name__)


@cache
def logger_of(trt: ModuleType) -> Any:  # noqa: ANN401 - the package has no types
    """Return the logger for TensorRT's module `trt`; its `said()` gives the last errors, once, in one line.

    There is one for the life of the process: TensorRT keeps the first that it is given and calls it, from any thread,
    whatever it is given later. Warnings go to this module's log.
    """
    severe = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Messages(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: deque[str] = deque(maxlen=_KEPT)
            self._writing = threading.Lock()

        def log(self, severity: object, message: str) -> None:
            if severity in severe:
                with self._writing:
                    self._errors.append(message.strip())
            elif severity == trt.ILogger.Severity.WARNING:
                _log.warning("TensorRT: %s", message.strip())

        def said(self) -> str:
            with self._writing:
                said = "; ".join(self._errors)
                self._errors.clear()
            return said

    return Messages()
