"""TensorRT plans beside a release: named by what they run on, found by a pod, exchanged atomically.

    <release>/plans/<release>.<gpu>-sm89.tensorrt-11.4.0.106.json        the record: key, buckets, digest, parity
    <release>/plans/<release>.<gpu>-sm89.tensorrt-11.4.0.106.<12 hex>.plan
    <release>/plans/<gpu>-sm89.tensorrt-11.4.0.106.timing                kernels' times, for the next build there

A release never changes; plans are no part of it, and come and go beside it. The record names its plan by digest, so a
reader that has the record has the one plan that it describes, or none. A folder elsewhere may hold the plans of many
releases. Nothing here knows TensorRT.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from engines.errors import EngineUnavailable, PlanMissing

PLAN_SCHEMA: Final = 1
FOLDER: Final = "plans"

_STAGING: Final = ".staging-"
_LEFT_S: Final = 24 * 3600.0
"""After which what is being written counts as left by a job that was killed."""

_WORD: Final = re.compile(r"[^a-z0-9.]+")


class PlanKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a plan is for: it runs on no other GPU and with no other TensorRT.

    gpu: as CUDA names it, `NVIDIA L4`. backend: `tensorrt` or `tensorrt_rtx`, version: its.
    """

    release: str
    gpu: str
    compute_capability: tuple[int, int]
    backend: str
    version: str

    @property
    def machine(self) -> str:
        """The GPU and TensorRT, as a part of file names."""
        major, minor = self.compute_capability
        return f"{_WORD.sub('-', self.gpu.lower()).strip('-')}-sm{major}{minor}.{self.backend}-{self.version}"

    @property
    def stem(self) -> str:
        """What the names of its files begin with."""
        return f"{self.release}.{self.machine}"


class PlanRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One plan: what it is for, what is in it, how it was proven.

    buckets: batch sizes, ascending, of profile 0, 1, …
    model_sha256: of the release's `model.onnx`, which it was built from.
    parity, provenance: for people.
    """

    schema_version: int
    key: PlanKey
    precision: Literal["fp32", "fp16", "bf16"]
    buckets: tuple[int, ...]
    model_sha256: str
    plan_sha256: str
    plan_bytes: int
    parity: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def plan_file(self) -> str:
        """The name of the plan's file."""
        return f"{self.key.stem}.{self.plan_sha256[:12]}.plan"


def folder_of(release: Path, folder: Path | None = None) -> Path:
    """Return where the plans of a release stand: `folder`, or beside its files."""
    return folder if folder is not None else release / FOLDER


def digest(plan: bytes) -> str:
    """Return the SHA-256 of a plan."""
    return hashlib.sha256(plan).hexdigest()


def prepare(folder: Path) -> None:
    """Make the folder before minutes are spent on a plan for it, and remove what killed jobs left there.

    Raises:
        EngineUnavailable: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_STAGING}*"):
            if time.time() - left.stat().st_mtime > _LEFT_S:
                left.unlink(missing_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise EngineUnavailable(
            f"plans cannot be kept in {folder} ({error.strerror}): name another folder, --plans DIR, and give it to "
            "the workers as STREAMER_ENGINE__PLANS"
        ) from error


def write(folder: Path, record: PlanRecord, plan: bytes) -> Path:
    """Put a plan into the folder, which is made when missing, and return its record's path.

    Whoever looks meanwhile finds the former plan of this key, or this one. The former one is removed, and no other: two
    jobs may write at the same time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.key.stem}.json"
    former = _record(path)
    _write_synced(folder / record.plan_file, plan)
    _write_synced(path, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    if former is not None and former.plan_file != record.plan_file:
        (folder / former.plan_file).unlink(missing_ok=True)
    return path


def _record(path: Path) -> PlanRecord | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=PlanRecord)
    except (OSError, msgspec.DecodeError):
        return None


def find(folder: Path, key: PlanKey, model_sha256: str) -> tuple[PlanRecord, bytes]:
    """Return the plan for this GPU and TensorRT, its digest compared.

    Args:
        folder: See `folder_of`.
        key: What it must be for.
        model_sha256: What it must have been built from.

    Raises:
        PlanMissing: there is none, or it is not whole, or it was built from another graph.
    """
    path = folder / f"{key.stem}.json"
    try:
        record, plan = _read(path)
    except OSError as error:
        raise PlanMissing(f"{error.filename} cannot be read ({error.strerror}){_others(folder, key)}") from error
    except msgspec.DecodeError as error:
        raise PlanMissing(f"{path} is no record of a plan that this version reads: {error}") from error
    if (record.schema_version, record.key, record.model_sha256) != (PLAN_SCHEMA, key, model_sha256):
        raise PlanMissing(f"{path} describes a plan of another release, GPU or TensorRT than its name says")
    if digest(plan) != record.plan_sha256:
        raise PlanMissing(f"{folder / record.plan_file} is altered: its SHA-256 is not its record's")
    return record, plan


def _read(path: Path) -> tuple[PlanRecord, bytes]:
    """Return what the record says and the plan that it names; once more where both were exchanged in between."""
    record = msgspec.json.decode(path.read_bytes(), type=PlanRecord)
    try:
        return record, (path.parent / record.plan_file).read_bytes()
    except FileNotFoundError:
        record = msgspec.json.decode(path.read_bytes(), type=PlanRecord)
        return record, (path.parent / record.plan_file).read_bytes()


def read_timing_cache(folder: Path, key: PlanKey) -> bytes:
    """Return the timing cache of this GPU and TensorRT; empty: there is none yet."""
    try:
        return (folder / f"{key.machine}.timing").read_bytes()
    except OSError:
        return b""


def write_timing_cache(folder: Path, key: PlanKey, cache: bytes) -> None:
    """Keep a timing cache for the next build."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_synced(folder / f"{key.machine}.timing", cache)


def _others(folder: Path, key: PlanKey) -> str:
    """Return what there are plans for, for people who have changed the GPU or TensorRT."""
    names = sorted(path.name for path in folder.glob(f"{key.release}.*.json"))
    return f"; there are plans for {', '.join(names)}" if names else ""


def _write_synced(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    descriptor, name = tempfile.mkstemp(prefix=_STAGING, dir=path.parent)
    staging = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staging.chmod(0o644)  # mkstemp's 0600 would keep a scorer that runs as another user out
        staging.replace(path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
