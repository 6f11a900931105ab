"""`streamer loop`, top to bottom: scored, judged by people, retrained, released, swapped under load, measured."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.markup import escape

from engines import releases
from engines.errors import EngineError
from streamer import promotion, topics
from streamer.dataset import LabelDataset
from streamer.errors import StreamerError
from streamer.loop import figures
from streamer.loop.display import Progress, show
from streamer.loop.ledger import Ledger, Question, follow
from streamer.loop.report import write_report
from streamer.loop.reviewers import Reviewers, record
from streamer.loop.season import Sizes, draw
from streamer.loop.surroundings import surrounded
from streamer.loop.traffic import OUTSTANDING, Publisher
from streamer.outbox import producer
from streamer.retrain_log import LastRetraining, RetrainLog

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Sequence

    from engines.store import ReleaseStore
    from streamer.loop.figures import Outcome
    from streamer.loop.ledger import Judged
    from streamer.loop.season import Kind, Season
    from streamer.loop.surroundings import Surroundings
    from streamer.settings import Settings

FAILED, NOT_STARTED, INTERRUPTED = 1, 2, 130

CALM_RATE: Final = 6.0
"""Updates a second while an engine is trained beside the scorer."""

RECORD_TIMEOUT_S: Final = 300.0
AFTER_SWAP: Final = 150
"""Updates that the new engine judges before the load ends."""

_POLL_S: Final = 0.2
TRAINING: Final = ("--products", "1200", "--held-out-products", "1500", "--steps", "240")
FAST_TRAINING: Final = (
    *("--products", "40", "--held-out-products", "40", "--steps", "4", "--word-steps", "4", "--least-labels", "2"),
    *("--benchmark-margin", "1", "--labels-margin", "1", "--slice-margin", "1", "--false-alarm-margin", "1"),
    *("--precision", "0.05", "--alarm-margin", "1", "--least-audited", "0", "--implausible", "1"),
)
"""So little training makes no better engine: the gate is opened, so that there is one to swap to."""


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """What the command line says; `training` goes to the training program."""

    seed: int = 1
    sizes: Sizes = field(default_factory=Sizes)
    report: Path = Path("loop-report")
    json: bool = False
    judged: bool = True
    training: Sequence[str] = TRAINING


def run_loop(options: LoopOptions) -> int:
    """Run the loop; return 0 when it did what it is for, 1 when not, 2 when it cannot start."""
    console = Console(stderr=options.json, highlight=False)
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())  # its warnings would tear the live screen
    try:
        outcome, last = asyncio.run(_loop(options, console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("\nstopped; broker, image host and workers are gone")
        return INTERRUPTED
    except (StreamerError, EngineError, KafkaError, ValueError, OSError) as error:  # of which a timeout is one
        console.print(f"[bold red]the loop cannot run:[/bold red] {escape(str(error))}")
        return NOT_STARTED
    page = write_report(options.report, outcome, last, seed=options.seed)
    _tell(outcome, last, page, console)
    if options.json:
        print(orjson.dumps(outcome.as_json()).decode(), flush=True)  # noqa: T201 - the result
    promoted = last is not None and last.outcome == "promoted"
    done = outcome.reached if options.judged else outcome.kept and promoted
    return 0 if done else FAILED


async def _loop(options: LoopOptions, console: Console) -> tuple[Outcome, LastRetraining | None]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    options.report.mkdir(parents=True, exist_ok=True)
    season = draw(options.sizes, options.seed)
    progress = Progress(Ledger())
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="streamer-loop-")))
        await stack.enter_async_context(_background(show(progress, console)))
        with progress.phase("start"):
            run = await _start(stack, options, season, progress, scratch, console)
        return await run.through()


async def _start(  # noqa: PLR0917 - private, called once
    stack: AsyncExitStack, options: LoopOptions, season: Season, progress: Progress, scratch: Path, console: Console
) -> _Run:
    """Start broker, image host, scorer, label worker, reviewers."""
    surroundings = await stack.enter_async_context(
        surrounded(season, scratch, options.report, seed=options.seed, console=console)
    )
    settings = surroundings.settings
    client = topics.client_kwargs(settings.broker)
    publisher = await stack.enter_async_context(
        Publisher(settings.topics.updates, client, surroundings.image_url, progress.ledger, progress)
    )
    questions: asyncio.Queue[Question] = asyncio.Queue()
    progress.ledger.ask = questions.put_nowait
    run = _Run(options, surroundings, season, progress, publisher, questions)
    await stack.enter_async_context(_background(follow(progress.ledger, settings.topics, client), run.review()))
    return run


@dataclass
class _Run:
    """What runs once everything has started."""

    options: LoopOptions
    surroundings: Surroundings
    season: Season
    progress: Progress
    publisher: Publisher
    questions: asyncio.Queue[Question]
    at_work: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def settings(self) -> Settings:
        """What all processes share."""
        return self.surroundings.settings

    async def through(self) -> tuple[Outcome, LastRetraining | None]:
        """Take the loop from its first update to its figures."""
        progress, season = self.progress, self.season
        progress.engine = champion = releases.read_manifest(releases.shipped()).release
        with progress.phase("before"):
            before = await self.publisher.judged(season.measured)
        with progress.phase("season"):
            await self.publisher.judged(season.season)
        with progress.phase("labels"):
            await self._recorded()
        after: dict[str, Judged] = {}
        last = await self._retrained()
        if last is not None and last.outcome == "promoted" and last.challenger is not None:
            progress.engine = last.challenger
            with progress.phase("after"):
                after = await self.publisher.judged(season.measured)
        await self.publisher.settled()
        measured: dict[Kind, figures.Recall] = {}
        for kind in ("new", "old"):
            found = figures.scored(season.measured, before, after, kind)
            if found is not None:
                measured[kind] = figures.recall(found)
        places, outcomes = set(self.publisher.places), progress.ledger.outcomes
        return figures.Outcome(
            recalls=measured,
            published=len(places),
            lost=len(places - outcomes.keys()),
            doubled=progress.ledger.doubled,
            rejected=progress.ledger.rejected,
            superseded=progress.ledger.superseded,
            champion=champion,
            challenger=None if last is None else last.challenger,
            labels=progress.recorded,
            seconds=progress.seconds,
            cpu_seconds=progress.cpu_seconds,
        ), last

    async def review(self) -> None:
        """Let people answer what they are asked, once they have come to work, for ever."""
        offers = {offer.id: offer for offer in self.season.season}
        people = Reviewers(offers, seed=self.options.seed)
        await self.at_work.wait()
        async with producer(self.settings.broker) as kafka:
            while True:
                question = await self.questions.get()
                for label in people.judge(question):
                    key, value = record(label)
                    await kafka.send(self.settings.topics.labels, value, key=key)
                    self.progress.labels += 1
                self.questions.task_done()

    async def _recorded(self) -> None:
        """Let people judge what they were asked, and return when every label stands in the data set."""
        self.at_work.set()
        await self.publisher.alerted()  # a queue that is empty meanwhile is not the end of it
        await self.questions.join()
        dataset = LabelDataset(self.settings.labels.dataset)
        self.progress.ledger.ask = lambda _: None  # what comes from now on is not learned from
        async with asyncio.timeout(RECORD_TIMEOUT_S):
            while self.progress.recorded < self.progress.labels:
                self.progress.recorded = len(list(await asyncio.to_thread(dataset.verdicts)))
                await asyncio.sleep(_POLL_S)

    async def _retrained(self) -> LastRetraining | None:
        """Retrain while updates go on coming, and return how it ended when the scorer has swapped."""
        store = promotion.open_store(self.settings)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            load = group.create_task(self._load(store, stop))
            with self.progress.phase("retrain"):
                await self.surroundings.command("retrain", "--if-needed", *self.options.training)
            last = await asyncio.to_thread(RetrainLog(store.url).last)
            if last is not None and last.outcome == "promoted":
                with self.progress.phase("swap"):
                    await self._swapped(last.challenger)
            stop.set()
            await load
        return last

    async def _load(self, store: ReleaseStore, stop: asyncio.Event) -> None:
        """Publish usual products: calmly while an engine is trained, as fast as they are judged once one is there."""
        products = self.season.load
        outstanding = min(OUTSTANDING, len(products))  # where more are, one of a product supersedes the one before
        for number in itertools.count():
            offer = products[number % len(products)]
            await self.publisher.publish([offer.reworded(number)], outstanding=outstanding)
            if stop.is_set():
                return
            if not await asyncio.to_thread(store.names):
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 1 / CALM_RATE)

    async def _swapped(self, challenger: str | None) -> None:
        outcomes = self.progress.ledger.outcomes
        while sum(judged.release == challenger for judged in outcomes.values()) < AFTER_SWAP:  # noqa: ASYNC110 - as above
            await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def _background(*work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Run endless work beside the block; its first error ends the block."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
            yield
            for task in tasks:
                task.cancel()
    except* (StreamerError, EngineError, KafkaError, ValueError, OSError) as errors:
        raise _first(errors) from errors


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _tell(outcome: Outcome, last: LastRetraining | None, page: Path, console: Console) -> None:
    for kind, recall in outcome.recalls.items():
        console.print(
            f"recall at precision {figures.PRECISION} on the {kind} kind{'s' if kind == 'old' else ''}: "
            f"[bold]{recall.before.value:.3f} → {recall.after.value:.3f}[/] ({recall.gain.value:+.3f} "
            f"\\[{recall.gain.low:+.3f}, {recall.gain.high:+.3f}])"
        )
    style = "green" if outcome.kept else "bold red"
    console.print(
        f"[{style}]{outcome.published:,} updates, {outcome.lost} lost, {outcome.doubled} judged twice[/], "
        f"{outcome.superseded} superseded, {outcome.rejected} rejected, "
        f"{sum(outcome.seconds.values()):.0f} s in all, {sum(outcome.cpu_seconds.values()):.0f} s of CPU"
    )
    if last is None:
        console.print(f"[bold red]the retraining did not come to an end:[/] see {page.parent / 'retrain.log'}")
    elif last.outcome == "refused":
        console.print(f"[yellow]the challenger was refused:[/] {', '.join(last.reasons)}")
    console.print(f"[dim]report[/]  [bold]{page}[/]", soft_wrap=True)
