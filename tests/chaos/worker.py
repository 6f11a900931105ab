"""`streamer score` with an engine that fails on demand; everything else is the worker as it is shipped.

    CHAOS_ENGINE='{"seed": 1, "raises": 0.1, "memory": 8, "hangs": 0.01, "breaks": 0.01}' python -m tests.chaos.worker

The engine answers that a picture contradicts its text when it is red, and can never score one that is green.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engines import releases
from engines.errors import InferenceFailed
from streamer import scorer, settings
from streamer.errors import StreamerError
from tests.chaos.orders import TOLD, EngineFaults

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engines.contract import Batch

LOGIT = 12.0
BRIGHT = 200  # of 255
HANG_S = 3600.0


class ChaosEngine:
    """An `engines.contract.Engine` whose answers follow from the picture alone."""

    device = "chaos"
    concurrency = 2

    def __init__(self, faults: EngineFaults) -> None:
        self.manifest = releases.read_manifest(releases.shipped())
        self._faults = faults
        self._calm = Path(faults.calm)  # without one it is the working directory, which is there
        self._rng = random.Random(faults.seed)
        self._lock = threading.Lock()

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        """Return the logits, or fail as the faults say.

        Raises:
            InferenceFailed: a green picture, a batch that is too large, or chance.
        """
        with self._lock:
            raises, hangs, breaks = (self._rng.random() for _ in range(3))
        faults = EngineFaults() if self._calm.exists() else self._faults
        if hangs < faults.hangs:
            _tell("hangs")
            time.sleep(HANG_S)
        if breaks < faults.breaks:
            _tell("breaks")
            raise RuntimeError("the device fell off the bus")
        if faults.memory and len(batch) > faults.memory:
            _tell("memory")
            raise MemoryError("out of memory")
        if len(batch) > 1 and raises < faults.raises:
            _tell("raises")
            raise InferenceFailed("a transient fault of the device")
        middle = batch.pixel_values[:, :, batch.pixel_values.shape[2] // 2, batch.pixel_values.shape[3] // 2]
        if (middle[:, 1] > BRIGHT).any() and not (middle[:, 0] > BRIGHT).all():
            raise InferenceFailed("a green picture")
        return np.where(middle[:, 0] > BRIGHT, LOGIT, -LOGIT).astype(np.float32)

    def close(self) -> None:
        """Nothing to free."""


def _tell(fault: str) -> None:
    os.write(sys.stderr.fileno(), f"{TOLD}{fault}\n".encode())  # at once, whatever other threads write


def main() -> None:
    """Run the worker; what stops it is its exit code, as in `streamer.cli`."""
    logging.getLogger("aiokafka").setLevel(logging.INFO)  # what the group does is seen in the log of a run that failed
    faults = msgspec.json.decode(os.environ.get("CHAOS_ENGINE", "{}"), type=EngineFaults)
    loaded = settings.load()
    try:
        code = scorer.run(loaded, engine=ChaosEngine(faults))
    except StreamerError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    main()
