"""One delivery run on a real Kafka: traffic, workers, faults, and afterwards a check of every topic.

The events update products whose pictures and texts come from small pools, so that most pairs were scored before and
the run measures delivery, not inference. What each product's alert must be in the end follows from its last update.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import orjson
from aiokafka import AIOKafkaProducer

from engines.catalogs.rendered import jpeg, render_catalog
from streamer.demo.images import ImageHost
from streamer.demo.worker import settings_variables
from streamer.settings import Settings, StateSettings
from tests import brokers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARTITIONS = 12
PRODUCTS = 3_000
POOL = 24  # texts, and as many pictures: 576 pairs to score
SETTLE_S = 150.0
Workers = list[subprocess.Popen[bytes]]


@dataclass(frozen=True)
class Traffic:
    """The updates of a run, in order, and each product's last one."""

    updates: list[bytes]
    keys: list[bytes]
    last: dict[str, tuple[str, str]]  # product id → (title, image_link)


@dataclass
class Result:
    """What stood in the topics when the run had settled."""

    events: int
    outcomes: Counter[str]
    lost: int
    redelivered: int
    rejected: int
    alerts: int
    repeated_alerts: int
    wrong_alerts: list[str]
    uncommitted: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.events} events, {self.lost} lost, {self.redelivered} redelivered, {len(self.wrong_alerts)} wrong "
            f"alerts, {self.alerts} alerts of which {self.repeated_alerts} published again under the same id, "
            f"{sum(self.uncommitted.values())} uncommitted, {self.seconds:.0f} s"
        )


class Run:
    """One run: `publish` the traffic while a test starts and ends `workers`, then `settle` and read the result."""

    def __init__(self, kafka: brokers.Broker, root: Path, *, events: int, seed: int) -> None:
        self.kafka = kafka
        self.root = root
        self.rng = random.Random(seed)
        self.name = f"delivery-{seed}-{time.time_ns()}"
        self.events = events
        self.workers: Workers = []
        self._stack = ExitStack()
        self.settings: Settings
        self.traffic: Traffic
        self._started = time.monotonic()

    async def __aenter__(self) -> Self:
        pictures = self.root / "pictures"
        pictures.mkdir()
        products = render_catalog(POOL, self.rng.randrange(2**31))
        for number, product in enumerate(products):
            (pictures / f"{number}.jpg").write_bytes(jpeg(product, 160))
        host = self._stack.enter_context(ImageHost(pictures))
        self.settings = self._settings(host.address)
        # Variants share a title; a number tells their texts apart.
        texts = [product.fields | {"title": f"{product.fields['title']} {n}"} for n, product in enumerate(products)]
        self.traffic = self._plan(texts, host)
        topics = self.settings.topics
        names = (topics.updates, topics.scores, topics.alerts, topics.dead_letters)
        await brokers.create_topics(self.kafka.bootstrap, *names, partitions=PARTITIONS)
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
        self._stack.close()

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start one more worker, as a process of its own."""
        number = len(self.workers)
        sections = {name: getattr(self.settings, name) for name in Settings.model_fields}
        variables = settings_variables(sections | {"state": StateSettings(directory=self.root / f"state-{number}")})
        with (self.root / f"worker-{number}.log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "streamer.cli", "score"],
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.workers.append(worker)
        return worker

    async def publish(self, *, per_second: int = 2_500) -> None:
        """Publish the traffic at that rate."""
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap, linger_ms=5, acks="all")
        await producer.start()
        try:
            sent = []
            for number, (key, update) in enumerate(zip(self.traffic.keys, self.traffic.updates, strict=True)):
                sent.append(await producer.send(self.settings.topics.updates, update, key=key))
                if number % 100 == 0:
                    await asyncio.sleep(100 / per_second)
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    async def reached(self, share: float) -> None:
        """Return when that share of the events has its outcome."""
        topic = self.settings.topics.scores
        while sum((await brokers.end_offsets(self.kafka.bootstrap, topic)).values()) < share * self.events:  # noqa: ASYNC110
            await asyncio.sleep(0.2)  # Kafka calls nobody

    async def settle(self) -> Result:
        """Wait until everything is committed, or for SETTLE_S, and check the topics."""
        deadline = time.monotonic() + SETTLE_S
        while (behind := await self._uncommitted()) and time.monotonic() < deadline:  # noqa: ASYNC110 - Kafka calls nobody
            await asyncio.sleep(0.5)
        return await self._check(behind)

    async def _uncommitted(self) -> dict[str, int]:
        """Return how far the group is behind the end, by partition; nothing when it is not."""
        behind = {}
        for topic in (self.settings.topics.updates, self.settings.topics.scores):
            ends = await brokers.end_offsets(self.kafka.bootstrap, topic)
            committed = await brokers.committed(self.kafka.bootstrap, self.settings.broker.group, topic)
            gaps = {f"{topic}-{p}": end - (committed[p] or 0) for p, end in ends.items()}
            behind |= {partition: gap for partition, gap in gaps.items() if gap}
        return behind

    async def _check(self, behind: dict[str, int]) -> Result:
        topics, bootstrap = self.settings.topics, self.kafka.bootstrap
        scores = [orjson.loads(r.value or b"") for r in await brokers.read_all(bootstrap, topics.scores)]
        dead = [orjson.loads(r.value or b"") for r in await brokers.read_all(bootstrap, topics.dead_letters)]
        alerts = [orjson.loads(r.value or b"") for r in await brokers.read_all(bootstrap, topics.alerts)]
        positions = Counter((r["source"]["partition"], r["source"]["offset"]) for r in scores + dead)
        ids = Counter(alert["id"] for alert in alerts)
        return Result(
            events=len(self.traffic.updates),
            outcomes=Counter(score["outcome"] for score in scores) + Counter(rejected=len(dead)),
            lost=len(self.traffic.updates) - len(positions),
            redelivered=sum(count - 1 for count in positions.values()),
            rejected=len(dead),
            alerts=len(ids),
            repeated_alerts=sum(count - 1 for count in ids.values()),
            wrong_alerts=self._wrong(scores, alerts),
            uncommitted=behind,
            seconds=time.monotonic() - self._started,
        )

    def _wrong(self, scores: list[dict[str, Any]], alerts: list[dict[str, Any]]) -> list[str]:
        """Return the products whose alert is not what their last update calls for, or whose alerts do not alternate."""
        mismatch = {
            (score["title"], score["image_url"]): score["probability"] >= score["threshold"]
            for score in scores
            if score["probability"] is not None
        }
        history: dict[str, list[str]] = defaultdict(list)
        known: set[str] = set()
        for alert in alerts:
            if alert["id"] not in known:
                known.add(alert["id"])
                history[alert["subject"]].append(alert["type"].rpartition(".")[2])
        last = self.traffic.last
        wrong = [product for product, pair in last.items() if mismatch.get(pair) != _open(history.get(product, []))]
        return wrong + [product for product, told in history.items() if not _alternate(told)]

    def _plan(self, texts: list[dict[str, str]], host: ImageHost) -> Traffic:
        updates, keys, last = [], [], {}
        for version in range(self.events):
            product = f"p{version % PRODUCTS}"
            text, url = self.rng.choice(texts), host.url(f"{self.rng.randrange(POOL)}.jpg")
            updates.append(orjson.dumps({**text, "id": product, "version": version, "image_link": url}))
            keys.append(product.encode())
            last[product] = (text["title"], url)
        return Traffic(updates, keys, last)

    def _settings(self, image_host: str) -> Settings:
        names = {name: f"{self.name}-{name}" for name in ("updates", "scores", "alerts", "dead_letters")}
        return Settings.model_validate(
            {
                "broker": {
                    "bootstrap": self.kafka.bootstrap,
                    "group": self.name,
                    "session_timeout_s": 6,
                    "heartbeat_interval_s": 1,
                },
                "topics": {**names, "partitions": PARTITIONS},
                "fetch": {"allow_hosts": (image_host,)},
                "telemetry": {"port": 0},
            }
        )


def _open(transitions: list[str]) -> bool:
    return bool(transitions) and transitions[-1] != "resolved"


def _alternate(transitions: list[str]) -> bool:
    after = {"opened": ("updated", "resolved"), "updated": ("updated", "resolved"), "resolved": ("opened",)}
    return transitions[0] == "opened" and all(second in after[first] for first, second in pairwise(transitions))


@contextmanager
def patience(run: Run) -> Iterator[None]:
    """Show the workers' last words when a check fails."""
    try:
        yield
    except AssertionError:
        for log in sorted(run.root.glob("worker-*.log")):
            print(f"--- {log.name}\n", log.read_text(errors="replace")[-4000:])
        raise
