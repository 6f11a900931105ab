"""Pictures that wait for their score: held where they cost little memory."""

from __future__ import annotations

import io
import tempfile
from typing import IO

IN_MEMORY_BYTES = 256 * 2**10
"""Of a picture that waits for its score; a larger one waits in a file without a name, which no crash leaves behind."""


def hold(picture: bytes) -> IO[bytes]:
    """Return the picture where it can wait; for threads."""
    held = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - whoever holds it last ends it
    try:
        held.write(picture)
    except OSError:  # a full disk, or no place for temporary files: no reason to stop scoring
        held.close()
        return io.BytesIO(picture)
    return held
