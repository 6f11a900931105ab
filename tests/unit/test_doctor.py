"""The doctor: each trouble is a finding with advice, never a traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from engines.contract import AttributeColumns, Batch, Manifest
from engines.errors import InferenceFailed
from streamer import doctor
from streamer.settings import EngineSettings
from tests.fakes import manifest

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


MANIFEST = {
    "schema_version": 1,
    "release": "paper-1",
    "family": "paper",
    "created_at": "2026-01-01T00:00:00Z",
    "inputs": [],
    "image": {"height": 4, "width": 6},
    "text": {"max_tokens": 8, "fields": ["title"]},
    "calibration": {},
    "threshold": 0.5,
    "thresholds": {},
    "max_batch": 16,
    "parent": None,
    "metrics": {},
    "provenance": {},
    "files": {},
}


class CountingEngine:
    """An engine that scores nothing and remembers the size of each batch."""

    device = "paper"
    concurrency = 1

    def __init__(self, *, broken: bool = False) -> None:
        """Make one that works, or one whose inference fails."""
        self.manifest = msgspec.convert(MANIFEST, Manifest)
        self.broken = broken
        self.sizes: list[int] = []

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        """Return a logit of zero for each pair."""
        if self.broken:
            raise InferenceFailed("no")
        self.sizes.append(len(batch))
        assert batch.pixel_values.shape[1:] == (3, 4, 6)
        assert batch.input_ids.shape == batch.attention_mask.shape == (len(batch), 8)
        return np.zeros(len(batch), dtype=np.float32)

    def close(self) -> None:
        """Nothing to free."""


def test_machine_counts_cores_and_memory() -> None:
    """A machine that runs the tests has a core, and is told apart from one that is short of memory."""
    assert doctor.machine().status in {"ok", "warn", "skipped"}
    assert "cores" in doctor.machine().found


def test_onnxruntime_names_its_version_and_providers() -> None:
    """The CPU provider is always there."""
    found = doctor.onnxruntime()
    assert found.status == "ok"
    assert "CPUExecutionProvider" in found.found


def test_engine_without_release_fails_with_the_setting_to_give(tmp_path: Path) -> None:
    """A directory that is no release is told by its code; the engine is not tried."""
    release, engine = doctor.engine(EngineSettings(release=tmp_path))
    assert release.status == "fail"
    assert release.found.startswith("manifest_invalid:")
    assert "STREAMER_ENGINE__RELEASE" in release.advice
    assert engine.status == "skipped"


def test_engine_is_timed_alone_and_in_full_batches() -> None:
    """Both figures are said: how fast one event is answered, and how many are in a second."""
    engine = CountingEngine()
    found = doctor.time_engine(engine, load_s=0.25)
    assert set(engine.sizes) == {1, 16}
    assert found.status == "ok"
    assert found.found.startswith("paper, loaded in 0.2 s; ")
    assert found.found.endswith("in batches of 16")


def test_engine_that_reads_attributes_is_timed_with_some() -> None:
    """None of them is known: enough to run."""
    batch = doctor.blank(manifest(attributes=AttributeColumns(numbers=("price", "weight"))), 3)
    assert batch.attributes is not None
    assert batch.attributes.shape == (3, 2, 2)


def test_engine_that_does_not_score_raises() -> None:
    """A model that loads and fails is not timed."""
    with pytest.raises(InferenceFailed):
        doctor.time_engine(CountingEngine(broken=True), load_s=0.1)


def test_examine_with_wrong_settings_stops_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of a broker whose settings are wrong."""
    monkeypatch.setenv("STREAMER_TOPICS__PARTITIONS", "many")
    last = doctor.examine()[-1]
    assert (last.check, last.status) == ("settings", "fail")
    assert "STREAMER_TOPICS__PARTITIONS" in last.found
