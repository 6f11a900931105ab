"""`streamer doctor`: is everything here that a worker needs, and if not, what to do about it.

Each check ends in a Finding; none raises for what it was made to find. What concerns Kafka is in `doctor_broker`.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.contract import Batch, Engine, Manifest
from engines.errors import EngineError
from streamer import doctor_broker
from streamer import settings as settings_module
from streamer.errors import StreamerError
from streamer.findings import Finding, failure

if TYPE_CHECKING:
    from streamer.settings import EngineSettings

MIN_FREE_BYTES = 512 * 2**20  # a worker with the engine that ships stays below 400 MB
TIMED_RUNS = 5


def examine(*, read_only: bool = False, **overrides: Any) -> list[Finding]:  # noqa: ANN401 - sections of settings
    """Return every finding, in the order of a worker's start; `read_only` leaves the clock out."""
    findings = [machine(), onnxruntime()]
    try:
        settings = settings_module.load(**overrides)
    except StreamerError as error:
        return [*findings, failure("settings", error, "correct the variables; `streamer settings` lists all of them")]
    findings.append(Finding("settings", "ok", f"valid; group {settings.broker.group}"))
    if findings[1].status == "ok":
        findings += engine(settings.engine)
    return findings + asyncio.run(doctor_broker.examine(settings, read_only=read_only))


def machine() -> Finding:
    """Count the cores this process may use, and the memory that is free within its limits."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = _free_bytes()
    if free is None:
        return Finding("machine", "skipped", f"{cores} cores; free memory is not known on this system")
    found = f"{cores} cores, {free / 2**20:,.0f} MB free"
    if free < MIN_FREE_BYTES:
        return Finding("machine", "warn", found, f"a worker needs about {MIN_FREE_BYTES >> 20} MB: free some, or move")
    return Finding("machine", "ok", found)


def _free_bytes() -> int | None:
    """Return what the kernel says is available, or what the container's limit leaves when that is less."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - used)


def onnxruntime() -> Finding:
    """Name the runtime's version and what it can run on."""
    try:
        runtime: Any = importlib.import_module("onnxruntime")  # a broken installation is a finding, not a crash
    except ImportError as error:
        return failure("onnxruntime", error, "install it again: pip install --force-reinstall onnxruntime")
    return Finding("onnxruntime", "ok", f"{runtime.__version__}; {', '.join(runtime.get_available_providers())}")


def engine(settings: EngineSettings) -> list[Finding]:
    """Verify the release, load it, and time it on blank pairs."""
    from engines import releases  # noqa: PLC0415 - the runtime is loaded for this check only
    from engines.runtime import loader  # noqa: PLC0415

    directory = settings.release or releases.shipped()
    try:
        manifest = releases.verify(directory)
    except EngineError as error:
        advice = "STREAMER_ENGINE__RELEASE or --release names a release directory; fetch or build it again"
        return [
            failure("release", error, advice),
            Finding("engine", "skipped", "not loaded: its release is not whole"),
        ]
    release = Finding("release", "ok", f"{manifest.release}, every digest as in its manifest ({directory})")
    fallbacks: list[str] = []
    try:
        started = time.perf_counter()
        loaded = loader.load(
            directory,
            threads=settings.threads,
            max_batch=settings.max_batch,
            place=loader.Place(runtime=settings.runtime, gpu=settings.gpu, plans=settings.plans),
            warn=fallbacks.append,
        )
        load_s = time.perf_counter() - started
    except EngineError as error:
        return [release, failure("engine", error, "this release does not run on this machine: see its message")]
    try:
        return [release, _with_fallbacks(time_engine(loaded, load_s), fallbacks)]
    except EngineError as error:
        return [release, failure("engine", error, "the model loads but does not score: build the release again")]
    finally:
        loaded.close()


def _with_fallbacks(timed: Finding, fallbacks: list[str]) -> Finding:
    """Return a finding that also says what was meant to run and did not."""
    if not fallbacks:
        return timed
    advice = "build the plan, or set STREAMER_ENGINE__RUNTIME to what is meant to run"
    return Finding(timed.check, "warn", f"{timed.found}; {'; '.join(fallbacks)}", advice)


def time_engine(loaded: Engine, load_s: float) -> Finding:
    """Score blank pairs, alone and in full batches; `load_s` is how long loading took.

    Raises:
        InferenceFailed: the engine does not score.
    """
    one = _ms_per_pair(loaded, 1)
    many = loaded.manifest.max_batch
    found = f"{loaded.device}, loaded in {load_s:.1f} s; {one:.1f} ms a pair alone"
    return Finding("engine", "ok", f"{found}, {_ms_per_pair(loaded, many):.1f} ms in batches of {many}")


def _ms_per_pair(loaded: Engine, pairs: int) -> float:
    batch = blank(loaded.manifest, pairs)
    loaded.infer(batch)  # the first run of a new shape allocates
    times_s: list[float] = []
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        loaded.infer(batch)
        times_s.append(time.perf_counter() - started)
    return statistics.median(times_s) * 1000 / pairs


def blank(manifest: Manifest, pairs: int) -> Batch:
    """Return white pictures beside texts of one repeated token: enough to run, nothing to judge."""
    image, tokens, columns = manifest.image, manifest.text.max_tokens, manifest.attributes
    return Batch(
        pixel_values=np.full((pairs, 3, image.height, image.width), 255, dtype=np.uint8),
        input_ids=np.ones((pairs, tokens), dtype=np.int32),
        attention_mask=np.ones((pairs, tokens), dtype=np.int32),
        attributes=np.zeros((pairs, columns.count, 2), dtype=np.float32) if columns is not None else None,
    )
