"""`streamer.sampling`: chances that are written down are the chances that there were."""

from __future__ import annotations

import random

import pytest

from streamer.sampling import AuditSampler

THRESHOLD = 0.5


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def sampler(clock: Clock | None = None, **changes: float | str) -> AuditSampler:
    """Return a sampler with a share of 1 %, 20 times that at the threshold, and no budget to speak of."""
    options: dict[str, float | str] = {"share": 0.01, "uncertainty": 20.0, "per_hour": 1e12, "salt": ""}
    return AuditSampler(**(options | changes), clock=clock or Clock())  # type: ignore[arg-type]


def test_chance_grows_with_the_probability_and_is_never_0() -> None:
    """A sure match has the share, one just below the threshold 21 times as much."""
    audit = sampler()
    chances = [audit.chance(probability, THRESHOLD) for probability in (0.0, 0.25, 0.4999999)]
    assert chances == pytest.approx([0.01, 0.11, 0.21], rel=1e-3)
    assert sampler(share=0.5).chance(0.49, THRESHOLD) == 1.0


def test_draw_of_an_item_is_the_same_when_its_event_comes_again() -> None:
    """Whichever worker has it; another salt draws others."""
    drawn = [sampler().draws(f"item{number}", 0.5) for number in range(100)]
    assert drawn == [sampler().draws(f"item{number}", 0.5) for number in range(100)]
    assert drawn != [sampler(salt="x").draws(f"item{number}", 0.5) for number in range(100)]


def test_figures_weighted_by_the_chance_are_without_bias() -> None:
    """What the audit says of the misses of an engine is, on average over many audits, how many there are."""
    rng = random.Random(1)
    products = [(rng.random() ** 3 * THRESHOLD, rng.random()) for _ in range(4000)]
    missed = [(probability, draw < probability) for probability, draw in products]
    truth = sum(wrong for _, wrong in missed)
    estimates = []
    for audit_number in range(40):
        audit = sampler(salt=str(audit_number))
        estimate = 0.0
        for number, (probability, wrong) in enumerate(missed):
            chance = audit.chance(probability, THRESHOLD)
            if audit.draws(f"item{number}", chance):
                estimate += wrong / chance
        estimates.append(estimate)
    assert sum(estimates) / len(estimates) == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize("per_s", [1, 50])
def test_budget_shrinks_chances_when_products_flood_in(per_s: int) -> None:
    """An import that brings fifty times the products is asked about no more often; in a calm stream nothing shrinks."""
    clock = Clock()
    audit = sampler(clock, per_hour=360.0, uncertainty=0.0)
    expected = 0.0
    for second in range(3600):
        for _ in range(per_s):
            clock.now = float(second)
            expected += audit.chance(0.1, THRESHOLD)
    wanted = 0.01 * per_s * 3600
    assert expected == pytest.approx(min(wanted, 360.0), rel=0.15)
