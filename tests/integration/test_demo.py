"""The whole demo: broker, image host, a real worker with the engine that ships, and the verdict."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from streamer.demo.broker import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers import Broker

EVENTS = 120
COMMAND = [sys.executable, "-m", "streamer.cli", "demo"]


def _demo(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--json", "--events", str(EVENTS), "--report", "report", *options],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def _figures(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    return figures


async def _topics(bootstrap: str) -> set[str]:
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        return set(await client.list_topics())
    finally:
        await client.close()


@pytest.mark.slow
def test_demo_embedded_broker_ends_with_outcomes_that_add_up(tmp_path: Path) -> None:
    """Every event has its outcome, every kind of bad input its reason code, and the report is there."""
    figures = _figures(_demo(tmp_path))
    assert sum(figures["outcomes"].values()) == figures["events"] == EVENTS
    assert figures["adds_up"]
    assert figures["alerts_missing"] == 0
    assert figures["rejected"] == {
        "malformed_json": {"malformed_json": 1},
        "image_missing": {"image_not_found": 1},
        "image_truncated": {"image_truncated": 1},
    }
    assert figures["alerts"]["opened"] > 0
    assert figures["recall"] > 0.5
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert figures["release"] in page


@pytest.mark.slow
async def test_demo_kafka_of_the_user_is_left_as_it_was(tmp_path: Path, kafka: Broker) -> None:
    """The demo works in topics of its own and takes them away again."""
    before = await _topics(kafka.bootstrap)
    figures = _figures(_demo(tmp_path, "--bootstrap", kafka.bootstrap))
    assert sum(figures["outcomes"].values()) == EVENTS
    assert await _topics(kafka.bootstrap) - {"__consumer_offsets"} == before - {"__consumer_offsets"}


def test_demo_kafka_that_does_not_answer_is_said_with_advice(tmp_path: Path) -> None:
    """Exit code 2, and the address in the message."""
    address = f"127.0.0.1:{free_port()}"
    done = _demo(tmp_path, "--bootstrap", address)
    assert done.returncode == 2
    assert address in done.stderr


def test_demo_folder_without_a_catalogue_is_said(tmp_path: Path) -> None:
    """Exit code 2, and the file that is missing."""
    (tmp_path / "empty").mkdir()
    done = _demo(tmp_path, "--catalog", "empty")
    assert done.returncode == 2
    assert "catalog.jsonl" in done.stderr


def _heed_interrupts() -> None:
    """Undo what a shell does to the programs it starts in the background: they inherit that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_demo_interrupted_ends_the_worker_in_order(tmp_path: Path) -> None:
    """Ctrl-C while events flow: exit code 130, and the worker was told to stop and did."""
    command = [*COMMAND, "--events", "5000", "--rate", "20", "--report", "report"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_heed_interrupts,  # noqa: PLW1509 - one call, and this process has no threads that matter to it
    ) as demo:
        assert demo.stdout is not None
        while "publishing" not in (row := demo.stdout.readline()):
            assert row, "the demo ended before it published"
        os.kill(demo.pid, signal.SIGINT)
        assert demo.wait(60) == 130
    assert "worker.drained" in (tmp_path / "report" / "worker.log").read_text("utf-8")
