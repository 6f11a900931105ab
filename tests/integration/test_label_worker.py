"""The label worker on a broker: labels that come again, disagreement, unknown items, erasure, and the whole way."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import orjson
from aiokafka import AIOKafkaConsumer
from pydantic import SecretStr
from rich.console import Console

from engines.catalogs.erased import digest
from streamer import topics
from streamer.dataset import LabelDataset
from streamer.dead_letters import Choice, replay
from streamer.demo.broker import free_port
from streamer.demo.cluster import Cluster, run_cluster
from streamer.demo.images import ImageHost
from streamer.demo.worker import Worker, running_worker, settings_variables
from streamer.erasures import Erasures
from streamer.evidence import EvidenceStore
from streamer.label_studio import PATH
from streamer.outbox import producer
from streamer.reviews import ConfirmedLabel
from streamer.settings import EngineSettings, EvidenceSettings, FetchSettings, LabelSettings, Settings, StateSettings
from streamer.wire import encode
from tests import tiny_release
from tests.brokers import committed, end_offsets, read_all
from tests.fakes import png
from tests.review import PICTURE, item, label

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from streamer.reviews import ScoredItem
    from tests.brokers import Kafka

PATIENCE_S = 60.0
ITEMS = 60


class Nobody:
    """A watch that looks away."""

    def advanced(self, done: int, total: int) -> None:
        """Nothing to show."""


async def until(so: Callable[[], Any]) -> None:
    """Return when that is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not so():  # noqa: ASYNC110 - what is waited for is another process
            await asyncio.sleep(0.05)


async def send(cluster: Cluster, *records: tuple[str, bytes | None]) -> None:
    """Publish records of confirmed-labels by their products."""
    async with producer(cluster.broker) as kafka:
        for product, value in records:
            await kafka.send(cluster.names.labels, value, key=product.encode())
        await kafka.flush()


def settings_of(cluster: Cluster, folder: Path, **sections: Any) -> Settings:  # noqa: ANN401 - sections
    """Return settings whose evidence and data set lie in a folder."""
    given: dict[str, Any] = {
        "broker": cluster.broker,
        "topics": cluster.names,
        "evidence": EvidenceSettings(store=str(folder / "evidence"), audit_share=1.0, audit_per_hour=1e9),
        "labels": LabelSettings(group=f"{cluster.broker.group}-labeler", dataset=str(folder / "dataset")),
        "state": StateSettings(directory=folder / "state"),
    }
    return Settings(**(given | sections))


def variables(settings: Settings) -> dict[str, str]:
    """Return them as a worker's environment."""
    return settings_variables({name: getattr(settings, name) for name in Settings.model_fields if name != "telemetry"})


@asynccontextmanager
async def labelling(settings: Settings, log: Path) -> AsyncIterator[Worker]:
    """Yield a label worker that is ready."""
    async with aiohttp.ClientSession() as session:
        with running_worker(variables(settings), log, command="labels") as worker:
            await worker.wait_until_ready(session)
            yield worker


async def caught_up(settings: Settings) -> None:
    """Return when every record of confirmed-labels has been acknowledged."""
    bootstrap, topic = settings.broker.bootstrap, settings.topics.labels
    async with asyncio.timeout(PATIENCE_S):
        while True:
            ends = await end_offsets(bootstrap, topic)
            done = await committed(bootstrap, settings.labels.group, topic)
            if {n: done[n] or 0 for n in ends} == ends:
                return
            await asyncio.sleep(0.1)


async def test_labels_come_again_people_disagree_and_products_are_erased(kafka: Kafka, tmp_path: Path) -> None:
    """A worker is killed in between; every label has one outcome, and the data set is as one at a time had led to."""
    moment = datetime(2026, 3, 2, 9, tzinfo=UTC)
    async with run_cluster(kafka.bootstrap, Console(file=StringIO())) as cluster:
        settings = settings_of(cluster, tmp_path)
        evidence, dataset = EvidenceStore(str(tmp_path / "evidence")), LabelDataset(str(tmp_path / "dataset"))
        items = [item(f"p{number}", picture=PICTURE + bytes([number % 7])) for number in range(ITEMS)]
        for number, one in enumerate(items):
            evidence.keep(one, PICTURE + bytes([number % 7]))
        by_ana = [label(one, label_id=f"a{one.product_id}", labeled_at=moment) for one in items]
        by_ben = [label(one, reviewer="ben", verdict="match", label_id=f"b{one.product_id}") for one in items[:20]]
        by_cai = [label(one, reviewer="cai", label_id=f"d{one.product_id}") for one in items[15:25]]
        again = [
            label(one, verdict="unsure", label_id=f"c{one.product_id}", labeled_at=moment + timedelta(hours=1))
            for one in items[:10]
        ]
        unknown = [label(item(f"unknown{number}")) for number in range(3)]
        sent = [*by_ana, *by_ben, *by_cai, *by_ana, *again, *by_ana[:10], *unknown]
        half = len(sent) // 2
        async with labelling(settings, tmp_path / "killed.log") as worker:
            await send(cluster, *((one.product_id, encode(one)) for one in sent[:half]))
            await until(lambda: dataset.version)
            os.kill(worker.pid, signal.SIGKILL)
        async with labelling(settings, tmp_path / "labels.log"):
            await send(cluster, *((one.product_id, encode(one)) for one in sent[half:]), ("p1", b"{"))
            await caught_up(settings)
            rows = {(row["product_id"], row["reviewer"]): row["verdict"] for row in _rows(dataset, items)}
            expected = {(one.product_id, "ana"): "mismatch" for one in items}
            expected |= {(one.product_id, "ben"): "match" for one in items[:20]}
            expected |= {(one.product_id, "cai"): "mismatch" for one in items[15:25]}
            expected |= {(one.product_id, "ana"): "unsure" for one in items[:10]}
            assert rows == expected
            assert sum(1 for _ in _rows(dataset, items)) == len(expected)
            assert orjson.loads(await _command(settings, "stats", "--json")) == {
                "version": dataset.version,
                "items": ITEMS,
                "verdicts": len(expected),
                "consensus": {"match": 10, "disputed": 10, "mismatch": ITEMS - 20},
                "judged_by_several": 15,  # p10 to p24
                "observed_agreement": 10 / 25,  # five pairs, five times three of which one agrees, five that agree
            }
            letters = await _letters(settings)
            assert {(one["reason"], one["product_id"]) for one in letters} == {
                ("malformed_json", None),
                *(("item_unknown", one.product_id) for one in unknown),
            }
            version = dataset.version
            await send(cluster, *((one.product_id, encode(one)) for one in sent[: half // 2]))
            await caught_up(settings)
            assert dataset.version == version

            await send(cluster, ("p0", None), ("p0", encode(by_ana[0])), ("", None), ("p1", encode(by_ben[3])))
            await caught_up(settings)
            assert dataset.of("p0") == []
            assert list(evidence.items("p0")) == []
            assert evidence.picture(items[7].image_sha256) == PICTURE + bytes([0])  # p7 shows the same picture
            assert len(dataset.of("p7")) == 2
            letters = await _letters(settings)
            assert [one["reason"] for one in letters if one["product_id"] == "p0"] == ["product_erased"]
            assert Erasures(str(tmp_path / "dataset")).all() == {digest("p0")}
            assert sum(one["reason"] == "key_missing" for one in letters) == 1
            assert [one["product_id"] for one in letters if one["reason"] == "key_mismatch"] == ["p3"]

            assert await _brought_back(settings, "item_unknown", item("unknown0"), PICTURE) == ["mismatch"]
            await _command(settings, "restore", "p0")
            assert await _brought_back(settings, "product_erased", items[0], PICTURE + bytes([0])) == ["mismatch"]


async def _brought_back(settings: Settings, reason: str, scored: ScoredItem, picture: bytes) -> list[str]:
    """Return the verdicts on what is scored now, its labels that were rejected for this reason replayed."""
    assert settings.evidence.store is not None
    EvidenceStore(settings.evidence.store).keep(scored, picture)
    chosen = Choice(reasons=frozenset({reason}), products=frozenset({scored.product_id}))
    assert (await replay(settings.broker, settings.topics, chosen, Nobody(), dry_run=False)).sent == 1
    await caught_up(settings)
    return [row["verdict"] for row in LabelDataset(settings.labels.dataset).of(scored.product_id)]


def _rows(dataset: LabelDataset, items: list[Any]) -> list[dict[str, Any]]:
    return [row for one in items for row in dataset.of(one.product_id)]


async def _letters(settings: Settings) -> list[dict[str, Any]]:
    records = await read_all(settings.broker.bootstrap, settings.topics.dead_letters)
    return [orjson.loads(record.value or b"") for record in records]


async def test_alert_and_audit_are_judged_and_recorded(kafka: Kafka, tmp_path: Path) -> None:
    """From an update over the alert, or the audit's question, to a row with the picture that was scored.

    One verdict comes from a tool that writes to the topic, the other from Label Studio. What a scorer that was behind
    has kept of an erased product is gone soon after the worker's start.
    """
    (tmp_path / "pictures").mkdir()
    for name, red in (("dark", 0), ("light", 255)):
        (tmp_path / "pictures" / f"{name}.png").write_bytes(png(red))
    # Alerts on words whose ids add up to 10 and more.
    release = tiny_release.write(tmp_path / "made", bias=-2.5)
    with ImageHost(tmp_path / "pictures") as host:
        async with run_cluster(kafka.bootstrap, Console(file=StringIO())) as cluster:
            settings = settings_of(
                cluster,
                tmp_path,
                labels=LabelSettings(
                    group=f"{cluster.broker.group}-labeler",
                    dataset=str(tmp_path / "dataset"),
                    webhook_port=free_port(),
                    webhook_secret=SecretStr("a secret"),
                ),
                engine=EngineSettings(release=release),
                fetch=FetchSettings(allow_hosts=(host.address,)),
            )
            names = cluster.names
            async with aiohttp.ClientSession() as session, _consuming(cluster, names.alerts, names.reviews) as read:
                with running_worker(variables(settings), tmp_path / "scorer.log") as scorer:
                    await scorer.wait_until_ready(session)
                    async with producer(cluster.broker) as sender:
                        for product, title, picture in (("a", "blue shoe red", "light"), ("b", "mug", "dark")):
                            update = {"id": product, "version": 1, "title": title}
                            update["image_link"] = f"http://{host.address}/{picture}.png"
                            await sender.send_and_wait(names.updates, orjson.dumps(update), key=product.encode())
                    alert, request = await read(names.alerts), await read(names.reviews)
            said = _said(alert["data"]["product_id"], alert_id=alert["id"])
            dataset, evidence = LabelDataset(str(tmp_path / "dataset")), EvidenceStore(str(tmp_path / "evidence"))
            Erasures(str(tmp_path / "dataset")).add("gone")
            evidence.keep(item("gone"), PICTURE)
            async with labelling(settings, tmp_path / "labels.log"):
                await send(cluster, (said.product_id, encode(said)))
                await _annotate(settings.labels, request)
                await until(lambda: len(dataset.of("a")) == len(dataset.of("b")) == 1)
                (alerted,), (audited,) = dataset.of("a"), dataset.of("b")
                assert (alerted["sampled"], alerted["text"]) == ("alert", "title: blue shoe red")
                assert alerted["probability"] == alert["data"]["probability"] > alerted["threshold"]
                assert (tmp_path / "dataset" / alerted["image"]).read_bytes() == png(255)
                assert (alerted["reviewer"], audited["reviewer"]) == ("ana", "label-studio:5")
                assert (audited["sampled"], audited["sampling_probability"]) == ("audit", 1.0)
                assert (tmp_path / "dataset" / audited["image"]).read_bytes() == png(0)
                await _command(settings, "erase", "a", "--everywhere")
                await until(lambda: dataset.of("a") == [] and not list(evidence.items("gone")))
            deleted = [one for one in await read_all(kafka.bootstrap, names.updates) if one.value is None]
            asked = [one for one in await read_all(kafka.bootstrap, names.labels) if one.value is None]
            assert [(one.key, one.timestamp <= asked[0].timestamp) for one in deleted] == [(b"a", True)]
            assert Erasures(str(tmp_path / "dataset")).all() == {digest("a"), digest("gone")}
            told = orjson.loads(await _command(settings, "stats", "--json"))
            assert (told["items"], told["verdicts"], told["consensus"]) == (1, 1, {"mismatch": 1})


async def _annotate(labels: LabelSettings, request: dict[str, Any]) -> None:
    """Post a verdict as Label Studio does, on a task whose data are a review request."""
    choice = {"from_name": "verdict", "value": {"choices": ["mismatch"]}}
    annotation = {"id": 1, "completed_by": 5, "result": [choice], "updated_at": "2026-03-02T09:00:00Z"}
    posted = {"action": "ANNOTATION_CREATED", "annotation": annotation, "task": {"data": request}}
    assert labels.webhook_secret is not None
    headers = {"Authorization": f"Bearer {labels.webhook_secret.get_secret_value()}"}
    url = f"http://{labels.webhook_host}:{labels.webhook_port}{PATH}"
    async with aiohttp.ClientSession() as session, session.post(url, json=posted, headers=headers) as answer:
        assert answer.status == 200


def _said(product: str, **named: str) -> ConfirmedLabel:
    return msgspec.convert(
        {
            "label_id": "1",
            "product_id": product,
            "verdict": "mismatch",
            "reviewer": "ana",
            "labeled_at": "2026-03-02T09:00:00Z",
            "source": "test",
        }
        | named,
        ConfirmedLabel,
    )


async def _command(settings: Settings, *arguments: str) -> bytes:
    """Run `streamer labels …` with the worker's settings; return what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamer.cli", "labels", *arguments),
        env={**os.environ, **variables(settings)},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out


@asynccontextmanager
async def _consuming(cluster: Cluster, *names: str) -> AsyncIterator[Callable[[str], Any]]:
    """Yield what returns the first record of a topic."""
    consumer = AIOKafkaConsumer(*names, **topics.client_kwargs(cluster.broker), auto_offset_reset="earliest")
    await consumer.start()
    seen: dict[str, dict[str, Any]] = {}

    async def read(topic: str) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            while topic not in seen:
                record = await consumer.getone()
                seen.setdefault(record.topic, orjson.loads(record.value or b""))
        return seen[topic]

    try:
        yield read
    finally:
        await consumer.stop()
