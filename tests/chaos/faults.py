"""What befalls a run, and when: a schedule that follows from the fault and the seed alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

Fault = Literal["kill", "terminate", "scale", "broker", "cut", "images", "engine", "disk", "clock", "mixed"]
FAULTS: tuple[Fault, ...] = get_args(Fault)

Action = Literal["kill", "terminate", "scale", "broker-stop", "broker-kill", "cut", "disk", "clock"]
CUTS = ("requests", "answers", "both", "refused")
CLOCK_JUMPS_S = (-86_400, -3_600, -30, -2, 2, 30, 3_500, 7_200, 86_400)
LONGEST_S, SHORTEST_S = 60.0, 1.0


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens.

    Attributes:
        at_s: seconds after the run's first outcome.
        action: what happens.
        target: the worker it happens to, the number of workers to scale to, or which way is cut.
        lasts_s: seconds until it is over; 0 for what happens at once.
        jump_s: seconds by which the wall clock is off.
    """

    at_s: float
    action: Action
    target: int | str = 0
    lasts_s: float = 0.0
    jump_s: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """What a schedule is drawn for: how long events are published, in seconds, and how many workers there are."""

    duration_s: float
    workers: int


def schedule(fault: Fault, seed: int, setting: Setting) -> list[Step]:
    """Return what happens in the run, in order."""
    rng = random.Random(f"{fault} {seed}")
    drawn = _DRAWN if fault == "mixed" else {fault: _DRAWN[fault]} if fault in _DRAWN else {}
    steps = [step for draw in drawn.values() for step in draw(rng, setting)]
    return sorted(steps, key=lambda step: step.at_s)


def _moment(rng: random.Random, setting: Setting) -> float:
    return rng.uniform(0.0, setting.duration_s)


def _span(rng: random.Random, setting: Setting) -> float:
    return rng.uniform(SHORTEST_S, min(LONGEST_S, max(4.0, setting.duration_s / 2)))


def _signals(action: Literal["kill", "terminate"]) -> Callable[[random.Random, Setting], list[Step]]:
    def draw(rng: random.Random, setting: Setting) -> list[Step]:
        """One worker, the one that takes its place within its first second, and another during the rebalance."""
        first, second, at = rng.randrange(setting.workers), rng.randrange(setting.workers), _moment(rng, setting)
        return [
            Step(at, action, first),
            Step(at + rng.uniform(0.1, 1.1), action, first),
            Step(at + rng.uniform(0.2, 4.0), action, second),
            Step(_moment(rng, setting), action, rng.randrange(setting.workers)),
        ]

    return draw


def _scale(rng: random.Random, setting: Setting) -> list[Step]:
    """To one worker, back to all, to one again, and back."""
    moments = sorted(_moment(rng, setting) for _ in range(4))
    return [Step(at, "scale", workers) for at, workers in zip(moments, 2 * (1, setting.workers), strict=True)]


def _broker(rng: random.Random, setting: Setting) -> list[Step]:
    return [
        Step(_moment(rng, setting), action, lasts_s=_span(rng, setting)) for action in ("broker-stop", "broker-kill")
    ]


def _cut(rng: random.Random, setting: Setting) -> list[Step]:
    return [Step(_moment(rng, setting), "cut", what, _span(rng, setting)) for what in rng.sample(CUTS, 3)]


def _disk(rng: random.Random, setting: Setting) -> list[Step]:
    return [Step(_moment(rng, setting), "disk", rng.randrange(setting.workers), _span(rng, setting)) for _ in range(3)]


def _clock(rng: random.Random, setting: Setting) -> list[Step]:
    return [
        Step(_moment(rng, setting), "clock", rng.randrange(setting.workers), _span(rng, setting), jump_s=jump)
        for jump in rng.sample(CLOCK_JUMPS_S, 5)
    ]


_DRAWN: dict[Fault, Callable[[random.Random, Setting], list[Step]]] = {
    "kill": _signals("kill"),
    "terminate": _signals("terminate"),
    "scale": _scale,
    "broker": _broker,
    "cut": _cut,
    "disk": _disk,
    "clock": _clock,
}
