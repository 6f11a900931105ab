"""Products ready for the engine, the engine's answers, and how several become one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engines.contract import Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Pair:
    """One product ready for the engine.

    pixel_values: uint8 (3, H, W). input_ids, attention_mask: int32 (T,). attributes: float32 (A, 2), or None where the
    engine takes none.
    """

    pixel_values: NDArray[np.uint8]
    input_ids: NDArray[np.int32]
    attention_mask: NDArray[np.int32]
    attributes: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """The engine's answer for one pair: its logit, how long it waited for the engine, how long its batch ran."""

    logit: float
    waited_s: float
    infer_s: float


class Collator:
    """Pairs → one batch, its pictures in memory that is used again: fresh pages would cost more."""

    def __init__(self) -> None:
        self._pictures = memoryview(b"")

    def collate(self, pairs: list[Pair], *, room: int) -> Batch:
        """Return the pairs as one batch, good until the next call; `room` is how many pairs a batch may have.

        Pictures are copied as plain bytes: numpy gives the interpreter away at each copy, and the engine would wait to
        get it back once per pair.
        """
        shape, size = pairs[0].pixel_values.shape, pairs[0].pixel_values.nbytes
        if len(self._pictures) != room * size:
            self._pictures = memoryview(bytearray(room * size))
        for row, pair in enumerate(pairs):
            self._pictures[row * size : (row + 1) * size] = pair.pixel_values.data.cast("B")
        pictures = np.frombuffer(self._pictures, np.uint8, count=len(pairs) * size)
        known = [pair.attributes for pair in pairs if pair.attributes is not None]
        return Batch(
            pixel_values=pictures.reshape(len(pairs), *shape),
            input_ids=np.stack([pair.input_ids for pair in pairs]),
            attention_mask=np.stack([pair.attention_mask for pair in pairs]),
            attributes=np.stack(known) if known else None,
        )
