"""The dashboard and the alert rules ask for what a worker exposes, and every alert has its runbook."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import promql_parser
import pytest
import typer
import yaml

from streamer.cli import app
from streamer.drift import Kind
from streamer.drift_telemetry import DriftTelemetry
from streamer.retrain_log import LastRetraining
from streamer.settings import TopicSettings
from streamer.telemetry import STAGES, LabelTelemetry, Telemetry
from tests.deploy.rendering import ROOT, find
from tests.prometheus import promtool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


DASHBOARD = json.loads((ROOT / "k8s/base/dashboards/scorer.json").read_text())
RULES = [rule for group in find("cpu", "PrometheusRule")["spec"]["groups"] for rule in group["rules"]]
QUERIES = {
    **{
        f"panel {panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    },
    **{f"alert {rule['alert']}": rule["expr"] for rule in RULES},
}
KUBE_STATE_METRICS = {"kube_job_failed": {"namespace", "job_name", "condition"}}
"""What rules ask of the cluster itself, of metrics that are stable there.

Source: https://github.com/kubernetes/kube-state-metrics/blob/main/docs/metrics/workload/job-metrics.md
"""
SCRAPED = {"instance", "job", "pod", "namespace"}  # labels that Prometheus adds


def _exposed() -> dict[str, set[str]]:
    """Return the labels of each series of the workers, by its name."""
    exposed: dict[str, set[str]] = {}
    for registry in (Telemetry().registry, LabelTelemetry().registry, DriftTelemetry().registry):
        for family in registry.collect():
            labels = set(getattr(registry._names_to_collectors.get(family.name), "_labelnames", ()))
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            for suffix in suffixes:
                exposed[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return exposed


def _parts(node: Any) -> Iterator[Any]:  # noqa: ANN401 - the parser is untyped
    """Yield the nodes of a parsed query."""
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "args"):
        child = getattr(node, name, None)
        for each in child if isinstance(child, list) else [child]:
            if each is not None and type(each).__module__ == type(node).__module__:
                yield from _parts(each)


def _unknown(query: str) -> set[str]:
    """Return the names and labels in the query that no worker exposes."""
    exposed = _exposed() | KUBE_STATE_METRICS
    asked: set[str] = set()
    labels: set[str] = set()
    for node in _parts(promql_parser.parse(query)):
        if isinstance(node, promql_parser.VectorSelector):
            asked.add(node.name)
            labels |= {matcher.name for matcher in node.matchers.matchers}
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            labels |= set(node.modifier.labels)
        elif isinstance(node, promql_parser.BinaryExpr) and node.modifier is not None:
            matching = node.modifier.matching
            labels |= {*(matching.labels if matching is not None else ()), *(node.modifier.group_labels or ())}
    assert asked
    known = asked & exposed.keys()
    return (asked - known) | (labels - SCRAPED.union(*(exposed[name] for name in known)))


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_query_asks_for_what_a_worker_exposes(query: str) -> None:
    """Names, labels, and the labels that it groups and matches by."""
    assert _unknown(query) == set()


@pytest.mark.parametrize(
    ("query", "unknown"),
    [
        ("1 - sum(rate(streamer_events_total[5m])) / sum(rate(streamer_event_total[5m]))", {"streamer_event_total"}),
        ("histogram_quantile(0.9, sum by (le, step) (rate(streamer_stage_seconds_bucket[5m] offset 1d)))", {"step"}),
        ('absent(streamer_lag_events{topics="x"}) or vector(0)', {"topics"}),
        ("streamer_lag_events * on (pot) group_left (relaese) streamer_engine_info", {"pot", "relaese"}),
        ("streamer_lag_events > ignoring (topics) streamer_engine_info", {"topics"}),
    ],
)
def test_query_for_what_no_worker_exposes_is_found(query: str, unknown: set[str]) -> None:
    """However deep it stands in the query."""
    assert _unknown(query) == unknown


def test_labels_that_queries_name_have_values_that_occur() -> None:
    """A misspelt topic, outcome or bucket would be an empty panel, or an alert that never fires."""
    text = "\n".join(QUERIES.values())
    names = TopicSettings()
    assert set(re.findall(r'topic="([^"]+)"', text)) == {names.updates, names.scores, names.labels}
    assert set(re.findall(r'outcome="([^"]+)"', text)) == {"rejected", "refused"}
    assert "refused" in get_args(get_type_hints(LastRetraining)["outcome"])
    (jobs,) = re.findall(r'job_name=~"([^"]+)"', text)
    assert re.fullmatch(jobs, f"{find('cpu', 'CronJob')['metadata']['name']}-29404620")
    assert set(re.findall(r'kind="([^"]+)"', text)) == set(get_args(Kind))
    buckets = {
        sample.labels["le"]
        for family in Telemetry().registry.collect()
        if family.name == "streamer_mismatch_probability"
        for sample in family.samples
        if "le" in sample.labels
    }
    assert set(re.findall(r'le="([^"]+)"', text)) <= buckets
    assert STAGES  # the dashboard groups by them and names none


def test_alerts_lead_to_their_section_of_the_runbook() -> None:
    """And the runbook has no section of an alert that is gone."""
    sections = set(re.findall(r"^## (\w+)$", (ROOT / "docs/runbook.md").read_text(), flags=re.MULTILINE))
    assert sections == {rule["alert"] for rule in RULES}
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_codes_in_the_runbook_are_real() -> None:
    """What it tells people to look for is what workers and jobs say."""
    codes = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", (ROOT / "docs/runbook.md").read_text()))
    folders = ("streamer", "engines", "engines/build/retrain")
    modules = [path for folder in folders for path in (ROOT / folder).glob("*.py")]
    source = "\n".join(path.read_text() for path in modules)
    assert codes
    assert {code for code in codes if f'"{code}"' not in source} == set()


def test_commands_in_the_runbook_are_taken_by_the_command_line() -> None:
    """At night nobody looks up what an option is called now."""
    text = re.sub(r"\s+", " ", (ROOT / "docs/runbook.md").read_text())
    commands = set(re.findall(r"`streamer ([a-z][^`]*)`", text))
    assert commands
    assert {command: missing for command in commands if (missing := _not_taken(command))} == {}


def _not_taken(command: str) -> set[str]:
    """Return the words of a command that name no command, and the options that the command does not have."""
    at: Any = typer.main.get_command(app)
    words = shlex.split(command)
    while words and words[0] in getattr(at, "commands", {}):
        at = at.commands[words.pop(0)]
    options = {option for parameter in at.params for option in parameter.opts}
    named = words[:1] if hasattr(at, "commands") else []
    return {*named} | {word for word in words if word.startswith("-") and word not in options}


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    """By Prometheus' own tool: each in its own trouble, none in a quiet night or an ordinary day."""
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(find("cpu", "PrometheusRule")["spec"]))
    shutil.copy(ROOT / "tests/deploy/alerts.promtool.yml", tmp_path / "tests.yml")
    promtool("check", "rules", "--lint-fatal", "rules.yml", cwd=tmp_path)
    promtool("test", "rules", "tests.yml", cwd=tmp_path)


def test_every_alert_is_tried_by_promtool() -> None:
    """In the file of the test above, where each fires once at least."""
    tried = yaml.safe_load((ROOT / "tests/deploy/alerts.promtool.yml").read_text())["tests"]
    fires = {each["alertname"] for test in tried for each in test["alert_rule_test"] if each.get("exp_alerts")}
    assert fires == {rule["alert"] for rule in RULES}


def test_prometheus_of_compose_reads_its_configuration() -> None:
    """By its own tool, which refuses a field that it does not know."""
    promtool("check", "config", "--lint-fatal", ROOT / "docker/prometheus.yml")


def test_labels_of_metrics_are_bounded() -> None:
    """Each has a handful of values: no product, partition or text is one, and none can be one unseen."""
    labels = set().union(*_exposed().values())
    assert labels == {
        *("outcome", "reason", "transition", "stage", "queue", "topic", "sampled"),  # words of this project
        *("agreement", "kind", "value"),  # likewise
        "group",  # the largest of a reference, which `test_groups_are_bounded_whatever_a_feed_says` counts
        *("release", "device", "version"),  # those that run, one at a time
        "le",
    }
