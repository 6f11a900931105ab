"""Which code an adaptation is run by: what other code has left in a work folder is not gone on from. No torch."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
_ALL: Final = ("*.py", "models/*.py")
_SHOWN: Final = frozenset({"cli.py", "__main__.py", "terminal.py"})  # what people read, and no result follows from


@cache
def digest(*patterns: str) -> str:
    """Return SHA-256 over the sources of `engines.build` that match, or over all that trains, measures and exports."""
    found = hashlib.sha256()
    files = {file for pattern in patterns or _ALL for file in _HERE.glob(pattern) if file.name not in _SHOWN}
    for file in sorted(files):
        found.update(f"{file.relative_to(_HERE)}\0".encode())
        found.update(file.read_bytes())
    return found.hexdigest()
