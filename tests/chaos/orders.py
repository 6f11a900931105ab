"""What the processes of a run are told, and what a run tells: light, so that who only reads results starts at once."""

from __future__ import annotations

from typing import Final

import msgspec

from tests.chaos.faults import Fault  # noqa: TC001 - msgspec reads the annotations
from tests.chaos.results import Result  # noqa: TC001 - msgspec reads the annotations
from tests.chaos.size import Size  # noqa: TC001 - msgspec reads the annotations


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Which run; `directory` is there and empty, `background` says that other work goes first."""

    fault: Fault
    seed: int
    size: Size
    directory: str
    background: bool = False


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a run tells: what it is at and how much of it is done; in the end, the result."""

    stage: str
    share: float = 0.0
    result: Result | None = None


TOLD: Final = "chaos engine: "
"""A worker's log has a line with this, and the name of the fault, for each that befell its engine."""


class EngineFaults(msgspec.Struct, frozen=True, kw_only=True):
    """What befalls the engine.

    Attributes:
        seed: of everything random here.
        raises: share of the batches with more than one pair that it cannot run; each pair alone it can.
        memory: pairs for which it has memory; a larger batch fails. 0: any number.
        hangs: share of the batches that never end.
        breaks: share of the batches on which it raises what is no error of an engine.
        calm: a path; all this ends when something stands there.
    """

    seed: int = 0
    raises: float = 0.0
    memory: int = 0
    hangs: float = 0.0
    breaks: float = 0.0
    calm: str = ""
