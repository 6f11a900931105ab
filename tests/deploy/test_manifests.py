"""What the overlays render to obeys its schemas, and agrees with the code that it runs."""

from __future__ import annotations

import copy
import json
from ipaddress import IPv6Network
from typing import Any

import pytest
import typer

from streamer import addresses, leaving, terminal, topics
from streamer.application import BUFFERED_EVENTS
from streamer.cli import app
from streamer.decoding import SLOTS_PER_DECODER
from streamer.in_flight import MAX_BYTES
from streamer.settings import Settings, TopicSettings, load
from tests.deploy.rendering import OVERLAYS, ROOT, find, render, validate

GROUP = "mismatch-scorer"
CHANGELOG = f"{GROUP}-alert-state-changelog"
DAY_S = 86_400
LARGEST_RELEASE_BYTES = 2 * 2**30
"""Twice FLAVA's graph in fp32, the largest that the README has a plan of. BLIP-2 at its published size needs more."""
SWAPPING_WORKER_BYTES = 621_000_000
"""A worker on a CPU at most, while it swaps releases of `compact`. Source: benchmarks/swap.py --release."""
CACHED_BYTES = 1_100
"""Of one product, its judgement, and its URL with the longest validators that are kept, by tracemalloc."""
NODE_LOCAL_DNS = "169.254.20.10/32"
"""Source: https://kubernetes.io/docs/tasks/administer-cluster/nodelocaldns/"""
AUTOSCALER_CUTOFF = -10
"""Below it the cluster autoscaler adds no node for a pod. Source: its option `--expendable-pods-priority-cutoff`."""

pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)


def _variables(overlay: str, name: str = "scorer") -> dict[str, str]:
    """Return the variables of a workload's container, those of the object store's client left out."""
    container = _container(overlay, name)
    given: dict[str, str] = {}
    for source in container["envFrom"]:
        if "configMapRef" in source:
            given |= find(overlay, "ConfigMap", source["configMapRef"]["name"])["data"]
    given |= {entry["name"]: entry.get("value", "secret") for entry in container["env"]}
    return {variable: value for variable, value in given.items() if not variable.startswith("AWS_")}


def _settings(overlay: str, monkeypatch: pytest.MonkeyPatch, name: str = "scorer") -> Settings:
    for variable, value in _variables(overlay, name).items():
        monkeypatch.setenv(variable, value)
    return load()


def _workloads(overlay: str) -> dict[str, dict[str, Any]]:
    """Return the pods' specifications by the name of what makes them."""
    templates = {
        "Deployment": lambda spec: spec["template"],
        "Job": lambda spec: spec["template"],
        "CronJob": lambda spec: spec["jobTemplate"]["spec"]["template"],
    }
    found = {}
    for resource in render(overlay):
        if resource["kind"] in templates:
            template = templates[resource["kind"]](resource["spec"])
            name = resource["metadata"]["name"]
            assert template["metadata"]["labels"]["app.kubernetes.io/name"] == name
            found[name] = template["spec"]
    return found


def _pod(overlay: str, name: str = "scorer") -> dict[str, Any]:
    return _workloads(overlay)[name]


def _container(overlay: str, name: str = "scorer") -> dict[str, Any]:
    (container,) = _pod(overlay, name)["containers"]
    return dict(container)


def _priority(overlay: str, name: str) -> dict[str, Any]:
    """Return the class that a workload's pods are of."""
    return find(overlay, "PriorityClass", _pod(overlay, name)["priorityClassName"])


def _policies(overlay: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each["spec"] for each in render(overlay) if each["kind"] == "NetworkPolicy"}


def _selects(selector: dict[str, Any], name: str) -> bool:
    """Tell whether a selector, by name as all here, takes a workload's pods."""
    if "matchLabels" in selector:
        return bool(selector["matchLabels"] == {"app.kubernetes.io/name": name})
    (expression,) = selector["matchExpressions"]
    assert (expression["key"], expression["operator"]) == ("app.kubernetes.io/name", "In")
    return name in expression["values"]


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
        for name in _variables(overlay, workload):
            assert name in template
        assert _pod(overlay, workload)["enableServiceLinks"] is False
    settings = _settings(overlay, monkeypatch)
    assert settings.broker.group == GROUP
    assert settings.telemetry.host == "0.0.0.0"


def test_all_work_on_the_same_stores_with_users_of_their_own(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scorers keep what the label worker joins, and run what retraining publishes; each password is a Secret."""
    users = {each["metadata"]["name"] for each in render(overlay) if each["kind"] == "KafkaUser"}
    for workload in ("scorer", "labeler", "drift", "retrain"):
        settings = _settings(overlay, monkeypatch, workload)
        stores = (settings.releases.store, settings.evidence.store, settings.labels.dataset)
        assert stores == tuple(f"s3://mismatch-streamer/{name}" for name in ("releases", "evidence", "labels"))
        assert settings.broker.username == f"mismatch-{workload}"
        assert settings.broker.username in users
        (password,) = (
            entry for entry in _container(overlay, workload)["env"] if entry["name"] == "STREAMER_BROKER__PASSWORD"
        )
        assert password["valueFrom"] == {"secretKeyRef": {"name": settings.broker.username, "key": "password"}}
        secrets = [
            each["secretRef"]["name"] for each in _container(overlay, workload)["envFrom"] if "secretRef" in each
        ]
        assert secrets == ["object-store"]
    assert _settings(overlay, monkeypatch, "labeler").labels.group == "mismatch-labeler"


@pytest.mark.parametrize("workload", ["scorer", "labeler", "drift"])
def test_probes_ask_the_port_of_the_settings_for_progress(
    overlay: str, workload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container's named port is where the worker listens, and what Prometheus scrapes."""
    container = _container(overlay, workload)
    (port,) = container["ports"]
    assert port["containerPort"] == _settings(overlay, monkeypatch, workload).telemetry.port
    paths = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: get["path"] for name, get in paths.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    monitor, policy = find(overlay, "PodMonitor")["spec"], _policies(overlay)["telemetry"]
    assert _selects(monitor["selector"], workload)
    assert _selects(policy["podSelector"], workload)
    asked = {monitor["podMetricsEndpoints"][0]["port"], policy["ingress"][0]["ports"][0]["port"]}
    assert {port["name"]} | asked | {get["port"] for get in paths.values()} == {"telemetry"}


@pytest.mark.parametrize("workload", ["scorer", "labeler", "drift"])
def test_grace_period_covers_pre_stop_drain_and_leaving(
    overlay: str, workload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker ends itself before Kubernetes kills it."""
    pod = _pod(overlay, workload)
    pre_stop = _container(overlay, workload)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = _settings(overlay, monkeypatch, workload).pipeline.drain_timeout_s
    assert pod["terminationGracePeriodSeconds"] > pre_stop + drain + leaving.LEAVE_S
    assert pod["restartPolicy"] == "Always"


def _bytes(quantity: str) -> int:
    return int(quantity.removesuffix("Gi")) * 2**30


def test_memory_limit_covers_a_swap_with_decoders_at_their_bound(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both releases have decoders then, and a challenger has left: no reason for the kernel to kill the worker."""
    settings = _settings(overlay, monkeypatch)
    slots = SLOTS_PER_DECODER * settings.fetch.max_image_bytes
    decoders = 2 * settings.pipeline.decoders * (settings.pipeline.decode_memory_mib * 2**20 + slots)
    limit = _bytes(_container(overlay)["resources"]["limits"]["memory"])
    events = BUFFERED_EVENTS * 2**20 + 5 * MAX_BYTES  # their bytes, and their text of four bytes a letter
    cached = settings.pipeline.score_cache_entries * CACHED_BYTES
    assert limit >= decoders + settings.fetch.max_held_bytes + SWAPPING_WORKER_BYTES + events + cached


def test_release_finds_room_where_it_is_fetched_to(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod that writes more than its volume's limit is evicted, and all scorers fetch a release at the same time."""
    scratch = _settings(overlay, monkeypatch).state.directory
    container = _container(overlay)
    (mount,) = (mount for mount in container["volumeMounts"] if scratch.is_relative_to(mount["mountPath"]))
    (volume,) = (volume for volume in _pod(overlay)["volumes"] if volume["name"] == mount["name"])
    assert _bytes(volume["emptyDir"]["sizeLimit"]) > LARGEST_RELEASE_BYTES
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


def test_users_may_do_what_they_need_and_no_more(overlay: str) -> None:
    """Each worker writes what it publishes and reads what it consumes; the scaler reads no record."""
    rights: dict[str, dict[str, set[str]]] = {}
    for user in (resource for resource in render(overlay) if resource["kind"] == "KafkaUser"):
        assert user["spec"]["authentication"] == {"type": "scram-sha-512"}
        assert user["spec"]["authorization"]["type"] == "simple"
        granted = rights[user["metadata"]["name"]] = {}
        for rule in user["spec"]["authorization"]["acls"]:
            assert rule.keys() == {"resource", "operations"}
            assert rule["resource"].keys() == {"type", "name"}
            granted[f"{rule['resource']['type']} {rule['resource']['name']}"] = set(rule["operations"])
    names = TopicSettings()
    assert rights == {
        GROUP: {
            f"group {GROUP}": {"Read"},
            f"topic {names.updates}": {"Read", "Describe"},
            f"topic {names.scores}": {"Read", "Write", "Describe"},
            f"topic {names.redecisions}": {"Read", "Write", "Describe"},
            f"topic {names.alerts}": {"Write", "Describe"},
            f"topic {names.dead_letters}": {"Write", "Describe"},
            f"topic {names.reviews}": {"Write", "Describe"},
            f"topic {names.shadow_scores}": {"Write", "Describe"},
            f"topic {names.releases}": {"Read", "Describe"},
            f"topic {CHANGELOG}": {"Create", "Read", "Write", "Describe"},
        },
        "lag-reader": {f"group {GROUP}": {"Describe"}, f"topic {names.updates}": {"Describe"}},
        "mismatch-labeler": {
            "group mismatch-labeler": {"Read"},
            f"topic {names.labels}": {"Read", "Describe"},
            f"topic {names.dead_letters}": {"Write", "Describe"},
        },
        "mismatch-drift": {
            f"topic {names.scores}": {"Read", "Describe"},
            f"topic {names.dead_letters}": {"Read", "Describe"},
        },
        "mismatch-retrain": {f"topic {names.releases}": {"Read", "Write", "Describe"}},
        "catalogue": {f"topic {names.updates}": {"Write", "Describe"}},
        "reviewers": {
            "group reviewers": {"Read"},
            f"topic {names.alerts}": {"Read", "Describe"},
            f"topic {names.reviews}": {"Read", "Describe"},
            f"topic {names.labels}": {"Write", "Describe"},
        },
        "operators": {
            f"group {GROUP}": {"Describe"},
            **{f"topic {spec.name}": {"Describe"} for spec in topics.specs(names)},
            f"topic {names.dead_letters}": {"Read", "Describe"},
            f"topic {names.updates}": {"Write", "Describe", "DescribeConfigs"},
            f"topic {names.scores}": {"Write", "Describe"},
            f"topic {names.labels}": {"Write", "Describe", "DescribeConfigs"},
            f"topic {names.releases}": {"Read", "Write", "Describe", "DescribeConfigs"},
        },
    }


def test_operators_may_be_told_what_the_doctor_asks_of_topics(overlay: str) -> None:
    """It says nothing of settings that it may not read, so a right that is missing would look like a clean bill."""
    acls = find(overlay, "KafkaUser", "operators")["spec"]["authorization"]["acls"]
    told = {rule["resource"]["name"] for rule in acls if "DescribeConfigs" in rule["operations"]}
    asked = topics.specs(TopicSettings())
    assert told == {spec.name for spec in asked if topics.UNPACKED_BY_THE_BROKER.items() <= spec.config.items()}


def test_operators_have_a_pod_with_the_stores_and_the_group_of_scorers(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As their own user, before others in the queue, with room for a release, and only while somebody asks for it."""
    settings = _settings(overlay, monkeypatch, "operators")
    container = _container(overlay, "operators")
    (password,) = (entry for entry in container["env"] if entry["name"] == "STREAMER_BROKER__PASSWORD")
    assert password["valueFrom"] == {"secretKeyRef": {"name": settings.broker.username, "key": "password"}}
    assert settings.broker.username == find(overlay, "KafkaUser", "operators")["metadata"]["name"]
    assert settings.broker.group == GROUP
    assert settings.releases.store == _settings(overlay, monkeypatch).releases.store
    assert find(overlay, "Deployment", "operators")["spec"]["replicas"] == 0
    assert _priority(overlay, "operators") == _priority(overlay, "scorer")
    (tmp,) = (volume for volume in _pod(overlay, "operators")["volumes"] if volume["name"] == "tmp")
    assert _bytes(tmp["emptyDir"]["sizeLimit"]) > LARGEST_RELEASE_BYTES
    assert _container(overlay, "labeler")["image"] == container["image"]


def test_scaler_watches_the_scorers_group_and_topic(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another group's lag would scale on nothing; more replicas than partitions would idle."""
    settings = _settings(overlay, monkeypatch)
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


def test_pictures_may_come_from_where_the_fetcher_may_go(overlay: str) -> None:
    """The network refuses what the address rules refuse, should a bug ever let it through them."""
    blocks = {
        block["cidr"]: set(block["except"])
        for rule in _policies(overlay)["pictures"]["egress"]
        for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer)
    }
    public = addresses._GLOBAL_UNICAST
    refused = [network for network, _ in addresses._REFUSED_IPV6 if network.subnet_of(public)]
    assert all(isinstance(network, IPv6Network) for network in refused)
    assert blocks == {
        "0.0.0.0/0": {str(network) for network, _ in addresses._REFUSED_IPV4},
        str(public): {str(network) for network in refused},
    }


def test_pods_reach_what_they_need_and_nothing_else(overlay: str) -> None:
    """Every pod is under a policy for both directions; only scorers reach addresses, only workers are reached."""
    policies = _policies(overlay)
    for name in _workloads(overlay):
        mine = {policy for policy, spec in policies.items() if _selects(spec["podSelector"], name)}
        assert {kind for policy in mine for kind in policies[policy]["policyTypes"]} == {"Ingress", "Egress"}
        expected = {
            "scorer": {"stream", "telemetry", "pictures"},
            "labeler": {"stream", "telemetry"},
            "drift": {"stream", "telemetry"},
            "compile-plans": {"compile-plans"},
        }
        assert mine == expected.get(name, {"stream"})
    ports = [[port["port"] for port in rule["ports"]] for rule in policies["stream"]["egress"]]
    assert ports == [[53, 53], [9093], [9000]]
    dns, *others = (rule["to"] for rule in policies["stream"]["egress"])
    assert [peer["ipBlock"] for peer in dns if "ipBlock" in peer] == [{"cidr": NODE_LOCAL_DNS}]
    assert not [peer for rule in others for peer in rule if "ipBlock" in peer]
    store = find(overlay, "ConfigMap", _container(overlay)["envFrom"][1]["configMapRef"]["name"])["data"]
    assert store["AWS_ENDPOINT_URL"].endswith(":9000")
    assert not [spec for name, spec in policies.items() if "ingress" in spec and name != "telemetry"]


def test_every_file_that_is_written_lies_where_its_container_may_write(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust makes its directory, also where the state is kept in memory."""
    for workload in ("scorer", "labeler", "drift", "retrain"):
        kinds = {"emptyDir", "persistentVolumeClaim"}
        writable = {volume["name"] for volume in _pod(overlay, workload)["volumes"] if kinds & volume.keys()}
        mounts = _container(overlay, workload)["volumeMounts"]
        paths = [mount["mountPath"] for mount in mounts if mount["name"] in writable]
        directory = _settings(overlay, monkeypatch, workload).state.directory
        assert any(directory.is_relative_to(path) for path in paths)
        assert "/tmp" in paths
    dockerfile = (ROOT / "docker/trainer.Dockerfile").read_text()
    assert "WORKDIR /data" in dockerfile
    assert "/data" in paths


def test_pods_hold_no_rights_and_no_writable_root(overlay: str) -> None:
    """What a picture's decoder could be made to do ends at the container; each workload is somebody of its own."""
    for name, pod in _workloads(overlay).items():
        assert pod["serviceAccountName"] == name
        assert find(overlay, "ServiceAccount", name)["automountServiceAccountToken"] is False
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"] == _pod(overlay)["securityContext"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert _container(overlay, name)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in _container(overlay, name)["resources"]["limits"]
    assert not [
        resource["kind"] for resource in render(overlay) if resource["kind"] in ("Role", "Secret", "RoleBinding")
    ]


def test_retraining_gives_way_and_a_refused_challenger_is_no_failed_job(overlay: str) -> None:
    """One at a time, below all that serves; a job that failed is there long enough to be seen."""
    spec = find(overlay, "CronJob")["spec"]
    pod = _pod(overlay, "retrain")
    name, given = _given(_container(overlay, "retrain")["args"])
    assert (name, given["if_needed"], given["exit_zero"], given["dry_run"]) == ("retrain", True, True, False)
    assert spec["concurrencyPolicy"] == "Forbid"
    (data,) = (volume for volume in pod["volumes"] if volume["name"] == "data")
    claim = find(overlay, "PersistentVolumeClaim", data["persistentVolumeClaim"]["claimName"])
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"], "a run that was killed goes on, in one pod at a time"
    (disrupted,) = spec["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert (disrupted["action"], pod["restartPolicy"]) == ("Ignore", "Never")
    assert spec["jobTemplate"]["spec"]["ttlSecondsAfterFinished"] > DAY_S
    retraining, scoring = _priority(overlay, "retrain"), _priority(overlay, "scorer")
    assert AUTOSCALER_CUTOFF <= retraining["value"] < 0 < scoring["value"]
    assert retraining["preemptionPolicy"] == "Never"


def test_compiling_takes_a_gpu_from_scorers_that_wait_for_its_plan(overlay: str) -> None:
    """Scorers without a plan keep their GPUs while they are started again: a job below them would never run."""
    if overlay == "cpu":
        assert "compile-plans" not in _workloads(overlay)
        return
    compiling, scoring = _priority(overlay, "compile-plans"), _priority(overlay, "scorer")
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
        assert "compile-plans" not in _workloads(overlay)
        assert _settings(overlay, monkeypatch).engine.plans is None
        return
    pod, claim = (
        find(overlay, "Job")["spec"]["template"]["spec"],
        find(overlay, "PersistentVolumeClaim", "engine-plans"),
    )
    (job,) = pod["containers"]
    assert job["image"] == _container(overlay)["image"]
    name, given = _given(job["args"])
    settings = _settings(overlay, monkeypatch).engine
    assert name == "compile"
    assert (given["plans"], given["gpu"]) == (settings.plans, str(settings.gpu))
    assert settings.runtime == "tensorrt"
    for container, owner in ((job, pod), (_container(overlay), _pod(overlay))):
        (mount,) = (mount for mount in container["volumeMounts"] if mount["mountPath"] == str(settings.plans))
        (volume,) = (volume for volume in owner["volumes"] if volume["name"] == mount["name"])
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert bool(mount.get("readOnly")) == (container is not job), "only the job writes: a plan is executed"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["nodeSelector"] == _pod(overlay)["nodeSelector"]
    assert job["securityContext"] == _container(overlay)["securityContext"]


def _given(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the command that the command line takes these for, and its options."""
    group = typer.main.get_command(app)
    context = group.make_context("streamer", list(arguments), resilient_parsing=True)
    name, command, rest = group.resolve_command(context, list(arguments))  # type: ignore[attr-defined]
    return name, command.make_context(name, rest).params
