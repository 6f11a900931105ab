"""The demo's figures, from hand-made outcomes."""

from __future__ import annotations

import pytest

from streamer.demo.evaluation import Verdict, precision_recall, wilson_interval
from streamer.demo.traffic import Truth
from tests.unit.demo_records import Run


def _verdict(probability: float, *, swapped: bool) -> Verdict:
    truth = Truth(kind="swapped" if swapped else "right", product_id="p", order=1, swapped=swapped)
    return Verdict(truth=truth, probability=probability, threshold=0.5)


def mixed_run() -> Run:
    """Two caught, one missed, one false alarm, one right, one rejected."""
    run = Run()
    for name, probability in (("a", 0.9), ("b", 0.6), ("c", 0.2)):
        run.score(run.publish(name, kind="swapped", shown_id="other"), probability)
    for name, probability in (("d", 0.7), ("e", 0.1)):
        run.score(run.publish(name), probability)
    run.reject(run.publish("f", order=None, kind="malformed_json"), "malformed_json")
    return run


def test_evaluation_mixed_outcomes_gives_recall_and_precision() -> None:
    """Recall is over wrong pictures, precision over accusations."""
    evaluation = mixed_run().evaluation
    assert evaluation.recall == pytest.approx(2 / 3)
    assert evaluation.precision == pytest.approx(2 / 3)


def test_evaluation_nothing_to_divide_by_gives_none() -> None:
    """Without a wrong picture and without an accusation there is no recall and no precision."""
    run = Run()
    run.score(run.publish("a"), 0.1)
    assert (run.evaluation.recall, run.evaluation.precision) == (None, None)


def test_evaluation_every_event_once_adds_up() -> None:
    """Scores and dead letters together cover what was published."""
    assert mixed_run().evaluation.adds_up


def test_evaluation_event_without_outcome_does_not_add_up() -> None:
    """A lost event is named."""
    run = mixed_run()
    run.publish("lost")
    assert not run.evaluation.adds_up
    assert [event.truth.product_id for event in run.evaluation.missing] == ["lost"]


def test_evaluation_second_outcome_of_an_event_does_not_add_up() -> None:
    """Exactly one outcome, not two; the first one counts."""
    run = mixed_run()
    run.enter(run.scores[0], at_ms=900)
    assert run.ledger.duplicates == 1
    assert not run.evaluation.adds_up


def test_evaluation_outcome_of_a_strange_event_does_not_add_up() -> None:
    """An outcome must belong to an event of this run."""
    run = mixed_run()
    run.published.pop()
    assert run.evaluation.unknown == 1
    assert not run.evaluation.adds_up


def test_evaluation_rejected_events_are_counted_by_kind_and_reason() -> None:
    """Each bad input shows which reason code it got."""
    assert mixed_run().evaluation.rejected == {"malformed_json": {"malformed_json": 1}}


def test_evaluation_latency_runs_from_the_update_to_its_alert() -> None:
    """The alert's timestamp minus that of the update with the same product and version."""
    run = Run()
    run.publish("first")
    run.score(run.publish("a", kind="swapped", shown_id="other"), 0.9)
    run.raise_alerts(at_ms=260)
    assert (run.evaluation.latency.p50_ms, run.evaluation.latency.p99_ms) == (250, 250)


def test_evaluation_latency_of_a_deletion_runs_from_the_tombstone() -> None:
    """A tombstone carries no version; its alert is matched by its product."""
    run = Run()
    run.score(run.publish("a", kind="swapped", shown_id="other"), 0.9)
    run.delete(run.publish("a", order=None, kind="tombstone"))
    run.ledger.add_alert(run.alerts()[-1], 110)
    assert run.evaluation.latency.p50_ms == 100


def test_evaluation_throughput_runs_to_the_last_outcome() -> None:
    """Six events, the last outcome half a second after the first publication."""
    assert mixed_run().evaluation.events_per_s == pytest.approx(12)


def test_alerts_complete_only_when_each_called_for_alert_came() -> None:
    """A missing alert shows, and so does one that no score calls for."""
    run = mixed_run()
    alerts = run.alerts()
    assert not run.evaluation.alerts_complete
    run.raise_alerts()
    assert run.evaluation.alerts_complete
    strange = alerts[0].__class__(
        id="strange",
        source=alerts[0].source,
        type=alerts[0].type,
        subject="x",
        time=alerts[0].time,
        data=alerts[0].data,
    )
    run.ledger.add_alert(strange, 700)
    assert not run.evaluation.alerts_complete


def test_precision_recall_perfect_ranking_has_average_precision_one() -> None:
    """All wrong pictures above all right ones."""
    curve = precision_recall([_verdict(0.9, swapped=True), _verdict(0.8, swapped=True), _verdict(0.1, swapped=False)])
    assert curve is not None
    assert curve.average_precision == pytest.approx(1.0)
    assert curve.recall[-1] == 1.0


def test_precision_recall_equal_scores_form_one_point() -> None:
    """No threshold separates what has the same probability."""
    curve = precision_recall([_verdict(0.5, swapped=True), _verdict(0.5, swapped=False)])
    assert curve is not None
    assert curve.precision.tolist() == [0.5]
    assert curve.average_precision == pytest.approx(0.5)


def test_precision_recall_without_positives_is_none() -> None:
    """There is no recall without a wrong picture."""
    assert precision_recall([_verdict(0.5, swapped=False)]) is None


def test_wilson_interval_matches_published_values() -> None:
    """81 of 263: 0.2553 to 0.3662 (Newcombe 1998, table I)."""
    low, high = wilson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson_interval(0, 0) == (0.0, 1.0)
