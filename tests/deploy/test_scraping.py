"""A real scorer, label worker and drift watcher, scraped by a real Prometheus: every query has an answer."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import promql_parser

from streamer.announcements import announce
from streamer.events import EngineRelease
from streamer.retrain_log import RetrainLog
from tests.deploy.scraped import scraped
from tests.deploy.test_dashboards import KUBE_STATE_METRICS, QUERIES, RULES
from tests.prometheus import program, promtool
from tests.unit.test_drift import retraining

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVENTS = 160
PAST = datetime(2026, 1, 1, tzinfo=UTC)
UNKNOWN = EngineRelease(
    release=f"unknown-{0:012x}",
    manifest_sha256=f"{0:064x}",
    action="promoted",
    replaces=None,
    previous=None,
    announced_at=PAST,
    announced_by="test",
)
COMPARISONS = {">", "<", ">=", "<=", "==", "!=", "and", "or", "unless"}


def measured(query: str) -> set[str]:
    """Return what the query measures, without what it compares with and without looking back a day.

    A rule in its whole has an answer only while it fires.
    """
    return set(_measured(promql_parser.parse(query)))


def _measured(node: Any) -> Iterator[str]:  # noqa: ANN401 - the parser is untyped
    if isinstance(node, promql_parser.ParenExpr):
        yield from _measured(node.expr)
    elif isinstance(node, promql_parser.BinaryExpr) and str(node.op) in COMPARISONS:
        yield from _measured(node.lhs)
        yield from _measured(node.rhs)
    elif isinstance(node, promql_parser.Call) and node.func.name == "absent":
        yield str(node.args[0])
    elif isinstance(node, promql_parser.AggregateExpr) and " unless " in str(node):
        yield from _measured(node.expr)
    elif not isinstance(node, promql_parser.NumberLiteral):
        yield re.sub(r" offset \w+", "", str(node))


def _of_the_cluster(query: str) -> bool:
    return any(name in query for name in KUBE_STATE_METRICS)


def test_rule_is_measured_on_both_sides_of_what_it_compares() -> None:
    """Without this, the test below could ask for nothing."""
    assert measured("a / b > 3 and sum(rate(c[5m] offset 1d)) == 0") == {"a{} / b{}", "sum(rate(c{}[5m]))"}
    assert measured("absent(a)") == {"a{}"}
    assert measured("sum(a unless a offset 1h) > 0") == {"a{}"}


async def test_every_query_is_answered_by_what_running_workers_expose(tmp_path: Path) -> None:
    """Panels and rules, under the demo's traffic and a release that is refused; no rule fails, every name is good."""
    program("prometheus")
    RetrainLog(str(tmp_path / "releases")).record(retraining("refused", PAST), began=PAST, card=None)
    async with scraped(tmp_path, events=EVENTS, products=EVENTS) as running:
        await announce(running.cluster.broker, running.cluster.names.releases, UNKNOWN)
        for half in (running.events[: EVENTS // 2], running.events[EVENTS // 2 :]):
            await running.publish(half)
            done = running.events.index(half[-1]) + 1
            await running.prometheus.until_answered(f"sum(streamer_events_total) >= {done}")
        asked = set().union(*map(measured, QUERIES.values()))
        await running.prometheus.until_answered(*(query for query in asked if not _of_the_cluster(query)))
        assert {rule["name"]: rule["health"] for rule in await running.prometheus.rules()} == {
            rule["alert"]: "ok" for rule in RULES
        }
        for worker in running.workers.values():
            async with running.session.get(f"{worker.url}/metrics") as response:
                assert await asyncio.to_thread(promtool, "check", "metrics", given=await response.read()) == ""
