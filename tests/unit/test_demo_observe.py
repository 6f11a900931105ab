"""The demo's ledger of outcomes and alerts."""

from __future__ import annotations

from streamer.demo.observe import Ledger
from streamer.events import Contradiction
from tests.unit.demo_records import Run


def test_ledger_first_outcome_of_an_event_calls_back_once() -> None:
    """Room for another event is given back once per event, also when an outcome is repeated."""
    calls: list[int] = []
    run = Run(ledger=Ledger(on_outcome=lambda: calls.append(1)))
    score = run.score(run.publish("a"), 0.1)
    run.enter(score, at_ms=501)
    run.reject(run.publish("b"), "malformed_json")
    assert len(calls) == 2
    assert run.ledger.counts == {"scored": 1, "rejected": 1}


def test_ledger_resolved_alert_is_no_longer_open() -> None:
    """An alert opens, then the repaired picture resolves it."""
    run = Run()
    run.score(run.publish("a", kind="swapped", shown_id="other"), 0.9)
    run.score(run.publish("a", order=20, kind="repair"), 0.1)
    opened, resolved = run.alerts()
    run.ledger.add_alert(opened, 510)
    assert run.ledger.open.keys() == {"a"}
    run.ledger.add_alert(resolved, 520)
    assert run.ledger.open == {}
    assert run.ledger.transitions() == {"opened": 1, "resolved": 1}


def test_ledger_alert_with_a_known_id_is_a_redelivery() -> None:
    """At least once: the same id again changes nothing and is counted."""
    run = Run()
    run.score(run.publish("a", kind="swapped", shown_id="other"), 0.9)
    run.raise_alerts()
    run.raise_alerts()
    assert len(run.ledger.alerts) == 1
    assert run.ledger.repeated_alerts == 1


def test_ledger_awaits_what_the_scores_call_for() -> None:
    """A mismatch calls for an alert, its redelivery and an older version for none."""
    run = Run()
    run.score(run.publish("a", kind="swapped", shown_id="other"), 0.9)
    run.score(run.publish("a", kind="redelivery", shown_id="other"), 0.9)
    run.score(run.publish("a", order=5, kind="older_version", shown_id="third"), 0.9)
    assert len(run.ledger.awaited_alerts) == 1
    run.raise_alerts()
    assert not run.ledger.awaited_alerts
    assert not run.ledger.unexplained_alerts


def test_ledger_keeps_what_scores_and_alerts_name() -> None:
    """The report reads it from the verdicts, the screen from the alerts."""
    run, named = Run(), (Contradiction(field="color", value="red", share=0.9),)
    run.score(run.publish("a", kind="swapped", shown_id="other"), 0.9, contradicts=named)
    run.raise_alerts()
    assert [verdict.contradicts for verdict in run.evaluation.verdicts] == [named]
    assert [alert.contradicts for alert in run.ledger.alerts] == [named]
