"""`engines.plans`: found by what they run on, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from engines import plans
from engines.errors import EngineUnavailable, PlanMissing

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


def test_two_jobs_that_build_at_the_same_time_leave_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever record stands at the end, its plan is there: the second job writes its files within the first's."""
    write_file, jobs = plans._write_synced, iter([b"two"])

    def write_beside_another(path: Path, content: bytes) -> None:
        write_file(path, content)
        if path.suffix == ".json":
            for plan in jobs:
                plans.write(tmp_path, record(plan), plan)

    plans.write(tmp_path, record(b"former"), b"former")
    monkeypatch.setattr(plans, "_write_synced", write_beside_another)
    plans.write(tmp_path, record(b"one"), b"one")
    assert plans.find(tmp_path, KEY, "m")[1] == b"two"


def test_reader_whose_plan_is_exchanged_finds_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its reading of the record and of the plan."""
    plans.write(tmp_path, record(b"one"), b"one")
    read, jobs = Path.read_bytes, iter([b"two"])

    def read_beside_a_job(path: Path) -> bytes:
        content = read(path)
        for plan in jobs:
            plans.write(tmp_path, record(plan), plan)
        return content

    monkeypatch.setattr(Path, "read_bytes", read_beside_a_job)
    assert plans.find(tmp_path, KEY, "m") == (record(b"two"), b"two")


def test_what_killed_jobs_left_is_removed_after_a_day(tmp_path: Path) -> None:
    """What is being written now stays."""
    old, new = tmp_path / ".staging-old", tmp_path / ".staging-new"
    for path in (old, new):
        path.write_bytes(b"gigabytes")
    os.utime(old, (0, 0))
    plans.prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [new.name]


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
