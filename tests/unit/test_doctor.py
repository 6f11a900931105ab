"""The doctor: each trouble is a finding with advice, never a traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from engines.contract import Batch, Manifest
from engines.errors import InferenceFailed
from streamer import doctor
from streamer.doctor import Finding
from streamer.settings import EngineSettings, Settings, TopicSettings
from streamer.topics import TopicState, create, specs

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from streamer.demo.broker import EmbeddedBroker


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


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    """Return the findings by the name of their check."""
    return {finding.check: finding for finding in findings}


def settings(bootstrap: str) -> Settings:
    """Return settings for this broker, three partitions a topic."""
    return Settings.model_validate({"broker": {"bootstrap": bootstrap}, "topics": {"partitions": 3}})


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


async def test_broker_that_does_not_answer_is_one_failure() -> None:
    """What cannot be asked is skipped, not failed: one cause, one failure."""
    findings = by_check(await doctor.broker(settings("127.0.0.1:1")))
    assert {name: finding.status for name, finding in findings.items()} == {
        "broker": "fail",
        "topics": "skipped",
        "group": "skipped",
        "clock": "skipped",
    }


async def test_broker_without_topics_fails_with_the_command_to_run(tansu: EmbeddedBroker) -> None:
    """A new broker lacks four topics, and one command creates them."""
    findings = by_check(await doctor.broker(settings(tansu.bootstrap)))
    assert findings["broker"].status == "ok"
    missing = [finding for name, finding in findings.items() if name.startswith("topic ")]
    assert len(missing) == 4
    assert all((finding.status, finding.advice) == ("fail", "create it: streamer topics create") for finding in missing)


async def test_broker_with_topics_is_well_and_its_clock_is_not_guessed(tansu: EmbeddedBroker) -> None:
    """A broker that keeps the producer's time says nothing of its own clock, and so does the doctor."""
    wanted = settings(tansu.bootstrap)
    await create(wanted.broker, specs(wanted.topics))
    findings = by_check(await doctor.broker(wanted))
    assert findings["topic product-updates"] == Finding("topic product-updates", "ok", "3 partitions, 1 copies")
    assert findings["group"].status == "ok"
    assert findings["clock"].status == "skipped"
    assert "not checked" in findings["clock"].found


async def test_broker_read_only_leaves_the_clock_out(tansu: EmbeddedBroker) -> None:
    """Nothing is created on a broker that must only be read."""
    findings = by_check(await doctor.broker(settings(tansu.bootstrap), read_only=True))
    assert findings["clock"] == Finding("clock", "skipped", "not checked: --read-only")


def test_topic_with_another_count_warns() -> None:
    """A difference is worth a look, and stops nobody."""
    spec = specs(TopicSettings(partitions=12))[0]
    found = doctor.judge_topic(spec, TopicState(spec.name, 6, 1))
    assert found.status == "warn"
    assert "STREAMER_TOPICS__PARTITIONS=6" in found.advice


@pytest.mark.parametrize(
    ("skew_s", "status", "words"),
    [
        (None, "skipped", "not checked"),
        (0.002, "ok", "2 ms behind"),
        (-0.9, "ok", "900 ms ahead"),
        (4.0, "warn", "4000 ms behind"),
        (-4.0, "warn", "4000 ms ahead"),
    ],
)
def test_clock_skew_is_judged(skew_s: float | None, status: str, words: str) -> None:
    """More than a second makes latencies meaningless."""
    found = doctor.judge_skew(skew_s)
    assert found.status == status
    assert words in found.found
