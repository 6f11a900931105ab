"""What the doctor's checks end in. A leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One check: what was found in words, and what to do unless all is well."""

    check: str
    status: Status
    found: str
    advice: str = ""


def failure(check: str, error: Exception, advice: str) -> Finding:
    """Return an error as a finding, its code before its words."""
    code = getattr(error, "code", type(error).__name__)
    return Finding(check, "fail", f"{code}: {error}", advice)
