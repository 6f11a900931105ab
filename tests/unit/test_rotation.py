"""Releases that are swapped: two engines are in memory for as long as the old one has work, then one; or refused."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import releases
from engines.errors import ReleaseRefused
from engines.runtime import loader
from streamer import rotation
from streamer.batch import Batcher
from streamer.decoding import DecoderPool
from streamer.reload import Loaded
from streamer.rotation import Rotation
from streamer.settings import EngineSettings, PipelineSettings, Settings
from streamer.telemetry import Telemetry
from tests import tiny_release

if TYPE_CHECKING:
    from streamer.pipeline import Pipeline
    from streamer.serving import Serving

MIB = 2**20
ENGINE_MIB = 128
SIZE, TOKENS, WIDTH = 4, 8, 1024


def heavy_release(parent: Path, threshold: float) -> Path:
    """Write a release whose weights have 128 MiB: each token is looked up in a large table."""
    rows = ENGINE_MIB * MIB // 4 // WIDTH
    weights = np.random.default_rng(0).standard_normal((rows, WIDTH), np.float32)
    nodes = [
        helper.make_node("Gather", ["weights", "input_ids"], ["looked_up"]),
        helper.make_node("ReduceMean", ["looked_up", "axes"], ["said"], keepdims=0),
        helper.make_node("Cast", ["pixel_values"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "pixel_axes"], ["brightness"], keepdims=0),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["mask", "token_axis"], ["read"], keepdims=0),
        helper.make_node("Add", ["said", "brightness"], ["both"]),
        helper.make_node("Add", ["both", "read"], ["logits"]),
    ]
    inputs = [
        helper.make_tensor_value_info("pixel_values", TensorProto.UINT8, ["batch", 3, SIZE, SIZE]),
        helper.make_tensor_value_info("input_ids", TensorProto.INT32, ["batch", TOKENS]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT32, ["batch", TOKENS]),
    ]
    constants = [
        numpy_helper.from_array(weights, "weights"),
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("pixel_axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("token_axis", TensorProto.INT64, [1], [1]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch"])]
    graph = helper.make_graph(nodes, "heavy", inputs, outputs, constants)
    model = parent / "heavy.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(model))
    manifest = tiny_release.draft(size=SIZE, tokens=TOKENS, threshold=threshold)
    tokenizer = tiny_release.vocabulary(parent / "tokenizer.json")
    return releases.write_release(parent, manifest, {"model.onnx": model, "tokenizer.json": tokenizer})


def resident_mib() -> float:
    """Return the memory of this process that is resident."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


class Swapped:
    """As much of a pipeline as a swap needs."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving

    def swap(self, serving: Serving) -> Serving:
        before, self.serving = self.serving, serving
        return before


async def test_rotation_returns_to_the_memory_of_one_engine(tmp_path: Path) -> None:
    """While the old release has an event it stays; after its last one its memory is free, swap after swap."""
    made = [heavy_release(tmp_path, threshold) for threshold in (0.5, 0.6)]
    settings = Settings(engine=EngineSettings(release=made[0], threads=1), pipeline=PipelineSettings(decoders=1))

    def load(number: int) -> Loaded:
        return Loaded(*loader.load_checked(made[number % 2], threads=1))

    with ThreadPoolExecutor(1) as executor:
        rotating = Rotation(settings, executor, Telemetry())
        first = rotation.load_configured(settings)
        batcher = Batcher(first.engine, max_batch=8, report=lambda _: None)
        pipeline: Pipeline = Swapped(await rotating.begin(first, batcher))  # type: ignore[assignment]
        del first
        ctypes.CDLL(None).malloc_trim(0)  # what other tests left would be given back with the first engine
        alone_mib = resident_mib()
        for number in range(1, 4):
            with pipeline.serving.in_use():
                await rotating.adopt(load(number), pipeline, batcher)
                batcher.swap(pipeline.serving.lane)
                assert rotating.loaded == 2
                assert resident_mib() > alone_mib + 0.7 * ENGINE_MIB
            async with asyncio.timeout(20):
                while rotating.loaded > 1:  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.01)
                while resident_mib() > alone_mib + 0.3 * ENGINE_MIB:  # noqa: ASYNC110 - a thread frees it
                    await asyncio.sleep(0.01)
        await batcher.close()
        await rotating.close()


async def test_release_whose_decoders_do_not_start_is_refused_and_the_old_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine has no process, file or memory to spare: a reason like any other, and no end of the worker."""

    async def no_process(_: DecoderPool) -> DecoderPool:
        raise OSError("Resource temporarily unavailable")

    made = tiny_release.write(tmp_path, bias=0.0)
    settings = Settings(engine=EngineSettings(release=made, threads=1), pipeline=PipelineSettings(decoders=1))
    with ThreadPoolExecutor(1) as executor:
        rotating = Rotation(settings, executor, Telemetry())
        first = rotation.load_configured(settings)
        batcher = Batcher(first.engine, max_batch=8, report=lambda _: None)
        running = await rotating.begin(first, batcher)
        pipeline: Pipeline = Swapped(running)  # type: ignore[assignment]
        monkeypatch.setattr(DecoderPool, "__aenter__", no_process)
        with pytest.raises(ReleaseRefused) as caught:
            await rotating.adopt(rotation.load_configured(settings), pipeline, batcher)
        assert caught.value.code == "decoders_not_started"
        assert (pipeline.serving, batcher.lane, rotating.loaded) == (running, running.lane, 1)
        await batcher.close()
        await rotating.close()
