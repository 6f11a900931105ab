"""`streamer.loop` around its processes: what is sold, what people say, what is told of it."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import re
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from engines.calibration import Interval
from streamer.alert import decide
from streamer.events import ProductScore
from streamer.loop import cpu, figures
from streamer.loop.display import PHASES, Progress, screen
from streamer.loop.figures import Outcome, Recall
from streamer.loop.ledger import Judged, Ledger, Question
from streamer.loop.report import write_report
from streamer.loop.reviewers import PEOPLE, Reviewers
from streamer.loop.season import Sizes, draw
from streamer.loop.traffic import Publisher
from streamer.wire import SourcePosition

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.loop.season import Offer, Season

NOW = datetime(2026, 1, 31, tzinfo=UTC)
SIZES = Sizes(new_measured=40, old_measured=30, new_season=400, old_season=100)


@pytest.fixture(scope="module")
def season() -> Season:
    """What a small loop sells."""
    return draw(SIZES, 3)


def _outcome(new_gain: float = 0.3, old_gain: float = 0.0, **changes: Any) -> Outcome:  # noqa: ANN401 - of any field
    def recall(before: float, gain: float) -> Recall:
        after = before + gain
        return Recall(*(Interval(value, value - 0.01, value + 0.01) for value in (before, after, gain)))

    given: dict[str, Any] = {
        "recalls": {"new": recall(0.4, new_gain), "old": recall(0.9, old_gain)},
        "published": 1000,
        "lost": 0,
        "doubled": 0,
        "rejected": 0,
        "superseded": 0,
        "champion": "small-1",
        "challenger": "small-2",
        "labels": 321,
        "seconds": dict.fromkeys(PHASES, 2.0),
        "cpu_seconds": dict.fromkeys(PHASES, 3.0),
    }
    return Outcome(**(given | changes))


def test_season_of_one_seed_is_always_the_same_and_shares_nothing_with_another(season: Season) -> None:
    """Products, pictures and what is wrong with them."""
    assert draw(SIZES, 3) == season
    other = draw(SIZES, 4)
    assert not {offer.id for offer in season.season} & {offer.id for offer in other.season}


def test_season_shows_each_measured_product_right_and_wrong_and_none_of_them_to_people(season: Season) -> None:
    """What is measured on is neither judged nor sold."""
    wrong, right = ([offer for offer in season.measured if offer.wrong is so] for so in (True, False))
    assert len(wrong) == len(right) == SIZES.new_measured + SIZES.old_measured
    assert {offer.group for offer in season.measured}.isdisjoint(offer.group for offer in season.season)
    shown = [(offer, season.pictures[offer.picture]) for offer in wrong]
    assert all(product.item_group_id == offer.group for offer, product in shown)
    assert all(offer.fields != product.fields for offer, product in shown)


def test_season_has_the_share_of_wrong_pictures_that_it_says(season: Season) -> None:
    """Lanterns are confused more often than usual products."""
    counted = Counter((offer.kind, offer.wrong) for offer in season.season)
    assert counted[("new", True)] == round(SIZES.new_wrong * SIZES.new_season)
    assert counted[("old", True)] == round(SIZES.old_wrong * SIZES.old_season)


def test_offer_with_another_text_is_for_load_and_must_be_judged_anew(season: Season) -> None:
    """The same product, in another batch."""
    offer = season.load[0]
    assert not offer.wrong
    again = offer.reworded(7)
    assert (again.id, again.purpose) == (offer.id, "load")
    assert again.record(1, str) != offer.record(1, str)


def _said(offers: dict[str, Offer], seed: int) -> list[list[str]]:
    people = Reviewers(offers, seed=seed)
    return [[label.verdict for label in people.judge(Question(name, None, None, None))] for name in offers]


def test_reviewers_err_once_in_twenty_and_say_the_same_again(season: Season) -> None:
    """Two judge, and a third where they disagree; whatever is asked twice is answered alike."""
    offers = {offer.id: offer for offer in season.season}
    said = _said(offers, 1)
    assert said == _said(offers, 1) != _said(offers, 2)
    assert all(len(verdicts) == (2 if verdicts[0] == verdicts[1] else len(PEOPLE)) for verdicts in said)
    truth = ["mismatch" if offer.wrong else "match" for offer in offers.values()]
    errors = [verdict != true for true, verdicts in zip(truth, said, strict=True) for verdict in verdicts[:2]]
    assert 0.035 < np.mean(errors) < 0.065


def test_reviewers_leave_alone_what_is_not_for_review(season: Season) -> None:
    """What is measured on alerts, too; nobody may learn from it."""
    people = Reviewers({offer.id: offer for offer in season.season}, seed=1)
    assert not list(people.judge(Question(season.measured[0].id, None, None, None)))


def test_figures_are_of_products_that_both_engines_judged(season: Season) -> None:
    """An engine that tells all wrong ones apart gains what the other one missed; a rejected update counts for none."""
    generator = np.random.default_rng(0)
    new = [offer for offer in season.measured if offer.kind == "new"]
    before = {offer.id: Judged(float(generator.random()), 0.5, "small-1") for offer in new}
    after = {offer.id: Judged(0.9 if offer.wrong else 0.1, 0.5, "small-2") for offer in new}
    after[new[0].id] = Judged(None, None, None)
    measured = figures.scored(season.measured, before, after, "new")
    assert measured is not None
    assert len(measured.wrong) == len(new) - 1
    recall = figures.recall(measured)
    assert recall.after.value == 1.0
    assert recall.gain.value == pytest.approx(1.0 - recall.before.value)
    assert recall.before.value < 0.5
    assert figures.scored(season.measured, before, {}, "new") is None


@pytest.mark.parametrize(
    ("outcome", "reached"),
    [
        (_outcome(), True),
        (_outcome(new_gain=0.14), False),
        (_outcome(old_gain=-0.02), False),
        (_outcome(lost=1), False),
        (_outcome(doubled=1), False),
        (_outcome(recalls={}), False),
    ],
)
def test_outcome_is_reached_only_if_all_of_it_holds(outcome: Outcome, reached: bool) -> None:
    """Gain on the new kind, no loss on usual ones, nothing lost or judged twice."""
    assert outcome.reached is reached
    assert outcome.as_json()["reached"] is reached


def test_ledger_counts_an_outcome_that_comes_twice() -> None:
    """The first one stands."""
    ledger = Ledger()
    for release in ("small-1", "small-2"):
        ledger._enter(("updates", 0, 7), Judged(0.5, 0.4, release))
    assert ledger.doubled == 1
    assert [judged.release for judged in ledger.outcomes.values()] == ["small-1"]


def _score(probability: float) -> ProductScore:
    return ProductScore(
        product_id="p",
        order=1,
        outcome="scored",
        source=SourcePosition(topic="product-updates", partition=0, offset=0),
        published_at=NOW,
        scored_at=NOW,
        probability=probability,
        threshold=0.5,
        release="r1",
    )


def test_ledger_counts_what_a_newer_update_has_overtaken() -> None:
    """It has its outcome, and no score."""
    ledger = Ledger()
    ledger.add_score(_score(0.4))
    overtaken = msgspec.structs.replace(
        _score(0.4), outcome="superseded", probability=None, threshold=None, release=None
    )
    ledger.add_score(
        msgspec.structs.replace(overtaken, source=SourcePosition(topic="product-updates", partition=0, offset=1))
    )
    assert (ledger.superseded, len(ledger.outcomes)) == (1, 2)


@pytest.mark.parametrize("alert_first", [False, True])
def test_ledger_knows_which_alerts_have_not_come_yet(*, alert_first: bool) -> None:
    """Alerts come by another topic than scores, earlier or later: people go home when all of them have come."""
    ledger = Ledger()
    ledger.add_score(_score(0.4))
    assert not ledger.unanswered
    _, alert = decide(None, _score(0.5), source="/test")
    assert alert is not None
    if alert_first:
        ledger.add_alert(alert)
    ledger.add_score(_score(0.5))
    assert ledger.unanswered == (set() if alert_first else {"p"})
    if not alert_first:
        ledger.add_alert(alert)
    assert not ledger.unanswered
    assert ledger.alerts == 1


async def test_people_go_home_when_every_alert_has_come() -> None:
    """Their queue is empty whenever they are quick, long before."""
    ledger = Ledger()
    ledger.add_score(_score(0.5))
    publisher = Publisher("updates", {"bootstrap_servers": "127.0.0.1:1"}, str, ledger, Progress(ledger))
    waiting = asyncio.create_task(publisher.alerted())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    _, alert = decide(None, _score(0.5), source="/test")
    assert alert is not None
    ledger.add_alert(alert)
    await asyncio.wait_for(waiting, 5)
    await publisher.__aexit__()


def test_screen_shows_phases_and_counts() -> None:
    """What is done, what runs, and how many of everything."""
    progress = Progress(Ledger(), published=1234, labels=55, engine="small-1")
    with progress.phase("start"):
        pass
    console = Console(width=120, record=True, file=io.StringIO())
    with progress.phase("before"):
        console.print(screen(progress))
    shown = console.export_text()
    for word in (*PHASES, "✓", "1,234 updates", "55 labels", "small-1"):
        assert word in shown
    assert set(progress.cpu_seconds) == set(progress.seconds) == {"start", "before"}


def test_report_is_whole_without_a_network_and_tells_what_was_reached(tmp_path: Path) -> None:
    """Figures, phases, both engines; links only to what lies beside it."""
    page = write_report(tmp_path, _outcome(lost=2), None, seed=3).read_text(encoding="utf-8")
    for word in ("40.0 → 70.0 %", "small-1", "small-2", "321", "21 s of CPU", *PHASES):
        assert word in page
    assert "<script" not in page
    assert set(re.findall(r'href="([^"#]*)"', page)) == {"retrain.log", "scorer.log", "labels.log"}
    assert page.count("<svg") == 2


def _busy(seconds: float, ready: Any, done: Any) -> None:  # noqa: ANN401 - events of multiprocessing
    while time.process_time() < seconds:
        pass
    ready.set()
    done.wait(60)


def test_cpu_seconds_are_those_of_children_too() -> None:
    """While they run, and after they have ended."""
    context: Any = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    before = cpu.used_s()
    child = context.Process(target=_busy, args=(0.3, ready, done))
    child.start()
    assert ready.wait(60)
    assert cpu.used_s() - before > 0.25
    done.set()
    child.join()
    assert cpu.used_s() - before > 0.25
