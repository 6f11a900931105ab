"""Alerts decided anew when calibration or thresholds change: from the logit that is remembered, by whoever owns it."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from engines.contract import Calibration
from streamer.alert import decide, redecide
from streamer.alert_state import AlertState, from_table, to_table
from streamer.events import ALERT_REDECISIONS, PRODUCT_SCORES, MismatchAlert, ProductScore
from streamer.policy import Policy
from streamer.redecision import AT_A_TIME, Redecider
from streamer.wire import SourcePosition, encode
from tests.deciding import FOREIGN, LENIENT, NOW, STRICT, UNSURE, Owner, Table, policy, score

if TYPE_CHECKING:
    from collections.abc import Iterable

Step = ProductScore | Policy
"""A score that arrives, or a release that the owner runs from now on."""


def run(
    first: Policy, *steps: Step, state: AlertState | None = None
) -> tuple[AlertState | None, list[MismatchAlert], Policy]:
    """Decide the steps one after another, the state going through the table's form each time."""
    runs, alerts = first, []
    for step in steps:
        alert: MismatchAlert | None = None
        if isinstance(step, Policy):
            runs = step
            if state is not None:
                state, alert = redecide(state, "p", runs, source="/test", now=NOW)
        else:
            state, alert = decide(state, step, source="/test", policy=runs)
        state = from_table(to_table(state)) if state is not None else None
        alerts += [alert] if alert is not None else []
    return state, alerts, runs


def kinds(alerts: Iterable[MismatchAlert]) -> list[str]:
    """Return the transitions."""
    return [alert.type.rpartition(".")[2] for alert in alerts]


def test_alert_that_a_new_threshold_calls_for_opens_from_the_stored_logit() -> None:
    """With everything that people need to see, though nothing was scored."""
    _, (opened,), _ = run(LENIENT, score(1, UNSURE, LENIENT), STRICT)
    assert kinds([opened]) == ["opened"]
    assert (opened.data.title, opened.data.image_url) == ("Blue mug", "https://cdn.example/mug.jpg")
    assert (opened.data.release, opened.data.threshold) == ("r-strict", 0.5)
    assert opened.data.probability == STRICT.probability(UNSURE)


def test_alert_that_a_new_threshold_forbids_resolves() -> None:
    """It names the alert that it closes."""
    _, (opened, resolved), _ = run(STRICT, score(1, UNSURE, STRICT), LENIENT)
    assert kinds([opened, resolved]) == ["opened", "resolved"]
    assert resolved.data.alert_id == opened.id
    assert resolved.data.reason == "matches"


def test_alert_that_another_calibration_leaves_open_is_told_of_with_its_new_probability() -> None:
    """Its figures are others now; where they are not, nobody hears of it."""
    colder = policy("r-colder", calibration=Calibration(scale=2.0))
    _, (_, updated), _ = run(STRICT, score(1, UNSURE, STRICT), colder)
    assert kinds([updated]) == ["updated"]
    assert updated.data.probability == colder.probability(UNSURE)
    renamed = policy("r-renamed", thresholds={"Shoes": 0.2})
    _, alerts, _ = run(STRICT, score(1, UNSURE, STRICT), renamed)
    assert kinds(alerts) == ["opened"]


def test_threshold_of_a_category_decides_for_that_category() -> None:
    """The state knows which one the product is in."""
    shoes_only = policy("r-shoes", 0.9, thresholds={"Shoes": 0.5})
    assert kinds(run(LENIENT, score(1, UNSURE, LENIENT, category="Shoes"), shoes_only)[1]) == ["opened"]
    assert kinds(run(LENIENT, score(1, UNSURE, LENIENT, category="Mugs"), shoes_only)[1]) == []


def test_release_of_another_model_decides_nothing_anew() -> None:
    """A logit of one model means nothing to another's calibration: the product's next update is scored."""
    state, alerts, _ = run(LENIENT, score(1, UNSURE, LENIENT), FOREIGN)
    assert alerts == []
    assert state is not None
    assert state.release == "r-lenient"


def test_alert_that_a_rollback_opens_again_has_another_id() -> None:
    """The same release, picture and text as at first: consumers that drop ids they know still hear of it."""
    _, alerts, _ = run(STRICT, score(1, UNSURE, STRICT), LENIENT, STRICT, LENIENT)
    assert kinds(alerts) == ["opened", "resolved", "opened", "resolved"]
    assert len({alert.id for alert in alerts}) == 4


def test_score_that_was_on_its_way_while_releases_were_swapped_is_decided_by_the_one_that_runs() -> None:
    """Whoever made it: nobody looks through the table again for its sake."""
    state, alerts, _ = run(STRICT, score(1, UNSURE, LENIENT))
    assert kinds(alerts) == ["opened"]
    assert state is not None
    assert (state.release, state.scored_by) == ("r-strict", "r-lenient")
    assert alerts[0].data.release == "r-strict"


def test_score_delivered_again_after_a_redecision_changes_nothing() -> None:
    """A worker may be killed before it has committed the score, and after it has decided anew."""
    one = score(1, UNSURE, STRICT)
    state, _, runs = run(STRICT, one, LENIENT)
    assert run(runs, one, state=state)[:2] == (state, [])


def test_redecision_delivered_again_changes_nothing() -> None:
    """Once with its state written, and once, after a crash in between, with the same id."""
    before, _, _ = run(LENIENT, score(1, UNSURE, LENIENT))
    assert before is not None
    after, first = redecide(before, "p", STRICT, source="/test", now=NOW)
    _, again = redecide(before, "p", STRICT, source="/test", now=datetime.now(UTC))
    assert first is not None
    assert again is not None
    assert first.id == again.id
    assert redecide(after, "p", STRICT, source="/test", now=NOW) == (after, None)


def test_state_of_an_earlier_version_without_a_logit_is_left_to_the_next_update() -> None:
    """It was written before logits were remembered."""
    old = AlertState(order=1, partition=0, offset=1, alert="x", release="r-lenient", threshold=0.9)
    assert redecide(old, "p", STRICT, source="/test", now=NOW) == (old, None)


def test_deleted_product_is_not_decided_anew() -> None:
    """There is nothing left of it to alert of."""
    gone = ProductScore(
        product_id="p",
        order=2,
        outcome="deleted",
        source=SourcePosition(topic="product-updates", partition=0, offset=2),
        published_at=NOW,
        scored_at=NOW,
    )
    state, alerts, _ = run(LENIENT, score(1, UNSURE, LENIENT), gone, STRICT)
    assert alerts == []
    assert state is not None
    assert (state.title, state.logit) == (None, None)


POLICIES = [LENIENT, STRICT, policy("r-cold", 0.5, calibration=Calibration(shift=-1.0)), FOREIGN]
steps = st.sampled_from(POLICIES) | st.builds(
    score, st.integers(1, 6), st.sampled_from([-2.0, 0.2, UNSURE, 4.0]), st.sampled_from(POLICIES)
)


@given(st.lists(steps, max_size=14))
def test_alerts_end_as_if_the_last_release_had_decided_all_along(sequence: list[Step]) -> None:
    """Whatever was swapped in between; they alternate, and no id is used twice."""
    told: dict[int, ProductScore] = {}
    sequence = [s for s in sequence if isinstance(s, Policy) or told.setdefault(s.order or 0, s) == s]
    state, alerts, last = run(STRICT, *sequence)
    order = kinds(alerts)
    allowed = {"opened": {"updated", "resolved"}, "updated": {"updated", "resolved"}, "resolved": {"opened"}}
    assert order[:1] in ([], ["opened"])
    assert all(after in allowed[before] for before, after in pairwise(order))
    assert len({alert.id for alert in alerts}) == len(alerts)
    newest = max((s for s in sequence if isinstance(s, ProductScore)), key=lambda s: s.order or 0, default=None)
    if newest is not None and newest.model == last.model:
        ruled = last.rule(newest)
        assert ruled.probability is not None
        assert state is not None
        assert (state.alert is not None) == (ruled.probability >= (ruled.threshold or 0))


class Worker(Owner):
    """An owner of products that also looks for those to decide anew."""

    def __init__(self, runs: Policy, table: Table | None = None) -> None:
        super().__init__(runs, table)
        self.redecider = Redecider(
            table=self.table,
            policy=lambda: self.runs,
            publish=self.published,
            topic=ALERT_REDECISIONS,
            on_disk=False,
            retry_s=0.0,
        )

    async def look(self) -> list[str]:
        """Look through the table; return the products that are to be decided anew."""
        before = len(self.published.topic(ALERT_REDECISIONS))
        looking = asyncio.create_task(self.redecider.run())
        self.redecider.look()
        for _ in range(50):
            await asyncio.sleep(0)
        looking.cancel()
        return [one["product_id"] for one in self.published.topic(ALERT_REDECISIONS)[before:]]

    async def redecide(self, *products: str) -> None:
        """Give the agent what `look` has published."""
        await self.take(*[(ALERT_REDECISIONS, request(product)) for product in products])


def request(product: str) -> bytes:
    """Return a request to decide anew, as it stands in its topic."""
    return orjson.dumps({"schema_version": 1, "product_id": product, "release": "r-strict"})


async def test_redecider_asks_for_the_products_whose_alert_changes_and_no_others() -> None:
    """Through the whole table, in pieces; the agent then decides, and a second look finds nothing."""
    worker = Worker(LENIENT)
    logits = {f"p{number}": (UNSURE, -2.0, 4.0)[number % 3] for number in range(2 * AT_A_TIME + 1)}
    for product, logit in logits.items():
        await worker.take((PRODUCT_SCORES, encode(score(1, logit, LENIENT, product=product))))
    opened = len(worker.alerts)
    worker.runs = STRICT
    wanted = [product for product, logit in logits.items() if logit == UNSURE]
    asked = await worker.look()
    assert sorted(set(asked) - set(wanted)) == sorted(p for p, logit in logits.items() if logit == 4.0)  # told anew
    assert set(wanted) <= set(asked)
    await worker.redecide(*asked)
    assert kinds_of(worker.alerts[opened:]) == {"opened": len(wanted), "updated": len(asked) - len(wanted)}
    assert await worker.look() == []


def kinds_of(alerts: list[dict[str, Any]]) -> dict[str, int]:
    """Count transitions."""
    ordered = sorted(alert["type"].rpartition(".")[2] for alert in alerts)
    return {kind: len(list(group)) for kind, group in itertools.groupby(ordered)}


async def test_worker_that_is_killed_before_it_has_written_a_redecision_leaves_it_to_the_next() -> None:
    """The alert goes out twice under one id, the request is not acknowledged, and the next owner decides the same."""
    table = Table()
    worker = Worker(LENIENT, table)
    await worker.take((PRODUCT_SCORES, encode(score(1, UNSURE, LENIENT))))
    worker.runs, table.lost = STRICT, True
    await worker.redecide("p")
    assert worker.agent.fatal.done()
    assert worker.acknowledged == [0]  # of the score
    table.lost = False
    successor = Worker(STRICT, table)
    assert await successor.look() == ["p"]
    await successor.redecide("p", "p")
    assert [one["id"] for one in worker.alerts] == [one["id"] for one in successor.alerts]
    assert successor.acknowledged == [0, 1]


async def test_owner_that_runs_another_release_still_is_not_hurried_by_a_request() -> None:
    """It decides by what it runs; it looks through its table itself once it has swapped."""
    worker = Worker(LENIENT)
    await worker.take((PRODUCT_SCORES, encode(score(1, UNSURE, LENIENT))))
    await worker.redecide("p", "unknown")
    assert worker.alerts == []
    assert worker.acknowledged == [0, 0, 1]


async def test_table_that_cannot_be_read_is_read_again() -> None:
    """Its partitions may have been taken away meanwhile."""
    worker = Worker(LENIENT)
    await worker.take((PRODUCT_SCORES, encode(score(1, UNSURE, LENIENT))))
    worker.runs = STRICT
    failures = iter([True])
    real = worker.table.keys

    class Flaky(Table):
        def keys(self) -> Any:  # noqa: ANN401 - a dict's
            if next(failures, False):
                raise OSError("closed")
            return real()

    flaky = Flaky()
    flaky.update(worker.table)
    worker.redecider._table = flaky
    assert await worker.look() == ["p"]


async def test_redecider_reads_a_table_that_is_written_meanwhile() -> None:
    """In memory it looks through a copy of the keys."""
    worker = Worker(LENIENT)
    for number in range(AT_A_TIME + 1):
        await worker.take((PRODUCT_SCORES, encode(score(1, UNSURE, LENIENT, product=f"p{number}"))))
    worker.runs = STRICT

    async def interrupt(topic: str, key: bytes | None, value: bytes) -> None:
        await worker.published(topic, key, value)
        dict.__setitem__(worker.table, f"new-{len(worker.table)}", to_table(AlertState(order=1, partition=0, offset=0)))

    worker.redecider._publish = interrupt
    assert len(await worker.look()) == AT_A_TIME + 1
