"""Batches that are all there already, through one engine: as many at the same time as it runs best."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from engines.contract import Batch, Engine


def infer_all(engine: Engine, batches: Iterable[Batch]) -> Iterator[NDArray[np.float32]]:
    """Yield the logits (B,) of each batch, in order; at most `concurrency` batches are in memory beyond the one due.

    Raises:
        InferenceFailed: the engine cannot run a batch.
    """
    with ThreadPoolExecutor(engine.concurrency, "infer") as threads:
        pending: deque[Future[NDArray[np.float32]]] = deque()
        for batch in batches:
            pending.append(threads.submit(engine.infer, batch))
            if len(pending) > engine.concurrency:
                yield pending.popleft().result()
        for last in pending:
            yield last.result()
