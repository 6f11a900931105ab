"""What a hostile case is: something that strangers may send, its class, and what it may become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

OK = "accepted"


@dataclass(frozen=True)
class Case(Generic[T]):
    """One thing that strangers may send; `wanted` are the outcomes that are right: OK, or codes of a rejection."""

    kind: str
    name: str
    given: T
    wanted: frozenset[str]

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


def case(kind: str, name: str, given: T, *wanted: str) -> Case[T]:
    """Return a case."""
    return Case(kind, name, given, frozenset(wanted))
