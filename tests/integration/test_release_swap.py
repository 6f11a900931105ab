"""A real worker under load, and releases that are announced meanwhile: nothing is lost or judged by another."""

from __future__ import annotations

import asyncio
import math
from io import StringIO
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest
from aiokafka import AIOKafkaConsumer
from rich.console import Console

from engines import releases
from engines.store import ReleaseStore
from streamer import promotion, topics
from streamer.announcements import announce, open_announcements
from streamer.cli import main
from streamer.demo.cluster import Cluster, run_cluster
from streamer.demo.images import ImageHost
from streamer.demo.worker import Worker, running_worker, settings_variables
from streamer.outbox import producer
from streamer.promotion import Checked, promote
from streamer.settings import BrokerSettings, EngineSettings, FetchSettings, ReleaseSettings, Settings, StateSettings
from tests import tiny_release
from tests.fakes import png

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE_S = 40.0
PICTURES = 8
BIAS = {"first": -2.0, "second": 0.5}
LOAD = 40  # updates that a turn of the load sends
OUTSTANDING = 400  # updates without an outcome, at most: more than the worker holds in flight


class Load:
    """Updates of ever new products, as fast as the worker takes them, until it is told to end; and their outcomes."""

    def __init__(self, cluster: Cluster, address: str) -> None:
        self.seen: list[dict[str, Any]] = []
        self._cluster = cluster
        self._address = address
        self.sent = 0
        self.ended = asyncio.Event()

    async def run(self) -> None:
        async with producer(self._cluster.broker) as kafka:
            while not self.ended.is_set():
                await self.until(lambda: self.sent - len(self.seen) < OUTSTANDING)
                await asyncio.gather(*[await kafka.send(*self._next()) for _ in range(LOAD)])

    async def read(self, consumer: AIOKafkaConsumer) -> None:
        """Take in outcomes as they come."""
        while True:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                self.seen.extend(orjson.loads(record.value) for record in records)

    async def until(self, so: Callable[[], bool]) -> None:
        """Return when that is so."""
        async with asyncio.timeout(PATIENCE_S):
            while not so():  # noqa: ASYNC110 - what is waited for is another process
                await asyncio.sleep(0.01)

    def judged_by(self, release: str, since: int = 0) -> bool:
        return any(one.get("release") == release for one in self.seen[since:])

    def _next(self) -> tuple[str, bytes, bytes]:
        number, self.sent = self.sent, self.sent + 1
        update = {
            "id": f"p{number}",
            "version": 1,
            "title": title(number),
            "image_link": f"http://{self._address}/{number % PICTURES}.png",
        }
        return self._cluster.names.updates, orjson.dumps(update), f"p{number}".encode()


def title(number: int) -> str:
    """Return a text that no other product has; words that the tokenizer does not know count nothing."""
    return f"{('red', 'blue')[number % 2]} mug number{number}"


async def metric(session: aiohttp.ClientSession, worker: Worker, line: str) -> None:
    """Return when the worker's metrics have a line that begins so."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            worker.check()
            async with session.get(f"{worker.url}/metrics") as response:
                if any(one.startswith(line) for one in (await response.text()).splitlines()):
                    return
            await asyncio.sleep(0.02)


@pytest.fixture(params=["embedded", "kafka"])
def bootstrap(request: pytest.FixtureRequest) -> str | None:
    """Each broker in turn; None is the embedded one."""
    return None if request.param == "embedded" else str(request.getfixturevalue("kafka").bootstrap)


async def test_releases_swapped_under_load_lose_and_double_nothing(bootstrap: str | None, tmp_path: Path) -> None:
    """Promoted, refused and rolled back while updates come: each has one outcome, by the release that it names."""
    for number in range(PICTURES):
        (tmp_path / f"{number}.png").write_bytes(png(30 * number))
    first = tiny_release.write(tmp_path / "made", bias=BIAS["first"])
    second = tiny_release.write(tmp_path / "made", bias=BIAS["second"], size=6, tokens=5)
    broken = tiny_release.write(tmp_path / "made", bias=1.0, golden_bias=7.0)
    store = ReleaseStore(str(tmp_path / "store"))
    with ImageHost(tmp_path) as host:
        async with run_cluster(bootstrap, Console(file=StringIO())) as cluster, aiohttp.ClientSession() as session:
            settings = Settings(
                broker=cluster.broker,
                topics=cluster.names,
                fetch=FetchSettings(allow_hosts=(host.address,)),
                engine=EngineSettings(release=first),
                releases=ReleaseSettings(store=str(tmp_path / "store"), retry_s=0.2),
                state=StateSettings(directory=tmp_path / "state"),
            )
            sections = {name: getattr(settings, name) for name in Settings.model_fields if name != "telemetry"}
            consumer = AIOKafkaConsumer(
                cluster.names.scores,
                cluster.names.dead_letters,
                **topics.client_kwargs(cluster.broker),
                auto_offset_reset="earliest",
            )
            await consumer.start()
            load = Load(cluster, host.address)
            seen = load.seen
            reading = asyncio.create_task(load.read(consumer))
            with running_worker(settings_variables(sections), tmp_path / "worker.log") as worker:
                await worker.wait_until_ready(session)
                loading = asyncio.create_task(load.run())
                for release in (first, second):
                    checked = Checked(store.publish(release), 0)
                    await promote(settings, checked, by="test", reason=None)
                    await metric(
                        session, worker, f'streamer_engine_info{{device="cpu (onnxruntime)",release="{release.name}"'
                    )
                await load.until(lambda: load.judged_by(second.name))
                await promote(settings, Checked(store.publish(broken), 0), by="test", reason=None)
                await metric(session, worker, 'streamer_engine_refused_total{reason="golden_mismatch"} 1.0')
                for _ in range(2):  # to the second, which still runs, and to the first
                    await _roll_back(settings)
                await metric(session, worker, "streamer_engine_swaps_total 2.0")
                before = len(seen)
                await load.until(lambda: load.judged_by(first.name, before))
                load.ended.set()
                await loading
                await load.until(lambda: len(seen) >= load.sent)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            for records in (await consumer.getmany(timeout_ms=500)).values():
                seen.extend(orjson.loads(record.value) for record in records)
            await consumer.stop()
    assert sorted(one["product_id"] for one in seen) == sorted(f"p{number}" for number in range(load.sent))
    assert {one.get("release") for one in seen} == {first.name, second.name}
    for one in seen:
        number = int(one["product_id"][1:])
        directory, bias = (first, BIAS["first"]) if one["release"] == first.name else (second, BIAS["second"])
        logit = tiny_release.logit(directory, 30 * (number % PICTURES), title(number), bias=bias)
        assert one["probability"] == pytest.approx(1 / (1 + math.exp(-logit)), abs=2e-3)
    log = (tmp_path / "worker.log").read_text()
    assert log.count('"engine.closed"') == 2
    assert log.count('"loaded": 1') == 2


async def _roll_back(settings: Settings) -> None:
    """Announce what ran before, as the command does."""
    target = await promotion.rollback_target(settings)
    checked = promotion.check(promotion.open_store(settings), target)
    await promotion.roll_back(settings, checked, by="test", reason="too many alerts")


def test_commands_publish_list_show_and_roll_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a person does at a terminal: publish a directory, meet a broken one, go back to the one before."""
    made = [tiny_release.write(tmp_path / "made", bias=bias) for bias in (0.0, 1.0)]
    broken = tiny_release.write(tmp_path / "made", bias=2.0, golden_bias=7.0)
    configured = tiny_release.write(tmp_path / "made", bias=3.0)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["releases", *arguments])
        captured = capsys.readouterr()
        assert caught.value.code == code, captured.err
        return captured.out if code == 0 else captured.err

    def runs() -> list[str]:
        return [line["release"] for line in map(orjson.loads, run("list", "--json").splitlines()) if line["runs"]]

    from streamer.demo.broker import EmbeddedBroker  # noqa: PLC0415 - a broker of this test's own

    with EmbeddedBroker() as broker:
        monkeypatch.setenv("STREAMER_BROKER__BOOTSTRAP", broker.bootstrap)
        assert "store_missing" in run("list", code=2)
        monkeypatch.setenv("STREAMER_RELEASES__STORE", str(tmp_path / "store"))
        assert "topics_missing" in run("list", code=2)
        with pytest.raises(SystemExit):
            main(["topics", "create", "--partitions", "1"])
        capsys.readouterr()
        assert "nothing_to_roll_back" in run("rollback", code=2)
        monkeypatch.setenv("STREAMER_ENGINE__RELEASE", str(configured))
        first = run("promote", str(made[0]), "--reason", "the first")
        assert f"announced {made[0].name} instead of {configured.name}" in first
        assert f"instead of {made[0].name}" in run("promote", str(made[1]))
        assert "announced already" in run("promote", made[1].name)
        assert "golden_mismatch" in run("promote", str(broken), code=2)
        assert "release_unknown" in run("promote", broken.name, code=2)
        assert runs() == [made[1].name]
        assert "the first" in run("list")
        assert orjson.loads(run("show", made[0].name))["release"] == made[0].name
        assert f"announced {made[0].name}" in run("rollback")
        assert runs() == [made[0].name]
        assert f"announced {configured.name}" in run("rollback")
        assert runs() == [configured.name]
        assert "nothing_to_roll_back" in run("rollback", code=2)


async def test_release_that_runs_already_by_its_settings_is_not_what_to_go_back_to(tansu: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """Announcing what scorers are configured with leaves nothing to roll back to, rather than itself."""
    release = tiny_release.write(tmp_path / "made")
    settings = Settings(
        broker=BrokerSettings(bootstrap=tansu.bootstrap),
        engine=EngineSettings(release=release),
        releases=ReleaseSettings(store=str(tmp_path / "store")),
    )
    await topics.create(settings.broker, topics.specs(settings.topics))
    store = promotion.open_store(settings)
    running = await promotion.running_before(settings, store)
    assert running == release.name
    told = await promote(settings, promotion.publish(store, release), by="test", reason=None, running=running)
    assert told is not None
    assert (told.replaces, told.previous) == (None, None)


async def test_announcements_that_cannot_be_read_are_passed_over(tansu: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """What anybody may write into the topic stops no worker; a null value takes an announcement back."""
    from streamer.events import EngineRelease  # noqa: PLC0415 - beside its use
    from streamer.settings import BrokerSettings, TopicSettings  # noqa: PLC0415 - beside its use

    broker, names = BrokerSettings(bootstrap=tansu.bootstrap), TopicSettings(partitions=1)
    await topics.create(broker, topics.specs(names))
    release = tiny_release.write(tmp_path)
    announced = EngineRelease(
        release=release.name,
        manifest_sha256=releases.sha256(release / releases.MANIFEST_FILE),
        action="promoted",
        replaces=None,
        previous=None,
        announced_at="2026-01-01T00:00:00Z",  # type: ignore[arg-type] # written as it is
        announced_by="test",
    )
    await announce(broker, names.releases, announced)
    async with producer(broker) as kafka:
        await kafka.send_and_wait(names.releases, b"{", key=b"x", partition=0)
    async with open_announcements(broker, names.releases) as known:
        assert known.newest is not None
        assert (known.newest.release, known.unreadable) == (release.name, 1)
        async with producer(broker) as kafka:
            await kafka.send_and_wait(names.releases, None, key=release.name.encode(), partition=0)
        await known.more(10)
        assert known.newest is None
