"""When a host is left alone, and when it is asked again."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.breaker import LONGEST_PAUSE_S, CircuitBreakers, HostUnavailable
from streamer.errors import RejectedEvent, StreamerError, TransientError

HOST, OTHER = ("cdn.example", 443), ("other.example", 443)
FAILED, NOT_FOUND = TransientError("image_timeout", "slow"), RejectedEvent("image_not_found", "404")


class Breakers:
    """Circuit breakers on a clock that the test turns."""

    def __init__(self, failures: int = 3) -> None:
        self.now = 100.0
        self.breakers = CircuitBreakers(failures=failures, pause_s=5, clock=lambda: self.now)

    def attempt(self, error: BaseException | None = None, host: tuple[str, int] = HOST) -> str:
        """Make a try that ends like this; return what became of it."""
        try:
            with self.breakers.attempt(host):
                if error is not None:
                    raise error
        except StreamerError as raised:
            return raised.code
        except asyncio.CancelledError:
            return "cancelled"
        return "ok"


@pytest.fixture
def hosts() -> Breakers:
    """Yield breakers that open after three failures, for five seconds."""
    return Breakers()


def fail(hosts: Breakers, times: int) -> list[str]:
    """Make tries that fail; return what became of them."""
    return [hosts.attempt(FAILED) for _ in range(times)]


def test_breaker_opens_after_failures_in_a_row(hosts: Breakers) -> None:
    """The fourth try is not made, and says how long the host is left alone; other hosts are not concerned."""
    assert fail(hosts, 4) == ["image_timeout"] * 3 + ["image_host_unavailable"]
    with pytest.raises(HostUnavailable) as caught, hosts.breakers.attempt(HOST):
        pass
    assert caught.value.retry_after_s == 5
    assert hosts.attempt(host=OTHER) == "ok"


@pytest.mark.parametrize("answer", [None, NOT_FOUND])
def test_breaker_host_that_answers_in_between_stays_closed(hosts: Breakers, answer: StreamerError | None) -> None:
    """An answer, also one without a picture, says that the host is there."""
    fail(hosts, 2)
    hosts.attempt(answer)
    assert fail(hosts, 3) == ["image_timeout"] * 3


def test_breaker_half_open_lets_one_try_through(hosts: Breakers) -> None:
    """While the probe is under way others wait for its verdict; it closes the circuit."""
    fail(hosts, 3)
    hosts.now += 5
    with hosts.breakers.attempt(HOST):
        assert hosts.attempt() == "image_host_unavailable"
    assert hosts.attempt() == "ok"
    assert len(hosts.breakers) == 0


def test_breaker_probe_that_fails_doubles_the_pause(hosts: Breakers) -> None:
    """A host that stays dead is asked less and less, at most once a minute."""
    fail(hosts, 3)
    pauses = []
    for _ in range(6):
        started = hosts.now
        while hosts.attempt(FAILED) == "image_host_unavailable":
            hosts.now += 1
        pauses.append(hosts.now - started)
    assert pauses == [5, 10, 20, 40, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_breaker_probe_that_is_cancelled_leaves_the_place_to_another(hosts: Breakers) -> None:
    """An event that is superseded while it probes has learned nothing."""
    fail(hosts, 3)
    hosts.now += 5
    assert hosts.attempt(asyncio.CancelledError()) == "cancelled"
    assert hosts.attempt() == "ok"


def test_breaker_retry_after_lengthens_the_pause(hosts: Breakers) -> None:
    """A host that asks for nine seconds gets them."""
    fail(hosts, 2)
    hosts.attempt(TransientError("image_rate_limited", "slow down", retry_after_s=9))
    hosts.now += 8.9
    assert hosts.attempt() == "image_host_unavailable"
    hosts.now += 0.2
    assert hosts.attempt() == "ok"


def test_breaker_retry_after_of_a_day_is_none_of_an_hour(hosts: Breakers) -> None:
    """Whoever answers for some pictures of a large host must not take it from all products for as long as they like."""
    fail(hosts, 2)
    hosts.attempt(TransientError("image_rate_limited", "slow down", retry_after_s=86_400))
    hosts.now += LONGEST_PAUSE_S
    assert hosts.attempt() == "ok"


def test_breaker_failures_from_before_it_opened_change_nothing(hosts: Breakers) -> None:
    """Tries that were under way when the circuit opened do not lengthen its pause."""
    fail(hosts, 2)
    late = hosts.breakers.attempt(HOST)
    late.__enter__()
    fail(hosts, 1)
    assert not late.__exit__(TransientError, FAILED, None)  # the error goes on
    hosts.now += 5
    assert hosts.attempt() == "ok"


@given(st.lists(st.sampled_from(["ok", "fail", "reject", "cancel", "wait"]), max_size=60), st.integers(1, 4))
def test_breaker_in_any_history_admits_until_enough_failed_in_a_row(history: list[str], failures: int) -> None:
    """A try is refused only after that many failures in a row, and never for longer than the longest pause."""
    hosts = Breakers(failures)
    errors = {"fail": FAILED, "reject": NOT_FOUND, "cancel": asyncio.CancelledError(), "ok": None}
    row = 0
    for step in history:
        if step == "wait":
            hosts.now += 7
            continue
        outcome = hosts.attempt(errors[step])
        if outcome == "image_host_unavailable":
            assert row >= failures
        elif step == "fail":
            row += 1
        elif step != "cancel":
            row = 0
    hosts.now += LONGEST_PAUSE_S
    assert hosts.attempt() == "ok"


def test_breaker_try_that_another_circuit_held_back_teaches_nothing(hosts: Breakers) -> None:
    """Nothing was sent to the host: it has neither failed nor answered, and another try may probe."""
    held_back = HostUnavailable("image_host_unavailable", "all of its domain is left alone")
    assert hosts.attempt(held_back) == "image_host_unavailable"
    assert len(hosts.breakers) == 0
    fail(hosts, 3)
    hosts.now += 5
    assert hosts.attempt(held_back) == "image_host_unavailable"
    assert hosts.attempt() == "ok"
