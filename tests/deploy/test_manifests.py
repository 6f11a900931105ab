"""What the overlays render to obeys its schemas, and agrees with the code that it runs."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import typer

from streamer import leaving, terminal, topics
from streamer.application import BUFFERED_EVENTS
from streamer.cli import app
from streamer.decoding import SLOTS_PER_DECODER
from streamer.in_flight import MAX_BYTES
from streamer.settings import Settings, TopicSettings
from tests.deploy.rendering import OVERLAYS, find, render, validate
from tests.deploy.workloads import (
    GROUP,
    LARGEST_RELEASE_BYTES,
    container_of,
    gibibytes,
    network_policies,
    pod_of,
    priority_of,
    selects,
    settings_of,
    variables_of,
    workloads,
)

CHANGELOG = f"{GROUP}-alert-state-changelog"
DAY_S = 86_400
SWAPPING_WORKER_BYTES = 621_000_000
"""A worker on a CPU at most, while it swaps releases of `compact`. Source: benchmarks/swap.py --release."""
CACHED_BYTES = 1_100
"""Of one product, its judgement, and its URL with the longest validators that are kept, by tracemalloc."""
AUTOSCALER_CUTOFF = -10
"""Below it the cluster autoscaler adds no node for a pod. Source: its option `--expendable-pods-priority-cutoff`."""

pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)


def test_manifests_obey_their_schemas(overlay: str) -> None:
    """Kubernetes' own strictly, KEDA's, the Prometheus operator's and Strimzi's with no field left over."""
    for resource in render(overlay):
        validate(resource)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", ("spec", "template", "spec", "containers", 0)),
        ("NetworkPolicy", ("spec",)),
        ("PodDisruptionBudget", ("spec",)),
        ("CronJob", ("spec", "jobTemplate", "spec", "podFailurePolicy", "rules", 0)),
        ("Job", ("spec", "template", "spec", "containers", 0)),
        ("PersistentVolumeClaim", ("spec",)),
        ("ServiceAccount", ()),
        ("PriorityClass", ()),
        ("ScaledObject", ("spec", "triggers", 0)),
        ("ScaledObject", ("spec", "triggers", 0, "metadata")),
        ("ScaledObject", ("spec", "fallback")),
        ("ScaledObject", ("spec", "advanced", "horizontalPodAutoscalerConfig", "behavior", "scaleDown")),
        ("KafkaTopic", ("spec",)),
        ("KafkaUser", ("spec", "authorization", "acls", 0, "resource")),
        ("TriggerAuthentication", ("spec",)),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0)),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0)),
    ],
)
def test_manifests_with_a_misspelt_field_are_refused(overlay: str, kind: str, path: tuple[str | int, ...]) -> None:
    """Without this, the test above could pass on a validator that lets everything through."""
    whole = next((each for each in render(overlay) if each["kind"] == kind), None)
    if whole is None:
        assert (overlay, kind) == ("cpu", "Job"), "what both overlays have is checked in both"
        return
    broken = copy.deepcopy(whole)
    place: Any = broken
    for step in path:
        place = place[step]
    place["misspelt"] = "x"
    validate(whole)
    with pytest.raises(ValueError, match=r"misspelt|knows only"):
        validate(broken)


def test_variables_of_the_pod_are_settings(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt one within a section is refused by `load`, which reads them all."""
    template = terminal.env_template(Settings())
    for workload in ("scorer", "labeler", "drift", "retrain"):
        for name in variables_of(overlay, workload):
            assert name in template
        assert pod_of(overlay, workload)["enableServiceLinks"] is False
    settings = settings_of(overlay, monkeypatch)
    assert settings.broker.group == GROUP
    assert settings.telemetry.host == "0.0.0.0"


def test_all_work_on_the_same_stores_with_users_of_their_own(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scorers keep what the label worker joins, and run what retraining publishes; each password is a Secret."""
    users = {each["metadata"]["name"] for each in render(overlay) if each["kind"] == "KafkaUser"}
    for workload in ("scorer", "labeler", "drift", "retrain"):
        settings = settings_of(overlay, monkeypatch, workload)
        stores = (settings.releases.store, settings.evidence.store, settings.labels.dataset)
        assert stores == tuple(f"s3://mismatch-streamer/{name}" for name in ("releases", "evidence", "labels"))
        assert settings.broker.username == f"mismatch-{workload}"
        assert settings.broker.username in users
        (password,) = (
            entry for entry in container_of(overlay, workload)["env"] if entry["name"] == "STREAMER_BROKER__PASSWORD"
        )
        assert password["valueFrom"] == {"secretKeyRef": {"name": settings.broker.username, "key": "password"}}
        secrets = [
            each["secretRef"]["name"] for each in container_of(overlay, workload)["envFrom"] if "secretRef" in each
        ]
        assert secrets == ["object-store"]
    assert settings_of(overlay, monkeypatch, "labeler").labels.group == "mismatch-labeler"


@pytest.mark.parametrize("workload", ["scorer", "labeler", "drift"])
def test_probes_ask_the_port_of_the_settings_for_progress(
    overlay: str, workload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container's named port is where the worker listens, and what Prometheus scrapes."""
    container = container_of(overlay, workload)
    (port,) = container["ports"]
    assert port["containerPort"] == settings_of(overlay, monkeypatch, workload).telemetry.port
    paths = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: get["path"] for name, get in paths.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    monitor, policy = find(overlay, "PodMonitor")["spec"], network_policies(overlay)["telemetry"]
    assert selects(monitor["selector"], workload)
    assert selects(policy["podSelector"], workload)
    asked = {monitor["podMetricsEndpoints"][0]["port"], policy["ingress"][0]["ports"][0]["port"]}
    assert {port["name"]} | asked | {get["port"] for get in paths.values()} == {"telemetry"}


@pytest.mark.parametrize("workload", ["scorer", "labeler", "drift"])
def test_grace_period_covers_pre_stop_drain_and_leaving(
    overlay: str, workload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker ends itself before Kubernetes kills it."""
    pod = pod_of(overlay, workload)
    pre_stop = container_of(overlay, workload)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = settings_of(overlay, monkeypatch, workload).pipeline.drain_timeout_s
    assert pod["terminationGracePeriodSeconds"] > pre_stop + drain + leaving.LEAVE_S
    assert pod["restartPolicy"] == "Always"


def test_memory_limit_covers_a_swap_with_decoders_at_their_bound(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both releases have decoders then, and a challenger has left: no reason for the kernel to kill the worker."""
    settings = settings_of(overlay, monkeypatch)
    slots = SLOTS_PER_DECODER * settings.fetch.max_image_bytes
    decoders = 2 * settings.pipeline.decoders * (settings.pipeline.decode_memory_mib * 2**20 + slots)
    limit = gibibytes(container_of(overlay)["resources"]["limits"]["memory"])
    events = BUFFERED_EVENTS * 2**20 + 5 * MAX_BYTES  # their bytes, and their text of four bytes a letter
    cached = settings.pipeline.score_cache_entries * CACHED_BYTES
    assert limit >= decoders + settings.fetch.max_held_bytes + SWAPPING_WORKER_BYTES + events + cached


def test_release_finds_room_where_it_is_fetched_to(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod that writes more than its volume's limit is evicted, and all scorers fetch a release at the same time."""
    scratch = settings_of(overlay, monkeypatch).state.directory
    container = container_of(overlay)
    (mount,) = (mount for mount in container["volumeMounts"] if scratch.is_relative_to(mount["mountPath"]))
    (volume,) = (volume for volume in pod_of(overlay)["volumes"] if volume["name"] == mount["name"])
    assert gibibytes(volume["emptyDir"]["sizeLimit"]) > LARGEST_RELEASE_BYTES
    assert container["resources"]["requests"]["ephemeral-storage"] == volume["emptyDir"]["sizeLimit"]


def test_topics_are_as_the_command_makes_them(overlay: str) -> None:
    """All of their fields: Strimzi's own schema leaves the config open."""
    declared = {
        resource["metadata"]["name"]: resource["spec"]
        for resource in render(overlay)
        if resource["kind"] == "KafkaTopic"
    }
    changelog = declared.pop(CHANGELOG)
    assert declared == {
        spec.name: {"partitions": spec.partitions, "replicas": spec.replication, "config": spec.config}
        for spec in topics.specs(TopicSettings(partitions=12, replication=3))
    }
    stamped = {"cleanup.policy": "compact", "min.insync.replicas": "2", **topics.CHANGELOG}
    assert changelog == {"partitions": 12, "replicas": 3, "config": stamped}


def test_scaler_watches_the_scorers_group_and_topic(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another group's lag would scale on nothing; more replicas than partitions would idle."""
    settings = settings_of(overlay, monkeypatch)
    spec = find(overlay, "ScaledObject")["spec"]
    (trigger,) = spec["triggers"]
    metadata = trigger["metadata"]
    assert spec["scaleTargetRef"]["name"] == "scorer"
    assert spec["maxReplicaCount"] == settings.topics.partitions
    assert metadata["bootstrapServers"] == settings.broker.bootstrap
    assert metadata["consumerGroup"] == settings.broker.group
    assert metadata["topic"] == settings.topics.updates
    assert "replicas" not in find(overlay, "Deployment", "scorer")["spec"]
    assert json.loads(metadata["limitToPartitionsWithLag"])
    assert not json.loads(metadata["allowIdleConsumers"])  # KEDA refuses the two together
    assert metadata["offsetResetPolicy"] == "earliest"
    assert int(metadata["activationLagThreshold"]) > 0


def test_retraining_gives_way_and_a_refused_challenger_is_no_failed_job(overlay: str) -> None:
    """One at a time, below all that serves; a job that failed is there long enough to be seen."""
    spec = find(overlay, "CronJob")["spec"]
    pod = pod_of(overlay, "retrain")
    name, given = _given(container_of(overlay, "retrain")["args"])
    assert (name, given["if_needed"], given["exit_zero"], given["dry_run"]) == ("retrain", True, True, False)
    assert spec["concurrencyPolicy"] == "Forbid"
    (data,) = (volume for volume in pod["volumes"] if volume["name"] == "data")
    claim = find(overlay, "PersistentVolumeClaim", data["persistentVolumeClaim"]["claimName"])
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"], "a run that was killed goes on, in one pod at a time"
    (disrupted,) = spec["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert (disrupted["action"], pod["restartPolicy"]) == ("Ignore", "Never")
    assert spec["jobTemplate"]["spec"]["ttlSecondsAfterFinished"] > DAY_S
    retraining, scoring = priority_of(overlay, "retrain"), priority_of(overlay, "scorer")
    assert AUTOSCALER_CUTOFF <= retraining["value"] < 0 < scoring["value"]
    assert retraining["preemptionPolicy"] == "Never"


def test_compiling_takes_a_gpu_from_scorers_that_wait_for_its_plan(overlay: str) -> None:
    """Scorers without a plan keep their GPUs while they are started again: a job below them would never run."""
    if overlay == "cpu":
        assert "compile-plans" not in workloads(overlay)
        return
    compiling, scoring = priority_of(overlay, "compile-plans"), priority_of(overlay, "scorer")
    assert compiling["value"] > scoring["value"]
    assert compiling["preemptionPolicy"] == "PreemptLowerPriority"


def test_rollout_needs_no_gpu_that_is_not_there(overlay: str) -> None:
    """On CPUs a successor starts first; a GPU has to be given up before the next scorer can have it."""
    rolling = find(overlay, "Deployment", "scorer")["spec"]["strategy"]["rollingUpdate"]
    assert (
        rolling
        == {
            "cpu": {"maxSurge": 1, "maxUnavailable": 0},
            "gpu": {"maxSurge": 0, "maxUnavailable": 1},
        }[overlay]
    )


def test_gpu_scorers_read_the_plans_that_the_job_writes(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a command that the command line takes, in a volume that both mount; a CPU scorer has neither."""
    if overlay == "cpu":
        assert "compile-plans" not in workloads(overlay)
        assert settings_of(overlay, monkeypatch).engine.plans is None
        return
    pod, claim = (
        find(overlay, "Job")["spec"]["template"]["spec"],
        find(overlay, "PersistentVolumeClaim", "engine-plans"),
    )
    (job,) = pod["containers"]
    assert job["image"] == container_of(overlay)["image"]
    name, given = _given(job["args"])
    settings = settings_of(overlay, monkeypatch).engine
    assert name == "compile"
    assert (given["plans"], given["gpu"]) == (settings.plans, str(settings.gpu))
    assert settings.runtime == "tensorrt"
    for container, owner in ((job, pod), (container_of(overlay), pod_of(overlay))):
        (mount,) = (mount for mount in container["volumeMounts"] if mount["mountPath"] == str(settings.plans))
        (volume,) = (volume for volume in owner["volumes"] if volume["name"] == mount["name"])
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert bool(mount.get("readOnly")) == (container is not job), "only the job writes: a plan is executed"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["nodeSelector"] == pod_of(overlay)["nodeSelector"]
    assert job["securityContext"] == container_of(overlay)["securityContext"]


def _given(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the command that the command line takes these for, and its options."""
    group = typer.main.get_command(app)
    context = group.make_context("streamer", list(arguments), resilient_parsing=True)
    name, command, rest = group.resolve_command(context, list(arguments))  # type: ignore[attr-defined]
    return name, command.make_context(name, rest).params
