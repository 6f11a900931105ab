"""`streamer.application`: what of Faust must stay turned off, and what is added to its table."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.structs import TopicPartition

from streamer import application, topics
from streamer.settings import Settings, StateSettings
from streamer.topics import TopicState

if TYPE_CHECKING:
    from streamer.application import WorkerApp

TP = TopicPartition("changelog", 0)


@pytest.fixture
async def app(tmp_path: Any) -> WorkerApp:  # noqa: ANN401 - pytest's
    """An app with its state on disk, not started."""
    app = application.create(Settings(state=StateSettings(store="rocksdb", directory=tmp_path)))
    # A consumer makes the loop of its thread before it is started.
    app.ordered._thread.thread_loop.close()  # pyright: ignore[reportPrivateUsage]
    return app


@pytest.mark.parametrize("copies", [1, 3])
async def test_state_has_as_many_copies_as_the_scores(app: WorkerApp, copies: int) -> None:
    """Whatever the settings of the worker say that makes its changelog: the topics may be another process's."""
    changelog = application.state_table(app, TopicState("product-scores", 4, copies)).changelog_topic
    assert (changelog.partitions, changelog.replicas) == (4, copies)
    assert changelog.config == topics.changelog(copies)
    assert app.conf.topic_replication_factor == 1


def change(offset: int, key: str, **entry: int) -> Any:  # noqa: ANN401 - an event of Faust's
    """Return a change as recovery reads it."""
    raw = {"key": f'"{key}"'.encode(), "value": str(entry).replace("'", '"').encode()}
    return SimpleNamespace(key=key, value=entry, message=SimpleNamespace(tp=TP, partition=0, offset=offset, **raw))


def sent(offset: int) -> asyncio.Future[Any]:
    """Return the delivery of a change of the worker's own."""
    delivery: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    delivery.set_result(SimpleNamespace(topic_partition=TP, offset=offset))
    return delivery


async def test_app_keeps_no_standby_replicas(app: WorkerApp) -> None:
    """A standby skips records and remembers that it has read them (ADR 2): it must never be promoted."""
    assert app.conf.table_standby_replicas == 0


async def test_worker_whose_consumer_has_not_started_makes_no_progress_and_says_so(app: WorkerApp) -> None:
    """Probes and scrapes come as soon as the port is open: they are answered, not failed."""
    assert app.ordered.progress() == {}


@pytest.mark.parametrize("finished", [True, False])
async def test_consumer_gives_up_what_has_not_finished_in_time(app: WorkerApp, finished: bool) -> None:
    """Who works on it must hear that others will: only then does it end here."""
    given_up: list[bool] = []
    consumer: Any = app.ordered
    consumer.drain_timeout_s, consumer.give_up = 0.0, lambda: given_up.append(True)
    consumer._unacked_messages = [SimpleNamespace(acked=finished)]
    await consumer.wait_empty()
    assert given_up == ([] if finished else [True])


async def test_table_recovers_the_changes_of_the_newest_generation(app: WorkerApp) -> None:
    """What a worker wrote whose partitions had been given away is read, and does not count, in one batch or in two."""
    table: Any = app.Table("state", partitions=1, key_type=str)
    table.apply_changelog_batch([change(0, "a", order=5, generation=2), change(1, "a", order=3, generation=1)])
    table.apply_changelog_batch([change(2, "a", order=4, generation=1), change(3, "b", order=1, generation=1)])
    assert (table.data["a"]["order"], table.data["b"]["order"]) == (5, 1)
    table.apply_changelog_batch([change(4, "a", order=4, generation=1)])
    assert table.data.persisted_offset(TP) == 4


async def test_table_on_disk_keeps_its_offset_where_somebody_else_wrote_before_it(app: WorkerApp) -> None:
    """Its own change at 5 does not say that it holds what stands at 4: the next recovery begins there."""
    table: Any = app.Table("state", partitions=1, key_type=str)
    table.apply_changelog_batch([change(2, "a", order=1, generation=1)])
    table._on_changelog_sent(sent(3))
    table._on_changelog_sent(sent(5))
    assert table.data.persisted_offset(TP) == 3


@pytest.mark.parametrize("told", ["on_partitions_revoked", "on_partitions_assigned"])
async def test_rebalance_of_others_does_not_hold_a_worker_that_leaves(app: WorkerApp, told: str) -> None:
    """The app's part of it would wait for the consumer's thread, and that, to end, for the app's part."""
    consumer: Any = app.ordered
    thread: Any = consumer._thread
    thread.thread_loop = asyncio.get_running_loop()  # its method queue is not running: nobody answers
    waiting = asyncio.create_task(getattr(thread, told)({TP}))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    consumer._stopped.set()
    await asyncio.wait_for(waiting, 2)


async def test_rebalance_whose_part_is_cancelled_is_left_alone(app: WorkerApp) -> None:
    """What stops cancels it; were aiokafka cancelled, too, it would not leave its group."""
    consumer: Any = app.ordered
    thread: Any = consumer._thread
    thread.thread_loop = asyncio.get_running_loop()
    asked: list[asyncio.Future[Any]] = []

    async def call(promise: asyncio.Future[Any], *_: object) -> asyncio.Future[Any]:
        asked.append(promise)
        return promise

    consumer._method_queue.call = call
    waiting = asyncio.create_task(thread.on_partitions_revoked({TP}))
    await asyncio.sleep(0.01)
    asked[0].set_exception(asyncio.CancelledError())
    await asyncio.wait_for(waiting, 2)
