"""A trained model → `model.onnx`, compared with its source before anybody may use it."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np
import onnxruntime
import torch
from onnxscript.optimizer import optimize

from engines.contract import Batch, TensorSpec
from engines.errors import ParityExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    import onnx_ir
    from numpy.typing import NDArray
    from torch import nn

    from engines.contract import Engine, ImageSpec, TextSpec

OPSET: Final = 20
TOLERANCE: Final = 1e-4
"""Largest |ONNX - torch| of a logit; float32 graphs of this size differ by about 1e-6."""

_PARITY_BATCHES: Final = (1, 2, 5)
_KNOWN: Final = 0.7  # of random attributes
_FEW_WORDS: Final = 100  # any vocabulary has so many


def input_specs(image: ImageSpec, text: TextSpec, *, attributes: int = 0) -> tuple[TensorSpec, ...]:
    """Return the inputs of every family's graph; `attributes` is how many columns they have, 0: it takes none."""
    tokens = (None, text.max_tokens)
    columns = TensorSpec(name="attributes", dtype="float32", shape=(None, attributes, 2))
    return (
        TensorSpec(name="pixel_values", dtype="uint8", shape=(None, 3, image.height, image.width)),
        TensorSpec(name="input_ids", dtype="int32", shape=tokens),
        TensorSpec(name="attention_mask", dtype="int32", shape=tokens),
        *([columns] if attributes else []),
    )


def export(model: nn.Module, inputs: Sequence[TensorSpec], path: Path) -> None:
    """Write the model in evaluation mode as ONNX, weights inside, the batch dimension dynamic."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    example = _random_inputs(inputs, 2, seed=0)
    with _quiet():
        program = torch.onnx.export(
            model.eval(),
            tuple(example),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            input_names=[spec.name for spec in inputs],
            output_names=["logits"],
            optimize=False,
            verbose=False,
        )
        assert program is not None
        optimize(program.model, num_iterations=1)  # a second time takes as long, and finds 5 nodes of 1,000
    _forget_origin(program.model)
    program.save(path)


def _forget_origin(model: onnx_ir.Model) -> None:
    """Remove what the exporter notes of where each node comes from: lines of code, with this machine's paths."""
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


def on_onnx_runtime(model: nn.Module, example: torch.Tensor) -> Callable[[torch.Tensor], list[NDArray[np.float32]]]:
    """Return what runs a frozen part of a model on ONNX Runtime, in the thread that asks; several may at once.

    Args:
        model: takes one tensor and returns several, with the same first dimension of any size.
        example: (B, ...), B at least 2.
    """
    batch = torch.export.Dim("batch", min=1, max=1024)
    with _quiet():
        program = torch.onnx.export(
            model, (example,), dynamo=True, opset_version=OPSET, dynamic_shapes=({0: batch},), verbose=False
        )
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)
    name = session.get_inputs()[0].name
    return lambda tensor: [np.asarray(output) for output in session.run(None, {name: tensor.numpy()})]


def check_parity(model: nn.Module, engine: Engine, *, words: int = _FEW_WORDS, seed: int = 0) -> float:
    """Return the largest |ONNX - torch| over batches of 1, 2 and 5 random pairs; `words` is the vocabulary's size.

    Raises:
        ParityExceeded: it is above `TOLERANCE`.
    """
    largest = 0.0
    for size in _PARITY_BATCHES:
        tensors = _random_inputs(engine.manifest.inputs, size, words=words, seed=seed + size)
        with torch.no_grad():
            expected = model(*tensors).numpy()
        found = engine.infer(Batch(*(tensor.numpy() for tensor in tensors)))
        largest = max(largest, float(np.abs(found - expected).max()))
    if not largest <= TOLERANCE:
        raise ParityExceeded(f"ONNX and torch differ by {largest:.2e} in a logit, above {TOLERANCE:.0e}")
    return largest


def _random_inputs(
    inputs: Sequence[TensorSpec], size: int, *, seed: int, words: int = _FEW_WORDS
) -> list[torch.Tensor]:
    """Return pixels, ids, a mask of random length and attributes, as `inputs` has them, with a batch of `size`."""
    generator = torch.Generator().manual_seed(seed)
    pixels, ids, mask, *attributes = ((size, *(d or size for d in spec.shape[1:])) for spec in inputs)
    lengths = torch.randint(1, mask[1] + 1, (size, 1), generator=generator)
    return [
        torch.randint(0, 256, pixels, generator=generator, dtype=torch.uint8),
        torch.randint(0, words, ids, generator=generator, dtype=torch.int32),
        (torch.arange(mask[1])[None] < lengths).int(),
        *(_random_attributes(shape[:2], generator) for shape in attributes),
    ]


def _random_attributes(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return values of which some are not known, (B, A, 2)."""
    known = (torch.rand(shape, generator=generator) < _KNOWN).float()
    return torch.stack([torch.randn(shape, generator=generator), known], dim=-1)


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the exporter's notes on what it cannot fold or does not find, and its deprecations, off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
