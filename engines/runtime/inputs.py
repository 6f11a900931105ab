"""A batch → the graph's inputs by name, checked: the runtimes' own messages do not say which input is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engines.contract import Batch
from engines.errors import InferenceFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engines.contract import Manifest, TensorSpec


def checked(batch: Batch, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Return the batch by input name.

    Raises:
        InferenceFailed: the batch is empty or too large, or a tensor is not what the manifest says.
    """
    if not 1 <= len(batch) <= manifest.max_batch:
        raise InferenceFailed(f"{len(batch)} pairs in a batch; this engine takes 1 to {manifest.max_batch}")
    inputs: dict[str, NDArray[Any]] = {spec.name: getattr(batch, spec.name) for spec in manifest.inputs}
    for spec in manifest.inputs:
        _check(inputs[spec.name], spec, len(batch))
    return inputs


def checked_logits(logits: NDArray[Any], size: int) -> NDArray[np.float32]:
    """Return the logits (B,) as float32.

    Raises:
        InferenceFailed: there are not `size` of them, or one is not finite.
    """
    if logits.shape != (size,) or not np.isfinite(logits).all():
        raise InferenceFailed(f"{size} pairs gave logits of shape {logits.shape}, or not all are finite")
    return np.asarray(logits, dtype=np.float32)


def blank(manifest: Manifest, size: int) -> Batch:
    """Return black pictures beside texts of token 0: enough to warm up with."""
    image, tokens = manifest.image, manifest.text.max_tokens
    columns = [spec.shape[1] or 0 for spec in manifest.inputs if spec.name == "attributes"]
    return Batch(
        pixel_values=np.zeros((size, 3, image.height, image.width), dtype=np.uint8),
        input_ids=np.zeros((size, tokens), dtype=np.int32),
        attention_mask=np.ones((size, tokens), dtype=np.int32),
        attributes=np.zeros((size, columns[0], 2), dtype=np.float32) if columns else None,
    )


def _check(tensor: NDArray[Any] | None, spec: TensorSpec, size: int) -> None:
    shape = (size, *spec.shape[1:])
    if tensor is None:
        raise InferenceFailed(f"the batch has no {spec.name}; it must be {spec.dtype} {shape}")
    if tensor.dtype != spec.dtype or tensor.shape != shape:
        raise InferenceFailed(f"{spec.name} is {tensor.dtype} {tensor.shape}; it must be {spec.dtype} {shape}")
