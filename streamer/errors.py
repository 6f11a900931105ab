"""Every error that `streamer` raises, named by what the stream must do about it.

StreamerError(code)
├ RejectedEvent    dead letter, go on                     (malformed, unsupported schema, image refused, text refused)
├ TransientError   bounded retry, then dead letter        (timeout, host down, 5xx)
└ FatalError       stop without committing                (engine missing, settings wrong, broker unauthorised)

A library's exception is translated at the module that calls the library (`raise … from`). `code` is a stable slug:
the metric label, the dead letter's reason and the log field. `pipeline.py` holds the one place where an error
becomes an outcome.
"""

from __future__ import annotations


class StreamerError(Exception):
    """Base of all; `code` is for machines, the message for people and says what to do.

    `attempts` counts the tries that led to it, for those that are tried again.
    """

    attempts: int = 1

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class RejectedEvent(StreamerError):
    """This event can never be scored: it goes to the dead-letter topic and the stream goes on."""


class TransientError(StreamerError):
    """Trying again later may work; after the last try the event is rejected with this code."""

    def __init__(self, code: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(code, message)
        self.retry_after_s = retry_after_s


class FatalError(StreamerError):
    """The worker cannot do its work: it stops without committing, and another may take over."""
