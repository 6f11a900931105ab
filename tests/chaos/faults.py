"""What befalls a run, and when: a schedule that follows from the fault and the seed alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

Fault = Literal["kill", "terminate", "pause", "scale", "broker", "cut", "images", "engine", "disk", "clock", "mixed"]
FAULTS: tuple[Fault, ...] = get_args(Fault)

Action = Literal["kill", "terminate", "pause", "scale", "broker-stop", "broker-kill", "cut", "disk", "clock"]
Moment = Literal["any", "young", "rebalance"]
CUTS = ("requests", "answers", "both", "refused")
CLOCK_JUMPS_S = (-86_400, -3_600, -30, -2, 2, 30, 3_500, 7_200, 86_400)
SHORTEST_S, LONGEST_S = 1.0, 60.0
WHOLE_RUN_S = 40.0  # of publishing: runs that are shorter have shorter outages, too
LONGEST_SHORT_S = 8.0  # in those: still longer than a session, so that partitions are given to others
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 3.0, 15.0
"""Around the session's timeout: a worker that goes on still is in its group, or its partitions were given away."""
STRATA = 10


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens.

    Attributes:
        at_s: seconds after the run's first outcome.
        action: what happens.
        target: the worker it happens to, the number of workers to scale to, or which way is cut.
        lasts_s: seconds until it is over; 0 for what happens at once.
        jump_s: seconds by which the wall clock is off.
        moment: what it waits for then: `young`, the process in that worker's place to be `age_s` old; `rebalance`, the
            group to give partitions to others.
        age_s: of a process, in seconds.
    """

    at_s: float
    action: Action
    target: int | str = 0
    lasts_s: float = 0.0
    jump_s: int = 0
    moment: Moment = "any"
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What a schedule is drawn for: how long events are published, in seconds, and how many workers there are."""

    duration_s: float
    workers: int


def schedule(fault: Fault, seed: int, setting: Setting) -> list[Step]:
    """Return what happens in the run, in order."""
    dice = _Dice(f"{fault} {seed}", seed, setting)
    drawn = _DRAWN if fault == "mixed" else {fault: _DRAWN[fault]} if fault in _DRAWN else {}
    steps = [step for draw in drawn.values() for step in draw(dice)]
    return sorted(steps, key=lambda step: step.at_s)


class _Dice:
    """Draws moments, spans and workers of one run."""

    def __init__(self, name: str, seed: int, setting: Setting) -> None:
        self.rng = random.Random(name)
        self.setting = setting
        self._stratum = seed % STRATA

    def moment(self) -> float:
        """Return a moment of the run."""
        return self.rng.uniform(0.0, self.setting.duration_s)

    def worker(self) -> int:
        """Return a worker."""
        return self.rng.randrange(self.setting.workers)

    def spans(self, count: int) -> list[float]:
        """Return how long outages last: as many short as long ones, by their logarithm.

        The first one is of the seed's own tenth, so that ten runs in a row have outages of every length.
        """
        shares = [(self._stratum + self.rng.random()) / STRATA, *(self.rng.random() for _ in range(count - 1))]
        whole = self.setting.duration_s >= WHOLE_RUN_S
        longest_s = LONGEST_S if whole else max(LONGEST_SHORT_S, self.setting.duration_s / 2)
        return [SHORTEST_S * (longest_s / SHORTEST_S) ** share for share in shares]


def _signals(action: Literal["kill", "terminate"]) -> Callable[[_Dice], list[Step]]:
    def draw(dice: _Dice) -> list[Step]:
        """In the run's first second, in the first second of the process that follows, in a rebalance, and at random."""
        first, at = dice.worker(), dice.moment()
        return [
            Step(dice.rng.random(), action, dice.worker()),
            Step(at, action, first),
            Step(at, action, first, moment="young", age_s=dice.rng.uniform(0.1, 1.0)),
            Step(at, action, dice.worker(), moment="rebalance"),
            Step(dice.moment(), action, dice.worker()),
        ]

    return draw


def _pause(dice: _Dice) -> list[Step]:
    """A worker stands still and goes on, as after a long swap or a virtual machine that was moved."""
    spans = [dice.rng.uniform(SHORTEST_PAUSE_S, LONGEST_PAUSE_S) for _ in range(4)]
    return [Step(dice.moment(), "pause", dice.worker(), span) for span in spans]


def _scale(dice: _Dice) -> list[Step]:
    """To one worker, back to all, to one again, and back."""
    moments = sorted(dice.moment() for _ in range(4))
    return [Step(at, "scale", workers) for at, workers in zip(moments, 2 * (1, dice.setting.workers), strict=True)]


def _broker(dice: _Dice) -> list[Step]:
    actions: tuple[Action, ...] = ("broker-stop", "broker-kill")
    return [Step(dice.moment(), action, lasts_s=span) for action, span in zip(actions, dice.spans(2), strict=True)]


def _cut(dice: _Dice) -> list[Step]:
    ways = dice.rng.sample(CUTS, 3)
    return [Step(dice.moment(), "cut", way, span) for way, span in zip(ways, dice.spans(3), strict=True)]


def _disk(dice: _Dice) -> list[Step]:
    return [Step(dice.moment(), "disk", dice.worker(), span) for span in dice.spans(3)]


def _clock(dice: _Dice) -> list[Step]:
    jumps = dice.rng.sample(CLOCK_JUMPS_S, 5)
    return [
        Step(dice.moment(), "clock", dice.worker(), span, jump_s=jump)
        for jump, span in zip(jumps, dice.spans(5), strict=True)
    ]


_DRAWN: dict[Fault, Callable[[_Dice], list[Step]]] = {
    "kill": _signals("kill"),
    "terminate": _signals("terminate"),
    "pause": _pause,
    "scale": _scale,
    "broker": _broker,
    "cut": _cut,
    "disk": _disk,
    "clock": _clock,
}
