"""A release's directory → an engine that is verified, loaded and warm. The only place that chooses a runtime."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from engines import golden, plans, releases
from engines.errors import EngineUnavailable, InferenceFailed, PlanMissing
from engines.runtime.onnx import OnnxEngine
from engines.text import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from engines.contract import Engine, Manifest
    from engines.runtime.cuda import Cuda, Gpu

Runtime = Literal["auto", "tensorrt", "onnx-tensorrt", "onnx-cuda", "cpu"]
"""auto: the first of tensorrt, onnx-cuda and cpu that runs here. onnx-tensorrt is never chosen by itself: that provider
builds its engines when it starts, for minutes."""

_log: Final = logging.getLogger(__name__)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where an engine is to run.

    runtime: see `Runtime`. gpu: which one, counted from 0. plans: their folder; None: beside the release's files.
    """

    runtime: Runtime = "auto"
    gpu: int = 0
    plans: Path | None = None


def load(
    directory: Path | None = None,
    *,
    threads: int = 0,
    max_batch: int | None = None,
    place: Place | None = None,
    warn: Callable[[str], object] = _log.warning,
) -> Engine:
    """Return the engine of the release in `directory`, warm; None: the release that ships in this package.

    Args:
        directory: A release; see `engines.releases`.
        threads: CPU threads of one inference; 0: one per core.
        max_batch: A cap under the engine's own; the engine's manifest then says this one.
        place: Where it runs; unless told otherwise, on the best that is here.
        warn: Is told what does not run and why, if what runs is not the first choice of a machine with a GPU.

    Raises:
        ManifestInvalid, ReleaseCorrupt: the release is not whole.
        EngineUnavailable: this machine cannot run it. PlanMissing: it has no plan, and how to build it.
        InferenceFailed: it loads but does not run.
    """
    path = directory if directory is not None else releases.shipped()
    manifest = releases.verify(path)
    place = place or Place()
    loaders: dict[Runtime, Callable[[], Engine]] = {
        "tensorrt": lambda: _tensorrt(path, manifest, place, max_batch),
        "onnx-tensorrt": lambda: _onnx(path, _capped(manifest, max_batch), "TensorrtExecutionProvider", place),
        "onnx-cuda": lambda: _onnx(path, _capped(manifest, max_batch), "CUDAExecutionProvider", place),
        "cpu": lambda: _cpu(path, _capped(manifest, max_batch), threads),
    }
    if place.runtime != "auto":
        return loaders[place.runtime]()
    if not _expects_gpu():
        return loaders["cpu"]()
    for runtime in ("tensorrt", "onnx-cuda"):
        try:
            return loaders[runtime]()
        except (EngineUnavailable, InferenceFailed) as error:  # it does not load; it does not run its first batches
            warn(f"{runtime} does not run: {error}")
    engine = loaders["cpu"]()
    warn(f"the engine runs on the CPU: {engine.device}")
    return engine


def load_checked(
    directory: Path,
    *,
    threads: int = 0,
    max_batch: int | None = None,
    place: Place | None = None,
    warn: Callable[[str], object] = _log.warning,
) -> tuple[Engine, Tokenizer]:
    """Return engine and tokenizer of the release in `directory`, after asking its golden pairs again.

    The arguments are those of `load`. A release that was made without golden pairs is only asked for finite answers.

    Raises:
        ManifestInvalid, ReleaseCorrupt, EngineUnavailable, InferenceFailed: as `load`.
        ReleaseRefused: golden_mismatch, tokenizer_mismatch, golden_invalid.
    """
    engine = load(directory, threads=threads, max_batch=max_batch, place=place, warn=warn)
    try:
        tokenizer = load_tokenizer(directory)
        golden.check(engine, tokenizer, golden.read(directory, engine.manifest))
    except BaseException:
        engine.close()
        raise
    return engine, tokenizer


def load_tokenizer(directory: Path | None = None) -> Tokenizer:
    """Return the tokenizer of the release in `directory`; None: the release that ships in this package.

    Raises:
        ManifestInvalid: the manifest or the tokenizer cannot be read.
    """
    path = directory if directory is not None else releases.shipped()
    return Tokenizer.from_file(path / releases.TOKENIZER_FILE, releases.read_manifest(path).text)


def key_of(manifest: Manifest, gpu: Gpu, backend: str, version: str) -> plans.PlanKey:
    """Return what a plan of this release must be for, to run on this GPU with this TensorRT."""
    return plans.PlanKey(
        release=manifest.release,
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        backend=backend,
        version=version,
    )


def require_plan(manifest: Manifest, place: Place) -> None:
    """Do nothing if a release would find its plan here, or needs none; to be asked before it is fetched.

    Raises:
        PlanMissing: it would not load.
        EngineUnavailable: neither would any other.
    """
    if place.runtime == "tensorrt" and place.plans is not None:
        from engines.runtime.cuda import open_gpu  # noqa: PLC0415 - as below
        from engines.runtime.tensorrt import load_backend  # noqa: PLC0415

        _find_plan(None, manifest, place, gpu=open_gpu(place.gpu).gpu, trt=load_backend())


def _expects_gpu() -> bool:
    """Tell whether this installation is one for GPUs: it has CUDA's bindings."""
    try:
        return find_spec("cuda.bindings.runtime") is not None
    except ModuleNotFoundError:
        return False


def _tensorrt(path: Path, manifest: Manifest, place: Place, max_batch: int | None) -> Engine:
    # Imported here: a scorer on a CPU neither has nor waits for them.
    from engines.runtime.cuda import open_gpu  # noqa: PLC0415
    from engines.runtime.tensorrt import load_backend  # noqa: PLC0415

    return load_plan(path, manifest, place, max_batch, cuda=open_gpu(place.gpu), trt=load_backend())


def load_plan(
    path: Path,
    manifest: Manifest,
    place: Place,
    max_batch: int | None,
    *,
    cuda: Cuda,
    trt: ModuleType,
) -> Engine:
    """Return the engine of the plan that there is for this GPU, warm; a plan is never built here.

    Raises:
        PlanMissing: there is none; the message says which command builds it.
        EngineUnavailable, InferenceFailed: it does not load or run.
    """
    from engines.runtime.tensorrt import TensorRtEngine  # noqa: PLC0415 - as above

    plan = _find_plan(path, manifest, place, gpu=cuda.gpu, trt=trt)
    return TensorRtEngine(plan, manifest, trt=trt, cuda=cuda, max_batch=max_batch)


def _find_plan(release: Path | None, manifest: Manifest, place: Place, *, gpu: Gpu, trt: ModuleType) -> bytes:
    """Return the plan of a release in a directory; None: of one in a store, whose plans have their own folder."""
    key = key_of(manifest, gpu, trt.__name__, trt.__version__)
    folder = plans.folder_of(release or releases.shipped(), place.plans)
    try:
        _, plan = plans.find(folder, key, manifest.files[releases.MODEL_FILE])
    except PlanMissing as error:
        options = f"--gpu {place.gpu}" + ("" if place.plans is None else f" --plans {place.plans}")
        stored = f"streamer compile {key.release} --store URL {options}"
        command = (
            stored if release is None else f"streamer compile {release} {options}; of a release in a store: {stored}"
        )
        raise PlanMissing(
            f"no plan for {key.gpu} and {key.backend} {key.version}: {error}. Build it, on this kind of GPU: {command}"
        ) from error
    return plan


def _onnx(path: Path, manifest: Manifest, provider: str, place: Place) -> Engine:
    options = {"device_id": str(place.gpu)}
    if provider == "TensorrtExecutionProvider":  # it builds at start; what it built is kept where plans are
        cache = str(plans.folder_of(path, place.plans))
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": cache,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": cache,
        }
    engine = OnnxEngine(path / releases.MODEL_FILE, manifest, provider=provider, provider_options=options)
    engine.warm()
    return engine


def _cpu(path: Path, manifest: Manifest, threads: int) -> Engine:
    engine = OnnxEngine(path / releases.MODEL_FILE, manifest, threads=threads)
    engine.warm()
    return engine


def _capped(manifest: Manifest, max_batch: int | None) -> Manifest:
    if max_batch is None:
        return manifest
    return msgspec.structs.replace(manifest, max_batch=min(max_batch, manifest.max_batch))
