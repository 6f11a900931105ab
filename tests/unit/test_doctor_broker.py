"""The doctor's questions to Kafka: one cause is one failure, and what cannot be known is not guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from streamer import doctor_broker
from streamer.findings import Finding
from streamer.settings import Settings, TopicSettings
from streamer.topics import TopicState, create, specs

if TYPE_CHECKING:
    from streamer.demo.broker import EmbeddedBroker


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    """Return the findings by the name of their check."""
    return {finding.check: finding for finding in findings}


def settings(bootstrap: str) -> Settings:
    """Return settings for this broker, three partitions a topic."""
    return Settings.model_validate({"broker": {"bootstrap": bootstrap}, "topics": {"partitions": 3}})


async def test_broker_that_does_not_answer_is_one_failure() -> None:
    """What cannot be asked is skipped, not failed: one cause, one failure."""
    findings = by_check(await doctor_broker.examine(settings("127.0.0.1:1")))
    assert {name: finding.status for name, finding in findings.items()} == {
        "broker": "fail",
        "topics": "skipped",
        "group": "skipped",
        "clock": "skipped",
    }


async def test_broker_without_topics_fails_with_the_command_to_run(tansu: EmbeddedBroker) -> None:
    """A new broker lacks the five that a scorer needs and those of the loop, and one command creates them."""
    findings = by_check(await doctor_broker.examine(settings(tansu.bootstrap)))
    assert findings["broker"].status == "ok"
    missing = [finding for name, finding in findings.items() if name.startswith("topic ")]
    assert [finding.status for finding in missing] == ["fail"] * 5 + ["warn"] * 4
    assert all("streamer topics create" in finding.advice for finding in missing)


async def test_broker_with_topics_is_well_and_its_clock_is_not_guessed(tansu: EmbeddedBroker) -> None:
    """A broker that keeps the producer's time says nothing of its own clock, and so does the doctor."""
    wanted = settings(tansu.bootstrap)
    await create(wanted.broker, specs(wanted.topics))
    findings = by_check(await doctor_broker.examine(wanted))
    assert findings["topic product-updates"] == Finding("topic product-updates", "ok", "3 partitions, 1 copies")
    assert findings["group"].status == "ok"
    assert findings["clock"].status == "skipped"
    assert "not checked" in findings["clock"].found


async def test_broker_read_only_leaves_the_clock_out(tansu: EmbeddedBroker) -> None:
    """Nothing is created on a broker that must only be read."""
    findings = by_check(await doctor_broker.examine(settings(tansu.bootstrap), read_only=True))
    assert findings["clock"] == Finding("clock", "skipped", "not checked: --read-only")


def test_topic_with_another_count_warns() -> None:
    """A difference is worth a look, and stops nobody."""
    spec = specs(TopicSettings(partitions=12))[0]
    found = doctor_broker.judge_topic(spec, TopicState(spec.name, 6, 1))
    assert found.status == "warn"
    assert "STREAMER_TOPICS__PARTITIONS=6" in found.advice


def test_topic_that_keeps_what_others_packed_warns_with_the_command() -> None:
    """A worker copes, within its limit; a broker that does not tell is not judged."""
    found = doctor_broker.judge_packing("product-updates", {"compression.type": "producer"}, "kafka:9092")
    assert found is not None
    assert (found.check, found.status) == ("topic product-updates", "warn")
    assert "--entity-name product-updates --add-config compression.type=uncompressed" in found.advice
    for given in ({"compression.type": "uncompressed"}, {}):
        assert doctor_broker.judge_packing("product-updates", given, "kafka:9092") is None


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
    found = doctor_broker.judge_skew(skew_s)
    assert found.status == status
    assert words in found.found
