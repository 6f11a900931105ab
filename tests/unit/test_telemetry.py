"""When a worker says that it is alive."""

from __future__ import annotations

from streamer.telemetry import Liveness


def test_liveness_fails_when_a_partition_with_lag_stands_still() -> None:
    """Also while the others move: an event that never ends holds its own partition only."""
    liveness = Liveness(120)
    assert liveness.judge({0: (5, 9), 1: (3, 9)}, 0)[0]
    assert liveness.judge({0: (5, 9), 1: (4, 9)}, 119)[0]
    assert not liveness.judge({0: (5, 9), 1: (6, 9)}, 120)[0]


def test_liveness_of_a_partition_that_moves_again_is_restored() -> None:
    """What counts is how long it stands still, not that it did."""
    liveness = Liveness(120)
    liveness.judge({0: (5, 9)}, 0)
    assert not liveness.judge({0: (5, 9)}, 500)[0]
    assert liveness.judge({0: (6, 9)}, 501)[0]


def test_liveness_without_lag_holds() -> None:
    """A quiet topic is no fault, and what comes after the quiet has all of its time."""
    liveness = Liveness(120)
    assert liveness.judge({0: (9, 9)}, 0)[0]
    assert liveness.judge({0: (9, 9)}, 1000)[0]
    assert liveness.judge({0: (9, 10)}, 1001)[0]
    assert liveness.judge({}, 2000)[0]


def test_liveness_forgets_a_partition_that_was_given_away() -> None:
    """When it comes back it starts anew."""
    liveness = Liveness(120)
    liveness.judge({0: (5, 9)}, 0)
    liveness.judge({}, 60)
    assert liveness.judge({0: (5, 9)}, 130)[0]
