"""`streamer.keeping` in a pipeline: evidence is there before the score is, of what alerts and of what is drawn."""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from streamer import alert as alerting
from streamer.errors import RejectedEvent, TransientError
from streamer.events import PRODUCT_SCORES, ProductScore
from streamer.evidence import EvidenceStore
from streamer.held import hold
from streamer.keeping import REMEMBERED_S, TRIES, Keeper
from streamer.policy import Policy
from streamer.reviews import ConfirmedLabel
from streamer.sampling import AuditSampler
from streamer.settings import PipelineSettings
from streamer.telemetry import Telemetry
from tests.fakes import Published, png
from tests.pipeline_bench import RIGHT, WRONG, Bench, build, update
from tests.unit.test_sampling import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from streamer.reviews import ScoredItem


class Kept:
    """A pipeline that keeps evidence, the evidence, and what people are asked."""

    def __init__(self, bench: Bench, store: EvidenceStore, asked: Published, keeper: Keeper) -> None:
        self.bench = bench
        self.store = store
        self.asked = asked
        self.keeper = keeper

    def items(self, product: str = "p") -> list[ScoredItem]:
        return list(self.store.items(product))


async def keeping(
    folder: Path,
    *,
    share: float = 0.0,
    store: EvidenceStore | None = None,
    settings: PipelineSettings | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Kept]:
    """Yield a pipeline that keeps evidence in a folder; `share` of what does not alert is drawn."""
    store = store or EvidenceStore(str(folder))
    asked = Published()
    with ThreadPoolExecutor(2) as executor:
        keeper = Keeper(
            store=store,
            sampler=AuditSampler(share=share, uncertainty=0, per_hour=1e12, salt="") if share else None,
            publish=asked,
            reviews="review-requests",
            executor=executor,
            telemetry=Telemetry(),
            clock=clock,
        )
        async for bench in build(settings or PipelineSettings(explained_share=0), keeper=keeper):
            yield Kept(bench, store, asked, keeper)


def by_digests(score: dict[str, Any]) -> ConfirmedLabel:
    """Return the verdict of a person who was shown this score."""
    return ConfirmedLabel(
        label_id="1",
        product_id=score["product_id"],
        image_sha256=score["image_sha256"],
        text_sha256=score["text_sha256"],
        release=score["release"],
        verdict="mismatch",
        reviewer="ana",
        labeled_at=datetime(2026, 3, 1, tzinfo=UTC),
        source="test",
    )


async def test_alert_s_evidence_is_there_before_its_score(tmp_path: Path) -> None:
    """The picture's bytes, what the text said and what the engine made of both."""
    seen: list[int] = []

    class Watched(EvidenceStore):
        def keep(self, item: ScoredItem, picture: bytes | None) -> None:
            super().keep(item, picture)
            seen.append(len(published.records))

    async for kept in keeping(tmp_path, store=Watched(str(tmp_path))):
        published = kept.bench.published
        await kept.bench.send(update(3, WRONG) | {"color": "red", "price": 9.9, "item_group_id": "g"})
        (score,) = await kept.bench.settle()
        assert seen == [0]
        item = kept.store.find(by_digests(score))
        assert (item.text, item.fields) == ("title: a mug\ncolor: red", {"title": "a mug", "color": "red"})
        assert (item.columns["price"], item.item_group_id, item.order) == (9.9, "g", 3)
        assert (item.probability, item.threshold) == (score["probability"], score["threshold"])
        assert (item.sampled, item.sampling_probability) == ("alert", 1.0)
        assert kept.store.picture(item.image_sha256) == png(255)


async def test_what_does_not_alert_is_not_kept(tmp_path: Path) -> None:
    """Without an audit, evidence costs right products nothing."""
    async for kept in keeping(tmp_path):
        await kept.bench.send(update(1, RIGHT))
        await kept.bench.settle()
        assert (kept.items(), kept.asked.records) == ([], [])


async def test_audited_product_is_kept_and_people_are_asked(tmp_path: Path) -> None:
    """The question carries what a label must name, and how likely it was to be asked."""
    async for kept in keeping(tmp_path, share=1.0):
        await kept.bench.send(update(1, RIGHT))
        (score,) = await kept.bench.settle()
        ((topic, key, request),) = kept.asked.records
        assert (topic, key, request["sampling_probability"]) == ("review-requests", b"p", 1.0)
        item = kept.store.find(by_digests(score))
        assert (request["request_id"], request["image_sha256"]) == (item.item_id, score["image_sha256"])
        assert item.sampled == "audit"
        await kept.bench.send(update(2, RIGHT))  # unchanged: asked once
        await kept.bench.settle()
        assert len(kept.asked.records) == 1


async def test_product_that_is_audited_again_is_asked_about_with_its_greatest_chance(tmp_path: Path) -> None:
    """A worker that starts anew scores it once more, when the budget leaves it another chance."""
    told = []
    for share in (1.0, 0.999):
        async for kept in keeping(tmp_path, share=share):
            await kept.bench.send(update(1, RIGHT))
            await kept.bench.settle()
            told += [(one["request_id"], one["sampling_probability"]) for one in kept.asked.topic("review-requests")]
    assert len(told) == 2
    assert set(told) == {(told[0][0], 1.0)}


async def test_product_with_another_s_picture_and_text_has_evidence_of_its_own(tmp_path: Path) -> None:
    """It costs no inference, and its server may say that the picture has not changed."""
    async for kept in keeping(tmp_path):
        for product in ("p", "q"):
            await kept.bench.send(update(1, WRONG, product=product))
            await kept.bench.settle()
        assert [one["outcome"] for one in kept.bench.published.topic(PRODUCT_SCORES)] == ["scored", "unchanged"]
        for product in ("p", "q"):
            (item,) = kept.items(product)
            assert kept.store.picture(item.image_sha256) == png(255)


async def test_picture_that_has_not_changed_is_fetched_again_where_evidence_lacks_it(tmp_path: Path) -> None:
    """It did not alert at first; now it does, in a category with another threshold, and its bytes are needed."""
    async for kept in keeping(tmp_path):
        strict = msgspec.structs.replace(kept.bench.pipeline.serving.manifest, thresholds={"Mugs": 0.0})
        kept.bench.pipeline.serving.policy = Policy(strict)
        await kept.bench.send(update(1, RIGHT))
        await kept.bench.settle()
        await kept.bench.send(update(2, RIGHT) | {"product_type": "Mugs"})
        await kept.bench.settle()
        (item,) = kept.items()
        assert kept.store.picture(item.image_sha256) == png(0)
        assert kept.bench.engine.batches == [1]


async def test_product_that_is_erased_is_kept_again_when_it_alerts_again(tmp_path: Path) -> None:
    """Picture and all, though its host says that it has not changed; what was kept a moment ago is not written anew."""
    clock = Clock()
    async for kept in keeping(tmp_path, clock=clock):
        for version, now_s in ((1, 0.0), (2, REMEMBERED_S - 1), (3, REMEMBERED_S)):
            clock.now = now_s
            await kept.bench.send(update(version, WRONG))
            *_, score = await kept.bench.settle()
            if version < 3:
                assert [item.order for item in kept.items()] == [1]
            if version == 2:
                assert kept.store.erase("p") == 1
        assert score["outcome"] == "unchanged"
        (item,) = kept.items()
        assert kept.store.picture(item.image_sha256) == png(255)


async def test_alert_points_to_its_item(tmp_path: Path) -> None:
    """A label that only has the alert's id finds what the alert was about."""
    async for kept in keeping(tmp_path):
        await kept.bench.send(update(1, WRONG))
        (score,) = await kept.bench.settle()
        _, alert = alerting.decide(None, msgspec.convert(score, ProductScore), source="/test")
        assert alert is not None
        await kept.keeper.point(alert, scored_by=score["release"])
        label = msgspec.structs.replace(by_digests(score), alert_id=alert.id, image_sha256=None, text_sha256=None)
        assert kept.store.find(label) == kept.items()[0]


async def test_label_that_names_the_release_that_decided_finds_what_another_has_scored(tmp_path: Path) -> None:
    """An alert that was decided anew names the release that decided; picture and text are those that were scored."""
    async for kept in keeping(tmp_path):
        await kept.bench.send(update(1, WRONG))
        (score,) = await kept.bench.settle()
        label = msgspec.structs.replace(by_digests(score), release="fake-222222222222")
        assert kept.store.find(label) == kept.items()[0]


async def test_store_that_is_away_costs_the_evidence_and_not_the_alert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The score goes out after some tries; a label of it will find nothing."""
    monkeypatch.setattr("streamer.keeping.RETRY_S", 0.0)

    class Away(EvidenceStore):
        tries = 0

        def keep(self, item: ScoredItem, picture: bytes | None) -> None:
            self.tries += 1
            raise TransientError("store_unavailable", "no route")

    store = Away(str(tmp_path))
    async for kept in keeping(tmp_path, store=store, share=1.0):
        await kept.bench.send(update(1, WRONG))
        await kept.bench.send(update(1, RIGHT, product="q"))
        scores = await kept.bench.settle()
        assert [one["outcome"] for one in scores] == ["scored", "scored"]
        assert (store.tries, kept.asked.records) == (2 * TRIES, [])
        with pytest.raises(RejectedEvent):
            store.find(by_digests(scores[0]))


async def test_store_that_hangs_does_not_hold_scores_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises nothing and never answers: after a while its score goes out all the same."""
    monkeypatch.setattr("streamer.keeping.TRY_S", 0.05)
    answers = threading.Event()

    class Hangs(EvidenceStore):
        def keep(self, item: ScoredItem, picture: bytes | None) -> None:
            answers.wait()

    async for kept in keeping(tmp_path, store=Hangs(str(tmp_path))):
        for product in ("p", "q", "r"):  # more than there are threads
            await kept.bench.send(update(1, WRONG, product=product))
        scores = await kept.bench.settle()
        answers.set()
        assert {one["product_id"] for one in scores} == {"p", "q", "r"}


@pytest.mark.parametrize("place", [None, "/nowhere"])
def test_picture_that_waits_for_its_score_is_whole_however_large(
    place: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small ones wait in memory, large ones in a file that has no name, or in memory where there is room for none."""
    monkeypatch.setattr(tempfile, "tempdir", place)
    for size in (10, 2**20):
        body = hashlib.sha256(b"x").digest() * (size // 10)
        with hold(body) as held:
            held.seek(0)
            assert held.read() == body
