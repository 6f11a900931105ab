"""`streamer.recording`: every label has one outcome and is acknowledged after it, whatever its stores do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from streamer.dataset import LabelDataset
from streamer.erasures import Erasures
from streamer.errors import RejectedEvent, TransientError
from streamer.evidence import EvidenceStore
from streamer.incoming import Incoming
from streamer.recording import Recorder
from streamer.reviews import ConfirmedLabel, parse_label
from streamer.telemetry import LabelTelemetry
from streamer.wire import SourcePosition, Unread, encode
from tests.fakes import Published
from tests.review import ITEM, LABEL, PICTURE, label

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from streamer.labels import Joined, VoteKey


class Flaky(LabelDataset):
    """A data set that is away for the first writes, and once writes without being heard."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.failures = 0
        self.unheard = self.loses_pictures = False
        self.meanwhile: list[Callable[[], object]] = []

    def write(self, rows: Mapping[VoteKey, Joined]) -> None:
        if self.failures:
            self.failures -= 1
            for happens in self.meanwhile:
                happens()
            raise TransientError("dataset_unavailable", "no route")
        super().write(rows)
        if self.loses_pictures:
            self._blobs.delete("images")
        if self.unheard:
            self.unheard = False
            raise TransientError("dataset_unavailable", "the answer was lost")


class FlakyErasures(Erasures):
    """A list that is away for the first additions."""

    failures = 0

    def add(self, product_id: str) -> None:
        if self.failures:
            self.failures -= 1
            raise TransientError("store_unavailable", "no route")
        super().add(product_id)


class Bench:
    """A recorder on stores in a folder, and what it did."""

    def __init__(self, folder: Path) -> None:
        self.evidence = EvidenceStore(str(folder / "evidence"))
        self.dataset = Flaky(str(folder / "dataset"))
        self.erasures = FlakyErasures(str(folder / "dataset"))
        self.published = Published()
        self.telemetry = LabelTelemetry()
        self.acknowledged: list[int] = []
        self.now = LABEL.labeled_at + timedelta(hours=1)
        self.recorder = Recorder(
            evidence=self.evidence,
            dataset=self.dataset,
            erasures=self.erasures,
            publish=self.published,
            dead_letters="dead-letters",
            telemetry=self.telemetry,
            clock=lambda: self.now,
            retry_s=0.0,
        )

    async def record(self, *values: ConfirmedLabel | bytes | None, key: bytes | None = b"mug-blue") -> None:
        """Give it records in one batch."""
        await self.recorder.record([self._incoming(offset, value, key) for offset, value in enumerate(values)])

    def _incoming(self, offset: int, value: ConfirmedLabel | bytes | None, key: bytes | None) -> Incoming:
        return Incoming(
            key=key,
            value=value if value is None or isinstance(value, bytes) else encode(value),
            headers=[],
            position=SourcePosition(topic="confirmed-labels", partition=0, offset=offset),
            published_at=datetime(2026, 3, 1, tzinfo=UTC),
            acknowledge=lambda: self.acknowledged.append(offset),
        )

    def count(self, outcome: str) -> float:
        return self.telemetry.registry.get_sample_value("streamer_labels_total", {"outcome": outcome}) or 0.0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Give a recorder whose evidence store has one item."""
    made = Bench(tmp_path)
    made.evidence.keep(ITEM, PICTURE)
    return made


async def test_batch_ends_each_record_in_one_outcome(bench: Bench) -> None:
    """Recorded, repeated, rejected for two reasons: all acknowledged, and counted."""
    await bench.record(LABEL, LABEL, b"{", label(ITEM, image_sha256="0" * 64))
    assert sorted(bench.acknowledged) == [0, 1, 2, 3]
    assert [bench.count(one) for one in ("recorded", "repeated", "rejected")] == [1, 1, 2]
    letters = bench.published.topic("dead-letters")
    assert [(one["reason"], one["product_id"]) for one in letters] == [
        ("malformed_json", None),
        ("item_unknown", "mug-blue"),
    ]
    assert len(bench.dataset.of("mug-blue")) == 1


@pytest.mark.parametrize("key", [b"mug-red", b"mug-blue ", b"", None])
async def test_label_whose_key_is_not_its_product_is_rejected(bench: Bench, key: bytes | None) -> None:
    """It may stand in another partition than the product's erasure, which could overtake it."""
    await bench.record(LABEL, key=key)
    assert bench.acknowledged == [0]
    assert (bench.count("rejected"), bench.count("recorded")) == (1, 0)
    assert bench.dataset.of("mug-blue") == []
    ((_, letter_key, letter),) = bench.published.records
    assert (letter_key, letter["reason"], letter["product_id"]) == (key, "key_mismatch", "mug-blue")


async def test_label_that_cannot_be_read_for_an_unforeseen_reason_is_rejected(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that nobody could read; the ones around them are recorded."""

    def fails(value: bytes) -> ConfirmedLabel:
        if value == b"{":
            raise RecursionError("too deep")
        return parse_label(value)

    monkeypatch.setattr("streamer.recording.parse_label", fails)
    await bench.record(b"{", Unread(RejectedEvent("batch_too_large", "the batch")), LABEL)
    assert [one["reason"] for one in bench.published.topic("dead-letters")] == ["event_unreadable", "batch_too_large"]
    assert sorted(bench.acknowledged) == [0, 1, 2]
    assert bench.count("recorded") == 1


async def test_label_with_an_enormous_key_makes_a_letter_that_fits_its_topic(bench: Bench) -> None:
    """Its key is left out, of the record, too."""
    await bench.record(b"{", key=b"k" * 1_000_000)
    ((_, key, letter),) = bench.published.records
    assert (key, letter["key"]) == (None, None)


async def test_label_of_the_future_is_rejected(bench: Bench) -> None:
    """It would win over all that the person says until then; an hour is let pass, since clocks differ."""
    allowed = label(ITEM, label_id="2", labeled_at=bench.now + timedelta(hours=1))
    beyond = label(ITEM, label_id="3", verdict="match", labeled_at=allowed.labeled_at + timedelta(seconds=1))
    await bench.record(allowed, beyond)
    assert sorted(bench.acknowledged) == [0, 1]
    assert [row["verdict"] for row in bench.dataset.of("mug-blue")] == ["mismatch"]
    (letter,) = bench.published.topic("dead-letters")
    assert (letter["reason"], letter["product_id"]) == ("labeled_in_future", "mug-blue")
    bench.now += timedelta(seconds=1)
    await bench.record(beyond)
    assert [row["verdict"] for row in bench.dataset.of("mug-blue")] == ["match"]


async def test_store_that_is_away_is_asked_until_it_answers(bench: Bench) -> None:
    """An outage loses nothing, and a write whose answer was lost is not doubled."""
    bench.dataset.failures, bench.dataset.unheard = 3, True
    await bench.record(LABEL, label(ITEM, reviewer="ben"))
    assert bench.acknowledged == [0, 1]
    assert len(bench.dataset.of("mug-blue")) == 2


async def test_label_of_a_product_that_is_erased_while_its_store_is_away_is_not_written(bench: Bench) -> None:
    """Its partition may be another worker's by then, who has recorded the label and erased the product."""
    bench.dataset.failures = 1
    bench.dataset.meanwhile = [partial(bench.evidence.erase, "mug-blue"), partial(bench.dataset.erase, "mug-blue")]
    await bench.record(LABEL)
    assert bench.dataset.of("mug-blue") == []
    assert [one["reason"] for one in bench.published.topic("dead-letters")] == ["item_unknown"]
    assert bench.acknowledged == [0]


async def test_picture_that_goes_while_its_row_is_written_is_put_there_again(bench: Bench) -> None:
    """Another worker erases another product with the same picture, and does not see the row yet."""
    bench.dataset.loses_pictures = True
    await bench.record(LABEL)
    (row,) = bench.dataset.of("mug-blue")
    assert bench.dataset.picture(row["image"]) == PICTURE
    assert bench.count("recorded") == 1


async def test_erasure_stands_between_the_labels_before_and_behind_it(bench: Bench) -> None:
    """In one batch: what came before it is erased, and of what comes behind it nothing is recorded."""
    await bench.record(LABEL, None, label(ITEM, reviewer="ben"))
    assert bench.acknowledged == [0, 1, 2]
    assert (bench.dataset.of("mug-blue"), list(bench.evidence.items("mug-blue"))) == ([], [])
    assert [one["reason"] for one in bench.published.topic("dead-letters")] == ["product_erased"]
    assert bench.count("erased") == 1


async def test_erasure_of_what_was_never_kept_is_no_error(bench: Bench) -> None:
    """It may come again, or for a product that nobody judged; one without a product is rejected."""
    await bench.record(None, None, key=b"other")
    await bench.record(None, key=b"")
    assert (bench.count("erased"), bench.count("rejected")) == (2, 1)
    assert len(list(bench.evidence.items("mug-blue"))) == 1


async def test_erasure_is_on_the_list_before_anything_is_erased(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is killed between the two has said what is erased; the record comes again and ends the rest."""
    await bench.record(LABEL)
    seen: list[tuple[bool, int]] = []

    def look(product_id: str) -> int:
        seen.append((product_id in bench.erasures, len(bench.dataset.of(product_id))))
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(bench.evidence, "erase", look)
        with pytest.raises(KeyboardInterrupt):
            await bench.record(None)
    assert seen == [(True, 1)]
    assert bench.count("erased") == 0
    bench.erasures.failures = 2  # away when it comes again, which is waited for
    await bench.record(None)
    assert (bench.dataset.of("mug-blue"), list(bench.evidence.items("mug-blue"))) == ([], [])
    assert bench.count("erased") == 1
    assert len(bench.erasures.all()) == 1


async def test_product_that_was_erased_is_recorded_again_when_it_is_restored(bench: Bench) -> None:
    """It stays in the catalogue, alerts and is judged: nothing is recorded of it until somebody ends the erasure."""
    await bench.record(None)
    bench.evidence.keep(ITEM, PICTURE)  # scorers are not told
    await bench.record(LABEL)
    assert bench.dataset.of("mug-blue") == []
    ((_, _, letter),) = bench.published.records
    assert (letter["reason"], letter["product_id"]) == ("product_erased", "mug-blue")
    bench.erasures.remove("mug-blue")
    await bench.record(LABEL)
    assert len(bench.dataset.of("mug-blue")) == 1
