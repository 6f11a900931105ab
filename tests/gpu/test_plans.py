"""`engines.plans`: found by what they run on, whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from engines import plans
from engines.errors import EngineUnavailable, PlanMissing

if TYPE_CHECKING:
    from pathlib import Path

KEY = plans.PlanKey(
    release="small-0123456789ab",
    gpu="NVIDIA RTX 6000 Ada (x2)",
    compute_capability=(8, 9),
    backend="tensorrt",
    version="11.4.0.106",
)


def record(plan: bytes = b"plan", key: plans.PlanKey = KEY) -> plans.PlanRecord:
    """Return the record of a plan."""
    return plans.PlanRecord(
        schema_version=plans.PLAN_SCHEMA,
        key=key,
        precision="fp16",
        buckets=(1, 8),
        model_sha256="m",
        plan_sha256=plans.digest(plan),
        plan_bytes=len(plan),
        parity={},
        provenance={},
    )


def test_name_of_a_plan_tells_release_gpu_and_tensorrt() -> None:
    """Whatever a GPU is called, it is a file's name."""
    assert KEY.stem == "small-0123456789ab.nvidia-rtx-6000-ada-x2-sm89.tensorrt-11.4.0.106"


def test_plan_that_was_written_is_found(tmp_path: Path) -> None:
    """With its record."""
    plans.write(tmp_path / "plans", record(), b"plan")
    assert plans.find(tmp_path / "plans", KEY, "m") == (record(), b"plan")


def test_plan_that_is_built_again_replaces_the_former(tmp_path: Path) -> None:
    """One plan for each key; another GPU's stays."""
    other = msgspec.structs.replace(KEY, gpu="NVIDIA L4")
    plans.write(tmp_path, record(key=other), b"plan")
    plans.write(tmp_path, record(b"one"), b"one")
    plans.write(tmp_path, record(b"two"), b"two")
    assert plans.find(tmp_path, KEY, "m")[1] == b"two"
    assert plans.find(tmp_path, other, "m")[1] == b"plan"
    assert len(list(tmp_path.iterdir())) == 4


def test_reader_with_the_former_record_never_gets_the_new_plan(tmp_path: Path) -> None:
    """Plans are named by digest: what a record names is that plan, or gone."""
    plans.write(tmp_path, record(b"one"), b"one")
    plans.write(tmp_path, record(b"two"), b"two")
    assert not (tmp_path / record(b"one").plan_file).exists()
    assert (tmp_path / record(b"two").plan_file).read_bytes() == b"two"


@pytest.mark.parametrize(
    "change",
    [
        {"gpu": "NVIDIA L4"},
        {"compute_capability": (9, 0)},
        {"version": "11.5.0"},
        {"backend": "tensorrt_rtx"},
        {"release": "small-ba9876543210"},
    ],
)
def test_plan_for_something_else_is_missing(tmp_path: Path, change: dict[str, object]) -> None:
    """Every part of the key counts."""
    plans.write(tmp_path, record(), b"plan")
    with pytest.raises(PlanMissing, match="cannot be read"):
        plans.find(tmp_path, msgspec.structs.replace(KEY, **change), "m")


def test_plan_of_another_graph_is_missing(tmp_path: Path) -> None:
    """Two releases may not share a name, but a folder can be filled by hand."""
    plans.write(tmp_path, record(), b"plan")
    with pytest.raises(PlanMissing, match="another release"):
        plans.find(tmp_path, KEY, "other")


def test_plan_that_is_altered_is_missing(tmp_path: Path) -> None:
    """Its bytes are code that runs on the GPU: the digest is compared."""
    plans.write(tmp_path, record(), b"plan")
    (tmp_path / record().plan_file).write_bytes(b"pla!")
    with pytest.raises(PlanMissing, match="altered"):
        plans.find(tmp_path, KEY, "m")


def test_record_that_is_none_is_missing(tmp_path: Path) -> None:
    """A later version's, or half of one."""
    plans.write(tmp_path, record(), b"plan").write_bytes(b"{")
    with pytest.raises(PlanMissing, match="no record"):
        plans.find(tmp_path, KEY, "m")


def test_missing_plan_names_those_that_are_there(tmp_path: Path) -> None:
    """Who has changed the GPU sees it."""
    plans.write(tmp_path, record(), b"plan")
    with pytest.raises(PlanMissing, match=r"there are plans for small-0123456789ab\.nvidia-rtx-6000"):
        plans.find(tmp_path, msgspec.structs.replace(KEY, gpu="NVIDIA L4"), "m")


def test_folder_that_cannot_be_written_to_is_said_before_a_build(tmp_path: Path) -> None:
    """With what to name instead: releases are often read-only."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EngineUnavailable, match="--plans DIR"):
        plans.prepare(tmp_path / "file" / "plans")
    plans.prepare(tmp_path / "new" / "plans")
    assert list((tmp_path / "new" / "plans").iterdir()) == []


def test_timing_cache_is_shared_by_the_releases_of_a_gpu(tmp_path: Path) -> None:
    """Kernels do not care whose weights they multiply."""
    assert plans.read_timing_cache(tmp_path, KEY) == b""
    plans.write_timing_cache(tmp_path, KEY, b"times")
    later = msgspec.structs.replace(KEY, release="small-ba9876543210")
    assert plans.read_timing_cache(tmp_path, later) == b"times"
    assert plans.read_timing_cache(tmp_path, msgspec.structs.replace(KEY, version="11.5")) == b""
