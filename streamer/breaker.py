"""Which hosts and sites are left alone for a while: a circuit breaker for each that fails. Rules and a clock, no I/O.

    closed ── `failures` tries in a row fail ──► open ── after a pause ──► half-open: one try probes
       ▲                                          ▲                           │
       └────────────── it succeeds ───────────────┴── it fails; twice the pause

Our own, since what libraries offer does not fit a feed: aiobreaker has had no release since 2021; purgatory keeps every
name for ever and, half-open, lets all waiting calls through. Here a host costs memory only while it fails, and a host
that comes back meets one request, not thousands.

Source: Nygard 2018, "Release It!", 2nd edition, chapter 5.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cachetools import LRUCache

from streamer.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

Host = tuple[str, int]

LONGEST_PAUSE_S: Final = 60.0
_HOSTS: Final = 4096  # that fail at the same time; of more than that the ones that are asked least are forgotten


@dataclass(slots=True)
class _Circuit:
    """A host that fails: tries in a row, and, when it is left alone, until when and for how long."""

    failures: int = 0
    until: float | None = None
    pause_s: float = 0.0
    probing: bool = False


class NothingLearned(TransientError):
    """The try failed for a reason that is not the host's: circuits stay as they were."""


class HostUnavailable(NothingLearned):
    """The host is left alone: nothing was sent to it."""

    host: Host


class CircuitBreakers:
    """One circuit for each host; for one event loop.

    Args:
        failures: tries in a row that fail before a host is left alone.
        pause_s: for how long, the first time.
        clock: seconds, never going back.
    """

    def __init__(self, *, failures: int, pause_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures = failures
        self._pause_s = pause_s
        self._clock = clock
        self._circuits: LRUCache[Host, _Circuit] = LRUCache(_HOSTS)

    def __len__(self) -> int:
        """Return how many hosts are failing."""
        return len(self._circuits)

    def is_open(self, host: Host) -> bool:
        """Whether the host is left alone, or waits for the verdict of a probe."""
        circuit = self._circuits.get(host)
        return circuit is not None and circuit.until is not None

    @contextmanager
    def attempt(self, host: Host) -> Generator[None]:
        """Let a try pass, and learn from how it ends: a TransientError is a failure, any other error is an answer.

        Raises:
            HostUnavailable: image_host_unavailable, at once, while the host is left alone.
        """
        circuit = self._circuits.get(host)
        self._admit(host, circuit)
        try:
            yield
        except NothingLearned:  # another circuit held it back, or nobody was there to see the answer: as below
            _let_go(circuit)
            raise
        except TransientError as error:
            self._failed(host, error.retry_after_s or 0.0)
            raise
        except Exception:
            self._circuits.pop(host, None)
            raise
        except BaseException:  # cancelled: nothing was learned, another may probe
            _let_go(circuit)
            raise
        else:
            self._circuits.pop(host, None)

    def _admit(self, host: Host, circuit: _Circuit | None) -> None:
        if circuit is None or circuit.until is None:
            return
        wait_s = circuit.until - self._clock()
        if wait_s > 0 or circuit.probing:
            error = HostUnavailable(
                "image_host_unavailable",
                f"{host[0]} failed {circuit.failures} times in a row and is left alone",
                retry_after_s=wait_s if wait_s > 0 else circuit.pause_s,
            )
            error.host = host
            raise error
        circuit.probing = True

    def _failed(self, host: Host, retry_after_s: float) -> None:
        circuit = self._circuits.setdefault(host, _Circuit())
        circuit.failures += 1
        if circuit.until is not None and not circuit.probing:
            return  # a try from before the host was left alone
        if circuit.failures >= self._failures:
            longer_s = min(LONGEST_PAUSE_S, circuit.pause_s * 2 or self._pause_s)
            circuit.pause_s, circuit.probing = max(longer_s, min(LONGEST_PAUSE_S, retry_after_s)), False
            circuit.until = self._clock() + circuit.pause_s


def _let_go(circuit: _Circuit | None) -> None:
    if circuit is not None:
        circuit.probing = False
