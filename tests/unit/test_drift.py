"""Drift: what is found, what is not, what is kept, and when a retraining is asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from streamer import retrain_request
from streamer.blobs import Blobs
from streamer.drift import KEPT, OTHER, SHOWN_GROUPS, VALUES, Limits, Statistic, Window
from streamer.drift_telemetry import DriftTelemetry
from streamer.drift_watch import DriftWatch
from streamer.errors import TransientError
from streamer.events import DeadLetter, Features, ProductScore
from streamer.retrain_log import LastRetraining, RetrainLog
from streamer.wire import SourcePosition, encode

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLACE = SourcePosition(topic="product-updates", partition=0, offset=0)
SIZE, LEAST = 600, 200
RELEASE = "small-000000000000"
ENDED = "streamer_retraining_ended_timestamp_seconds"


def score(
    logit: float = -2.0,
    *,
    brightness: float = 0.5,
    alerts: bool = False,
    category: str = "Mugs",
    host: str = "cdn.example",
    release: str = RELEASE,
    outcome: Any = "scored",  # noqa: ANN401 - an outcome
) -> ProductScore:
    """Return the outcome of one update."""
    features = Features(brightness=brightness, contrast=0.2, saturation=0.3, tokens=12, unknown_share=0.0)
    return ProductScore(
        product_id="p",
        order=1,
        outcome=outcome,
        source=PLACE,
        published_at=NOW,
        scored_at=NOW,
        category=category,
        image_url=f"https://{host}/1.jpg",
        probability=0.9 if alerts else 0.1,
        threshold=0.5,
        release=release,
        logit=logit,
        model="0123456789abcdef",
        **({"features": features} if outcome == "scored" else {}),
    )


def letter(reason: str, release: str = RELEASE) -> DeadLetter:
    """Return a rejection."""
    return DeadLetter(
        reason=reason,
        message="",
        attempts=1,
        source=PLACE,
        product_id="p",
        image_url=None,
        release=release,
        published_at=NOW,
        rejected_at=NOW,
        key=None,
        value=None,
        headers=[],
    )


def retraining(outcome: Any, at: datetime) -> LastRetraining:  # noqa: ANN401 - an outcome
    """Return how a retraining ended."""
    return LastRetraining(
        run="20260101-000000-abcdef",
        ended_at=at,
        outcome=outcome,
        champion=RELEASE,
        challenger="small-111111111111",
        reasons=("slice_loss",) if outcome == "refused" else (),
        dataset="labels",
        dataset_version=3,
        items=7,
    )


def drawn(count: int, seed: int, *, mean: float = -2.0, **changes: Any) -> list[ProductScore]:  # noqa: ANN401 - of a score
    """Return products whose logits are normal."""
    logits = np.random.default_rng(seed).normal(mean, 1.0, count)
    return [score(float(logit), **changes) for logit in logits]


def alerting(count: int, share: float, **changes: Any) -> list[ProductScore]:  # noqa: ANN401 - of a score
    """Return products of which this share alerts, evenly spread."""
    return [score(alerts=int(n * share) != int((n + 1) * share), **changes) for n in range(count)]


def window(*products: ProductScore) -> Window:
    """Return a window that has taken these products in."""
    made = Window(RELEASE, SIZE, LEAST)
    for one in products:
        made.add(one)
    return made


def drifted(made: Window) -> set[tuple[str, str]]:
    """Return what has drifted."""
    return {(one.kind, one.name) for one in made.statistics(Limits()) if one.drifted}


def test_products_as_before_have_not_drifted() -> None:
    """Chance alone stays far below the limit."""
    made = window(*drawn(SIZE, 0), *drawn(SIZE, 1))
    assert drifted(made) == set()
    values = {one.name: one.value for one in made.statistics(Limits()) if one.kind == "value"}
    assert set(values) == set(VALUES)
    assert values["score"] < 0.12


@pytest.mark.parametrize(
    ("changes", "found"),
    [({"mean": -1.0}, ("value", "score")), ({"brightness": 0.9}, ("value", "brightness"))],
)
def test_values_that_have_moved_have_drifted(changes: dict[str, float], found: tuple[str, str]) -> None:
    """And no others."""
    assert drifted(window(*drawn(SIZE, 0), *drawn(SIZE, 1, **changes))) == {found}


def test_nothing_is_compared_before_there_are_enough_products_on_both_sides() -> None:
    """A reference of few products would be its chance."""
    assert list(window(*drawn(SIZE - 1, 0)).statistics(Limits())) == []
    made = window(*drawn(SIZE, 0), *drawn(LEAST - 1, 1, mean=5.0))
    assert list(made.statistics(Limits())) == []
    made.add(score())
    assert drifted(made) == {("value", "score")}


def test_category_whose_alerts_have_multiplied_has_drifted_alone() -> None:
    """Others go on as before."""
    before = [*alerting(SIZE // 2, 0.05), *alerting(SIZE // 2, 0.05, category="Shoes")]
    after = [*alerting(SIZE // 2, 0.05), *alerting(SIZE // 2, 0.4, category="Shoes")]
    assert drifted(window(*before, *after)) == {("category", "Shoes"), ("host", "cdn.example")}


def test_alerts_that_have_ceased_have_drifted_too() -> None:
    """An engine that finds nothing any more is as suspicious as one that finds too much."""
    assert ("category", "Mugs") in drifted(window(*alerting(SIZE, 0.3), *alerting(SIZE, 0.0)))


def test_few_products_of_a_category_prove_nothing() -> None:
    """Three of four alert, by chance; the ends of the intervals still meet."""
    before = [*alerting(SIZE - 20, 0.05), *alerting(20, 0.05, category="Rare")]
    after = [*alerting(SIZE - 4, 0.05), *alerting(4, 0.75, category="Rare")]
    assert ("category", "Rare") not in drifted(window(*before, *after))


def test_groups_are_bounded_whatever_a_feed_says() -> None:
    """The largest are told apart; all others, and those that are new, are one."""
    before = [score(category=f"C{n % 50}") for n in range(SIZE)]
    after = [score(category=f"N{n}") for n in range(SIZE)]
    made = window(*before, *after)
    assert made.reference is not None
    assert len(made.reference.categories) == SHOWN_GROUPS + 1
    assert {one.name for one in made.statistics(Limits()) if one.kind == "category"} == {OTHER}


def test_fetches_that_fail_drift_but_call_for_no_retraining() -> None:
    """Another engine would see as little of a picture that is not there."""
    made = window(*drawn(SIZE, 0), *drawn(SIZE, 1))
    for _ in range(SIZE // 2):
        made.reject(letter("image_host_unavailable"))
    made.reject(letter("malformed_json"))
    found = next(one for one in made.statistics(Limits()) if one.kind == "fetches")
    assert (found.value, found.drifted, found.calls_for_retraining) == (0.5, True, False)


def test_products_that_were_not_scored_anew_tell_nothing() -> None:
    """Their picture and text were counted when they were."""
    made = window(*drawn(SIZE, 0), *[score(outcome="unchanged")] * SIZE)
    assert made.products == 0


def test_reference_is_an_even_draw_of_what_was_judged_first() -> None:
    """Bounded, and from all of it: feeds come category by category."""
    made = Window(RELEASE, 3 * KEPT, LEAST)
    for n in range(3 * KEPT):
        made.add(score(float(n)))
    assert made.reference is not None
    kept = made.reference.values["score"]
    assert (len(kept), kept[0], kept[-1]) == (KEPT, 0.0, 3 * KEPT - 1)
    assert np.mean(kept) == pytest.approx(1.5 * KEPT, rel=0.01)


class Bench:
    """A watch with a clock of its own and a store in a folder."""

    def __init__(self, folder: Path, *, patience_s: float = 3600.0) -> None:
        self.now = NOW
        self.folder = folder
        self.blobs = Blobs(str(folder), setting="TEST")
        self.telemetry = DriftTelemetry()
        self.watch = DriftWatch(
            limits=Limits(),
            size=SIZE,
            least=LEAST,
            patience=timedelta(seconds=patience_s),
            blobs=self.blobs,
            telemetry=self.telemetry,
            clock=lambda: self.now,
        )

    def take(self, *products: ProductScore) -> None:
        for one in products:
            self.watch.score(encode(one))

    def check(self, after_s: float = 0.0) -> list[Statistic]:
        self.now += timedelta(seconds=after_s)
        return self.watch.check()

    def metric(self, name: str, **labels: str) -> float | None:
        return self.telemetry.registry.get_sample_value(name, labels)

    @property
    def request(self) -> retrain_request.RetrainRequest | None:
        return retrain_request.pending(self.blobs)


def test_drift_that_lasts_asks_for_one_retraining(tmp_path: Path) -> None:
    """With what was seen, since when, of which release; no more when the job has taken it away, nor after a restart."""
    bench = Bench(tmp_path)
    bench.take(*drawn(SIZE, 0), *drawn(SIZE, 1, mean=0.5))
    bench.check()
    assert bench.request is None
    bench.check(after_s=3599)
    assert bench.request is None
    bench.check(after_s=1)
    asked = bench.request
    assert asked is not None
    assert (asked.statistic, asked.release, asked.since) == ("value:score", RELEASE, NOW)
    assert asked.value > asked.limit == 0.2
    assert "the distribution of score" in asked.reason
    assert bench.metric("streamer_retraining_requested_total") == 1
    bench.blobs.delete(retrain_request.NAME)
    bench.check(after_s=7200)
    assert bench.request is None
    again = Bench(tmp_path, patience_s=0)
    again.take(*drawn(SIZE, 1, mean=0.5))
    assert any(one.drifted for one in again.check())
    assert again.request is None


def test_drift_that_ends_in_time_asks_for_nothing(tmp_path: Path) -> None:
    """Its time begins anew when it comes back."""
    bench = Bench(tmp_path)
    bench.take(*drawn(SIZE, 0), *drawn(SIZE, 1, mean=0.5))
    bench.check()
    bench.take(*drawn(SIZE, 2))
    bench.check(after_s=3000)
    bench.take(*drawn(SIZE, 3, mean=0.5))
    bench.check(after_s=300)
    bench.check(after_s=3000)
    assert bench.request is None
    bench.check(after_s=600)
    assert bench.request is not None


def test_release_that_follows_has_a_reference_of_its_own(tmp_path: Path) -> None:
    """What its predecessor judged is no measure of it, and it may ask for a retraining again."""
    bench = Bench(tmp_path, patience_s=0)
    bench.take(*drawn(SIZE, 0), *drawn(SIZE, 1, mean=0.5))
    bench.check()
    bench.take(*drawn(SIZE, 2, mean=0.5, release="small-111111111111"))
    assert bench.check() == []
    assert bench.metric("streamer_drift_distance", value="score") is None
    bench.take(*drawn(SIZE, 3, mean=0.5, release="small-111111111111"))
    assert not any(one.drifted for one in bench.check())
    bench.take(*drawn(SIZE, 4, mean=2.0, release="small-111111111111"))
    bench.check()
    assert bench.request is not None
    assert bench.request.release == "small-111111111111"


def test_watch_that_starts_anew_compares_with_what_was_judged_first(tmp_path: Path) -> None:
    """And not with what is judged then."""
    first = Bench(tmp_path)
    first.take(*drawn(SIZE, 0))
    first.check()
    second = Bench(tmp_path)
    second.take(*drawn(SIZE, 1, mean=0.5))
    assert {one.name for one in second.check() if one.drifted} >= {"score"}
    assert second.metric("streamer_drifted", kind="value") == 1
    assert second.metric("streamer_drift_info", release=RELEASE) == 1


def test_request_that_stands_for_this_release_is_left_as_it_is(tmp_path: Path) -> None:
    """Somebody has asked already, and knows why; one of the release before is replaced."""
    bench = Bench(tmp_path, patience_s=0)
    by_hand = retrain_request.RetrainRequest(requested_by="ana", reason="spring", requested_at=NOW)
    retrain_request.write(bench.blobs, by_hand)
    bench.take(*drawn(SIZE, 0), *drawn(SIZE, 1, mean=0.5))
    bench.check()
    assert bench.request == by_hand
    outdated = msgspec.structs.replace(by_hand, release="small-111111111111")
    again = Bench(tmp_path, patience_s=0)
    retrain_request.write(again.blobs, outdated)
    again.take(*drawn(SIZE, 1, mean=0.5))
    again.check()
    assert again.request is not None
    assert again.request.release == RELEASE


def test_store_that_is_away_does_not_make_a_new_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is taken in once the store has said whether it knows one."""
    Bench(tmp_path).take(*drawn(SIZE, 0))
    bench = Bench(tmp_path)

    def away(_: str) -> bytes | None:
        raise TransientError("store_unavailable", "no route")

    with monkeypatch.context() as patched:
        patched.setattr(bench.blobs, "get", away)
        with pytest.raises(TransientError):
            bench.take(score())
    bench.take(score())


def test_reference_that_is_damaged_is_made_anew(tmp_path: Path) -> None:
    """It is no outage, which passes."""
    (tmp_path / "drift").mkdir()
    (tmp_path / "drift" / f"{RELEASE}.json").write_text("{")
    bench = Bench(tmp_path)
    bench.take(*drawn(SIZE, 0), *drawn(LEAST, 1))
    assert bench.check() != []
    assert len((tmp_path / "drift" / f"{RELEASE}.json").read_bytes()) > 1000


def test_last_retraining_is_shown_by_how_it_ended(tmp_path: Path) -> None:
    """Also where nothing is compared; the next one takes its place."""
    bench = Bench(tmp_path)
    assert bench.check() == []
    assert bench.metric(ENDED, outcome="refused") is None
    for outcome, other in (("refused", "promoted"), ("promoted", "refused")):
        RetrainLog(str(tmp_path)).record(retraining(outcome, bench.now), began=NOW, card=None)
        bench.check()
        assert bench.metric(ENDED, outcome=outcome) == bench.now.timestamp()
        assert bench.metric(ENDED, outcome=other) is None
        bench.now += timedelta(days=1)


def test_records_that_no_worker_wrote_are_counted_and_passed_over(tmp_path: Path) -> None:
    """As everywhere."""
    bench = Bench(tmp_path)
    bench.watch.score(b"{")
    bench.watch.letter(None)
    assert bench.metric("streamer_drift_unreadable_total") == 2
    assert bench.check() == []


@pytest.mark.parametrize("host", ["[]@", "[::1"])
def test_url_that_cannot_be_read_has_no_host(host: str) -> None:
    """Scores hold URLs as feeds wrote them."""
    assert window(score(host=host))._first[0].host == ""


def test_releases_that_are_held_are_bounded(tmp_path: Path) -> None:
    """Who may write to the topics may name many."""
    bench = Bench(tmp_path)
    for n in range(10):
        bench.take(score(release=f"small-{n:012x}"))
        bench.watch.letter(encode(letter("image_timeout", release=f"big-{n:012x}")))
    assert len(bench.watch._windows) == 3
