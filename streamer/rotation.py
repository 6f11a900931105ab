"""The releases that a worker has loaded: the one that judges what comes, and those that finish what they began.

A swap costs no event and no pause: the new release is loaded, warm and checked, and has decoders of its own that have
begun, before one assignment sends new events to it. The old one is closed when its last event has left, so that memory
returns to that of one engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from PIL import Image

from engines import releases
from engines.errors import EngineError, ReleaseRefused
from engines.runtime import loader
from streamer.decoding import BlockingDecoders, DecoderPool
from streamer.errors import FatalError
from streamer.reload import Loaded
from streamer.serving import Reading, Serving
from streamer.shadow import Challenger

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from pathlib import Path

    from engines.contract import Engine, ImageSpec, Manifest
    from streamer.batch import Batcher, Lane
    from streamer.pipeline import Pipeline
    from streamer.settings import Settings
    from streamer.telemetry import Telemetry

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Part:
    """A release at work and what must be closed after it."""

    serving: Serving
    engine: Engine
    decoders: DecoderPool

    async def close(self) -> None:
        await self.decoders.__aexit__()
        await asyncio.to_thread(self.engine.close)


class Rotation:
    """Swaps releases; belongs to one event loop.

    Args:
        settings: of the worker.
        executor: for what would hold up the event loop.
        telemetry: is told which engine runs.
    """

    def __init__(self, settings: Settings, executor: Executor, telemetry: Telemetry) -> None:
        self._settings = settings
        self._executor = executor
        self._telemetry = telemetry
        self._parts: dict[Serving, _Part] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def loaded(self) -> int:
        """How many engines are in memory."""
        return len(self._parts)

    async def begin(self, loaded: Loaded, batcher: Batcher) -> Serving:
        """Return the release that a worker starts with, at work on the batcher's own lane."""
        decoders = await _decoders(self._settings, loaded.engine.manifest.image).__aenter__()
        serving = self._take(loaded, batcher.lane, decoders)
        self._telemetry.engine(loaded.engine)
        return serving

    async def adopt(self, loaded: Loaded, pipeline: Pipeline, batcher: Batcher) -> None:
        """Let a loaded release judge what comes from now on; the one that did is closed when it has finished.

        Raises:
            ReleaseRefused: release_incompatible, decoders_not_started; nothing has changed then.
            FatalError: decoder_unusable; nothing has changed then.
        """
        lane = batcher.open(loaded.engine, max_batch=max_batch(self._settings, loaded.engine))
        try:
            decoders = await _begun(_decoders(self._settings, loaded.engine.manifest.image))
        except (EngineError, FatalError):
            raise
        except Exception as error:  # no memory, no process, no file: the engine that runs has its own
            raise ReleaseRefused(f"{type(error).__name__}: {error}", code="decoders_not_started") from error
        before = pipeline.swap(self._take(loaded, lane, decoders))
        self._telemetry.engine(loaded.engine)
        self._telemetry.engine_swapped()
        log.info("engine.swapped", release=loaded.release, replaces=before.release)
        task = asyncio.create_task(self._retire(before))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Close every release; call it when the batcher runs nothing any more."""
        for task in tuple(self._leaving):
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        for part in self._parts.values():
            await part.close()
        self._parts.clear()

    def _take(self, loaded: Loaded, lane: Lane, decoders: DecoderPool) -> Serving:
        serving = Serving(
            lane=lane,
            tokenizer=loaded.tokenizer,
            decode=decoders.decode,
            executor=self._executor,
            explained_share=self._settings.pipeline.explained_share,
            heat_map_share=self._settings.pipeline.heat_map_share,
        )
        self._parts[serving] = _Part(serving, loaded.engine, decoders)
        return serving

    async def _retire(self, serving: Serving) -> None:
        await serving.unused()
        part = self._parts.pop(serving)
        await asyncio.shield(part.close())
        log.info("engine.closed", release=serving.release, loaded=self.loaded)


def load_configured(settings: Settings, engine: Engine | None = None) -> Loaded:
    """Return the release that the settings name, or the one that ships; `engine` runs instead of its own.

    Raises:
        FatalError: it does not load; the code is the engine's own.
    """
    directory = settings.engine.release or releases.shipped()
    try:
        if engine is not None:
            return Loaded(engine, loader.load_tokenizer(directory))
        return load(settings, directory)
    except EngineError as error:
        raise FatalError(error.code, f"the engine does not load: {error}") from error


def load(settings: Settings, directory: Path) -> Loaded:
    """Return the release in a directory, verified, warm and checked; blocks.

    Raises:
        EngineError: what is wrong with it, by its code.
    """
    chosen = settings.engine
    engine, tokenizer = loader.load_checked(
        directory,
        threads=chosen.threads,
        max_batch=chosen.max_batch,
        place=_place(settings),
        warn=lambda reason: log.warning("engine.fell_back", reason=reason),
    )
    log.info("engine.loaded", release=engine.manifest.release, device=engine.device, batch=engine.manifest.max_batch)
    return Loaded(engine, tokenizer)


def admit(settings: Settings, manifest: Manifest) -> None:
    """Do nothing if the release can run here as far as its manifest says; blocks.

    Raises:
        EngineError: plan_missing, engine_unavailable.
    """
    loader.require_plan(manifest, _place(settings))


def _place(settings: Settings) -> loader.Place:
    chosen = settings.engine
    return loader.Place(runtime=chosen.runtime, gpu=chosen.gpu, plans=chosen.plans)


def load_challenger(settings: Settings, directory: Path) -> Loaded:
    """Return the release in a directory as `load` does, to be tried with one product at a time; blocks.

    Raises:
        EngineError: what is wrong with it, by its code.
    """
    engine = settings.engine.model_copy(update={"threads": 1, "max_batch": 1})
    return load(settings.model_copy(update={"engine": engine}), directory)


def challenger(settings: Settings, loaded: Loaded) -> Challenger:
    """Return a loaded release with a decoder of its own; blocks.

    Raises:
        FatalError: decoder_unusable.
    """
    manifest = loaded.engine.manifest
    with contextlib.ExitStack() as stack:
        decoders = stack.enter_context(BlockingDecoders(_decoders(settings, manifest.image, size=1)))
        decoders.decode(_probe())
        stack.callback(loaded.engine.close)
        freeing = stack.pop_all()
    return Challenger(Reading(manifest, loaded.tokenizer), decoders.decode, loaded.engine, freeing.close)


def configured_release(settings: Settings, engine: Engine | None = None) -> str:
    """Return the name of the release that the settings name.

    Raises:
        FatalError: it has no manifest.
    """
    try:
        manifest = engine.manifest if engine else releases.read_manifest(settings.engine.release or releases.shipped())
    except EngineError as error:
        raise FatalError(error.code, f"STREAMER_ENGINE__RELEASE: {error}") from error
    return manifest.release


def max_batch(settings: Settings, engine: Engine) -> int:
    """Return how many pairs a batch of the engine may have."""
    return min(settings.engine.max_batch or engine.manifest.max_batch, engine.manifest.max_batch)


def _decoders(settings: Settings, spec: ImageSpec, *, size: int | None = None) -> DecoderPool:
    pipeline = settings.pipeline
    return DecoderPool(
        spec,
        size=size or pipeline.decoders,
        max_bytes=settings.fetch.max_image_bytes,
        max_pixels=pipeline.max_pixels,
        memory_bytes=pipeline.decode_memory_mib * 2**20,
        cpu_s=pipeline.decode_cpu_s,
    )


async def _begun(decoders: DecoderPool) -> DecoderPool:
    """Start the decoders and return once they have decoded something: the first product does not wait for them."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(decoders)
        await decoders.decode(_probe())
        stack.pop_all()
    return decoders


def _probe() -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "PNG")
    return picture.getvalue()
