"""A release → the torch model that it was exported from, to go on training it; proven before anybody does.

Weights come from `weights.safetensors`. The small releases from before releases had that file are read out of their
graph. Either way the model must answer as the graph does, or it is not gone on with.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import onnx
import tokenizers
import torch
from onnx import numpy_helper
from torch import nn

from engines import releases
from engines.build import export, weights
from engines.build.assemble import Source
from engines.build.models import compact, small
from engines.errors import ReleaseNotRestorable
from engines.runtime.onnx import OnnxEngine

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.contract import Manifest

FAMILIES: Final = (small.FAMILY, compact.FAMILY)
"""Those that can be gone on with."""


def restore(directory: Path) -> Source:
    """Return what the release in `directory` was made of, as it was when it was exported.

    Raises:
        ManifestInvalid, ReleaseCorrupt: the release is not whole.
        ReleaseNotRestorable: it is of another family or an earlier version, or its weights cannot be read.
        ParityExceeded: the model that was read does not answer as the graph does.
    """
    manifest = releases.verify(directory)
    model = _model(manifest)
    if releases.WEIGHTS_FILE in manifest.files:
        weights.load(model, directory / releases.WEIGHTS_FILE)
    elif isinstance(model, small.SmallFusion):
        _read_graph(model, directory / releases.MODEL_FILE)
    else:
        raise ReleaseNotRestorable(
            f"{manifest.release} was made without {releases.WEIGHTS_FILE}: train it anew with `streamer adapt`"
        )
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / releases.TOKENIZER_FILE))
    engine = OnnxEngine(directory / releases.MODEL_FILE, manifest)
    export.check_parity(model.eval(), engine, words=tokenizer.get_vocab_size())
    engine.close()
    return Source(
        family=manifest.family,
        model=model,
        tokenizer=tokenizer,
        image=manifest.image,
        text=manifest.text,
        provenance=manifest.provenance,
        attributes=manifest.attributes,
    )


def _model(manifest: Manifest) -> small.SmallFusion | compact.CompactFusion:
    """Return a model of the release's family and sizes, its own weights not yet in it."""
    sizes: Any = manifest.provenance.get("model")
    try:
        if manifest.family == small.FAMILY:
            return small.SmallFusion(msgspec.convert(sizes, small.SmallConfig))
        if manifest.family == compact.FAMILY:
            return compact.CompactFusion(msgspec.convert(sizes, compact.CompactConfig))
    except msgspec.ValidationError as error:
        raise ReleaseNotRestorable(f"the manifest of {manifest.release} does not say its sizes: {error}") from error
    raise ReleaseNotRestorable(
        f"{manifest.release} is of the family {manifest.family}; gone on with are {', '.join(FAMILIES)}"
    )


def with_words(source: Source, words: list[str]) -> Source:
    """Return a small model that has a token of its own for each of these words, which it has spelt until now.

    A new word begins as the mean of the tokens that spelt it: the model answers nearly as before.
    """
    model = source.model
    assert isinstance(model, small.SmallFusion)
    described = msgspec.json.decode(source.tokenizer.to_str())
    vocabulary: dict[str, int] = described["model"]["vocab"]
    spelt = [_ids(source.tokenizer, word) for word in words]
    for word in words:
        vocabulary[word] = len(vocabulary)
    state = model.state_dict()
    for name in ("words.weight", "word_bias"):
        rows = [state[name][ids].mean(dim=0) for ids in spelt]
        state[name] = torch.cat([state[name], torch.stack(rows)]) if rows else state[name]
    config = replace(model.config, vocabulary_size=len(vocabulary))
    grown = small.SmallFusion(config)
    grown.load_state_dict(state)
    return replace(
        source,
        model=grown.eval(),
        tokenizer=tokenizers.Tokenizer.from_str(msgspec.json.encode(described).decode()),
        provenance=source.provenance | {"model": config.as_dict()},
    )


def _ids(tokenizer: tokenizers.Tokenizer, word: str) -> list[int]:
    """Return the tokens of a word, whether the tokenizer pads or not."""
    encoded = tokenizer.encode(word)
    return [token for token, real in zip(encoded.ids, encoded.attention_mask, strict=True) if real]


# -- the graph of a small release


class _Graph:
    """The constants of a graph, and what is computed from them."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(str(path)).graph
        self.constants: dict[str, NDArray[Any]] = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers = {name: node for node in graph.node for name in node.input}

    def matrix(self, layer: str) -> NDArray[Any]:
        """Return the weight of a linear layer: its own, or the one that is multiplied before its bias is added."""
        own = self.constants.get(f"{layer}.weight")
        if own is not None:
            return own
        added = self._readers[f"{layer}.bias"].input
        (product,) = (self._makers[name] for name in added if name in self._makers)
        multiplied = self.constants[product.input[1]]
        return multiplied.T

    def column(self, length: int) -> NDArray[Any]:
        """Return the only constant of this shape, (length, 1)."""
        (found,) = (value for value in self.constants.values() if value.shape == (length, 1))
        return found[:, 0]


def _read_graph(model: small.SmallFusion, path: Path) -> None:
    """Give the model the weights of a graph that torch has exported; norms come as what is left of them, a bias.

    Raises:
        ReleaseNotRestorable: the graph has other names than those of the exporter that this reads.
    """
    graph = _Graph(path)
    state: dict[str, NDArray[Any]] = {}
    try:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                state[f"{name}.weight"] = graph.matrix(name)
            elif isinstance(module, nn.BatchNorm2d):
                state |= _folded(name, module, graph.constants[f"{name.rpartition('.')[0]}.0.weight_bias"])
        state["word_bias"] = graph.column(model.config.vocabulary_size)
        for name in model.state_dict():
            if name not in state:
                state[name] = graph.constants[name]
    except (KeyError, ValueError) as error:
        raise ReleaseNotRestorable(f"{path} is not a graph that can be read back: {error!r} is missing") from error
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})


def _folded(name: str, norm: nn.BatchNorm2d, bias: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return a norm that only adds a bias: the rest of it stands in the convolution before it."""
    ones = np.ones_like(bias)
    return {
        f"{name}.weight": ones * np.float32(math.sqrt(1 + norm.eps)),
        f"{name}.bias": bias,
        f"{name}.running_mean": 0 * ones,
        f"{name}.running_var": ones,
        f"{name}.num_batches_tracked": np.array(0),
    }
