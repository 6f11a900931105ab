"""Fixtures shared by every test: real brokers, and a quiet torch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import fsspec
import hypothesis
import pytest

from streamer.demo.broker import EmbeddedBroker
from tests.brokers import GivenKafka, Kafka, running_kafka
from tests.sites import Site, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from engines.build.assemble import Source

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the library, which reads it once: no test asks a hub
if "PYTEST_XDIST_WORKER" in os.environ:  # tests run beside each other: their threads must not wait for cores in a loop
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A slow machine is no defect: what an example does is judged, not how long it takes.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a real Kafka, so that `-m 'not kafka'` leaves it out; let no worker begin a long one last."""
    for item in items:
        if "kafka" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kafka)
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)  # by files, which share what is set up


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka | GivenKafka]:
    """A real Apache Kafka, shared by the session; it must run when a test ends (`with kafka.stopped():` sees to it)."""
    with running_kafka(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture(params=["folder", "object store"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give where an empty store may be: a folder that is renamed into, and memory, which knows objects only."""
    yield str(tmp_path / "store") if request.param == "folder" else "memory://bucket/store"
    memory = fsspec.filesystem("memory")
    if memory.exists("/bucket"):
        memory.rm("/bucket", recursive=True)


@pytest.fixture
def tansu() -> Iterator[EmbeddedBroker]:
    """The embedded broker, new and empty for each test."""
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A site to fetch from."""
    async with serving() as running:
        yield running


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Small tensors are not worth a second thread, least of all beside other work."""
    import torch  # noqa: PLC0415 - most tests do without

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def exported_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Source, Path]]:
    """Give tiny random models with their exported graphs, by family; an export takes seconds, so it is made once."""
    made: dict[str, tuple[Source, Path]] = {}

    def exported(family: str) -> tuple[Source, Path]:
        from engines.build import export  # noqa: PLC0415 - torch, which most tests do without
        from tests import tiny_families  # noqa: PLC0415

        if family not in made:
            make = tiny_families.source_of_own if family in tiny_families.OWN else tiny_families.source
            source = make(family)
            path = tmp_path_factory.mktemp(family) / "model.onnx"
            export.export(source.model, source.inputs, path)
            made[family] = (source, path)
        return made[family]

    return exported
