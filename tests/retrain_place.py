"""Where tests let `streamer retrain` work: broker, release store, labels, and a training program that only pretends."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.console import Console

from streamer import promotion, retrain_request, topics
from streamer.blobs import Blobs
from streamer.dataset import LabelDataset
from streamer.erasures import Erasures
from streamer.labels import Joined
from streamer.retrain import RetrainOptions, retrain
from streamer.retrain_log import RetrainLog
from streamer.retrain_request import RetrainRequest
from streamer.settings import BrokerSettings, EngineSettings, LabelSettings, ReleaseSettings, RetrainSettings, Settings
from tests import tiny_release
from tests.review import PICTURE, item, label

if TYPE_CHECKING:
    from streamer.demo.broker import EmbeddedBroker

PROGRAM: Final = (sys.executable, str(Path(__file__).parent / "fake_trainer.py"))
ITEMS: Final = 6


class Place(NamedTuple):
    """Where a job works."""

    folder: Path
    settings: Settings

    @property
    def log(self) -> RetrainLog:
        return RetrainLog(str(self.folder / "store"))

    @property
    def dataset(self) -> LabelDataset:
        return LabelDataset(str(self.folder / "labels"))

    @property
    def erasures(self) -> Erasures:
        return Erasures(str(self.folder / "labels"))

    def options(self, verdict: str = "promote", **changes: Any) -> RetrainOptions:  # noqa: ANN401 - of any type
        given: dict[str, Any] = {"work": self.folder / "work", "passed": ["--verdict", verdict]}
        return RetrainOptions(**(given | changes))

    def retrain(self, verdict: str = "promote", **changes: Any) -> int:  # noqa: ANN401 - as above
        """Run the job."""
        console = Console(file=StringIO())
        return retrain(self.options(verdict, **changes), self.settings, console, asyncio.run, program=PROGRAM, needs=())

    def request(self, release: str | None, at: datetime | None = None) -> None:
        """Ask for a retraining as the drift watcher does, or, without a release, as a person."""
        moment = at or datetime.now(UTC)
        wanted = RetrainRequest(
            requested_by="drift",
            reason="scores have moved",
            requested_at=moment,
            statistic=release and "value:score",
            release=release,
        )
        retrain_request.write(Blobs(str(self.folder / "store"), setting="releases"), wanted)

    def runs(self) -> list[Path]:
        """Return where the runs stand, in the order in which they began; names tell seconds only."""
        began = {path.parent: json.loads(path.read_text())["began_at"] for path in self.folder.glob("work/*/run.json")}
        return sorted(began, key=lambda run: datetime.fromisoformat(began[run]))

    def asked(self) -> list[list[str]]:
        """Return what the training program was asked, about which release, and what lists what it leaves out."""
        return [json.loads(line) for line in (self.folder / "work" / "asked.jsonl").read_text().splitlines()]

    def roll_back(self) -> None:
        """Announce the release that ran before, as `streamer releases rollback` does."""
        target = asyncio.run(promotion.rollback_target(self.settings))
        checked = promotion.check(promotion.open_store(self.settings), target)
        asyncio.run(promotion.roll_back(self.settings, checked, by="ana", reason="too many alerts"))

    def announced(self) -> tuple[str, str | None]:
        """Return what runs, and what it would go back to."""
        newest = asyncio.run(promotion.announced_release(self.settings))
        assert newest is not None
        return newest.release, newest.previous


def make(tansu: EmbeddedBroker, folder: Path) -> Place:
    """Return a place on this broker, in an empty folder: topics, a champion, and labels of ITEMS products."""
    champion = tiny_release.write(folder / "made")
    settings = Settings(
        broker=BrokerSettings(bootstrap=tansu.bootstrap, fetch_max_wait_ms=20),
        engine=EngineSettings(release=champion),
        releases=ReleaseSettings(store=str(folder / "store")),
        labels=LabelSettings(dataset=str(folder / "labels")),
        retrain=RetrainSettings(min_labels=ITEMS),
    )
    asyncio.run(topics.create(settings.broker, topics.specs(settings.topics)))
    here = Place(folder, settings)
    judge(here, range(ITEMS))
    return here


def judge(place: Place, numbers: range) -> None:
    """Let two people judge these products."""
    joined = [
        Joined(label(one, reviewer=who), one)
        for number in numbers
        for one in (item(f"p{number}", picture=PICTURE + bytes([number])),)
        for who in ("ana", "ben")
    ]
    for one in joined:
        number = int(one.item.product_id[1:])
        place.dataset.keep(one.item.image_sha256, lambda number=number: PICTURE + bytes([number]))  # type: ignore[misc]
    place.dataset.write({one.key: one for one in joined})
