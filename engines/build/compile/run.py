"""A release → a plan beside it: golden pairs, cast, build, gate, place."""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime

from engines import golden, plans, releases
from engines.build.compile import builder, gate
from engines.build.compile.cast import cast
from engines.build.compile.gate import Tolerance
from engines.runtime.loader import key_of
from engines.runtime.onnx import OnnxEngine
from engines.runtime.tensorrt import TensorRtEngine
from engines.text import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

    from rich.progress import Progress

    from engines.build.compile.builder import Built, Target
    from engines.build.compile.cast import Precision
    from engines.build.compile.gate import Golden, Parity
    from engines.contract import Engine, Manifest
    from engines.plans import PlanRecord
    from engines.runtime.cuda import Cuda


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a plan is built and what it must pass.

    Attributes:
        precision: What the graph is cast to.
        target: What to build for.
        folder: Where plans are kept; None: beside the release's files.
        catalog: A catalogue's folder to take golden pairs from; None: they are drawn.
        pairs: How many golden pairs.
        seed: Of the golden pairs.
        tolerance: Of the gate.
    """

    precision: Precision = "fp16"
    target: Target = field(default_factory=builder.Target)
    folder: Path | None = None
    catalog: Path | None = None
    pairs: int = gate.PAIRS
    seed: int = 0
    tolerance: Tolerance = field(default_factory=Tolerance)


@dataclass(frozen=True)
class Rehearsed:
    """What building took in one precision: operators in it, seconds on the clock and of CPU (all threads), bytes."""

    precision: Precision
    lowered: int
    parse_s: float
    build_s: float
    cpu_s: float
    plan_bytes: int


def compile_release(
    release: Path,
    options: Options,
    *,
    trt: ModuleType,
    cuda: Cuda,
    progress: Progress,
) -> PlanRecord:
    """Build the plan of a release for this GPU, compare it with ONNX, and put it where scorers look for it.

    It is also asked the release's own golden pairs, as by every worker that loads it: what they refuse is not kept.

    Args:
        release: Its directory.
        options: How.
        trt: TensorRT's module.
        cuda: The GPU.
        progress: Shows how far it is.

    Raises:
        ManifestInvalid, ReleaseCorrupt: the release is not whole.
        CatalogInvalid, TextRefused: there are no golden pairs; see `gate.gather`.
        GraphUnsupported: TensorRT cannot build the graph.
        ParityExceeded, ReleaseRefused: the plan is refused; nothing is stored but the timing cache.
        EngineUnavailable, InferenceFailed: the plan, or ONNX Runtime, does not run, or the plan has no place.
    """
    manifest = releases.verify(release)
    key = key_of(manifest, cuda.gpu, trt.__name__, trt.__version__)
    folder = plans.folder_of(release, options.folder)
    plans.prepare(folder)
    tokenizer = Tokenizer.from_file(release / releases.TOKENIZER_FILE, manifest.text)
    pairs = gate.gather(
        manifest, tokenizer, folder=options.catalog, count=options.pairs, seed=options.seed, progress=progress
    )
    cuda.enter()
    built, lowered = _build(
        release, manifest, options, trt=trt, timing_cache=plans.read_timing_cache(folder, key), progress=progress
    )
    plans.write_timing_cache(folder, key, built.timing_cache)
    with closing(TensorRtEngine(built.plan, manifest, trt=trt, cuda=cuda)) as engine:
        parity = _compare(release, manifest, engine, pairs, progress)
        gate.check(parity, pairs, options.tolerance, precision=options.precision)
        golden.check(engine, tokenizer, golden.read(release, manifest))
    record = plans.PlanRecord(
        schema_version=plans.PLAN_SCHEMA,
        key=key,
        precision=options.precision,
        buckets=options.target.buckets,
        model_sha256=manifest.files[releases.MODEL_FILE],
        plan_sha256=plans.digest(built.plan),
        plan_bytes=len(built.plan),
        parity=parity.facts() | {"allowed": options.tolerance._asdict(), "golden": pairs.origin},
        provenance={
            "built_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "driver": cuda.gpu.driver,
            "lowered": lowered,
            "parse_s": round(built.parse_s, 3),
            "build_s": round(built.build_s, 3),
            "onnxruntime": onnxruntime.__version__,
        },
    )
    plans.write(folder, record, built.plan)
    return record


def rehearse(
    release: Path,
    precisions: Iterable[Precision],
    target: Target,
    *,
    trt: ModuleType,
    progress: Progress | None = None,
) -> Iterator[Rehearsed]:
    """Build plans and throw them away: whether TensorRT takes the graph, how long that takes, how large they are.

    Raises:
        ManifestInvalid, ReleaseCorrupt, GraphUnsupported, EngineUnavailable: as `compile_release`.
    """
    manifest = releases.verify(release)
    for precision in precisions:
        options = Options(precision=precision, target=target)
        cpu_s = time.process_time()
        built, lowered = _build(release, manifest, options, trt=trt, timing_cache=b"", progress=progress)
        cpu_s = time.process_time() - cpu_s
        yield Rehearsed(precision, lowered, built.parse_s, built.build_s, cpu_s, len(built.plan))


def _build(
    release: Path,
    manifest: Manifest,
    options: Options,
    *,
    trt: ModuleType,
    timing_cache: bytes,
    progress: Progress | None,
) -> tuple[Built, int]:
    """Return the plan, and how many operators compute in the low precision."""
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch, releases.MODEL_FILE)
        lowered = cast(release / releases.MODEL_FILE, options.precision, model)
        built = builder.build(trt, model, manifest.inputs, options.target, timing_cache=timing_cache, progress=progress)
    return built, lowered


def _compare(release: Path, manifest: Manifest, engine: Engine, pairs: Golden, progress: Progress) -> Parity:
    found = pairs.score(engine, progress)
    with closing(OnnxEngine(release / releases.MODEL_FILE, manifest)) as reference:
        expected = pairs.score(reference, progress)
    return gate.compare(pairs, manifest, expected, found)
