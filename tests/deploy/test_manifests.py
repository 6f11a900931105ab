"""What the overlays render to obeys its schemas, and agrees with the code that it runs."""

from __future__ import annotations

import copy
import json
from ipaddress import IPv6Network
from typing import Any

import pytest
import typer

from streamer import addresses, leaving, terminal, topics
from streamer.cli import app
from streamer.settings import Settings, TopicSettings, load
from tests.deploy.rendering import OVERLAYS, find, render, validate

GROUP = "mismatch-scorer"
CHANGELOG = f"{GROUP}-alert-state-changelog"

pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)


def _variables(overlay: str) -> dict[str, str]:
    container = _container(overlay)
    (source,) = container["envFrom"]
    given = find(overlay, "ConfigMap", source["configMapRef"]["name"])["data"]
    return given | {entry["name"]: entry.get("value", "secret") for entry in container["env"]}


def _settings(overlay: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in _variables(overlay).items():
        monkeypatch.setenv(name, value)
    return load()


def _pod(overlay: str) -> dict[str, Any]:
    pod: dict[str, Any] = find(overlay, "Deployment")["spec"]["template"]["spec"]
    return pod


def _container(overlay: str) -> dict[str, Any]:
    (container,) = _pod(overlay)["containers"]
    return dict(container)


def test_manifests_obey_their_schemas(overlay: str) -> None:
    """Kubernetes' own strictly, KEDA's and the Prometheus operator's with no field left over."""
    for resource in render(overlay):
        validate(resource)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", ("spec", "template", "spec", "containers", 0)),
        ("NetworkPolicy", ("spec", "egress", 0)),
        ("PodDisruptionBudget", ("spec",)),
        ("ScaledObject", ("spec", "triggers", 0)),
        ("TriggerAuthentication", ("spec",)),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0)),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0)),
    ],
)
def test_manifests_with_a_misspelt_field_are_refused(overlay: str, kind: str, path: tuple[str | int, ...]) -> None:
    """Without this, the test above could pass on a validator that lets everything through."""
    broken = copy.deepcopy(find(overlay, kind))
    place: Any = broken
    for step in path:
        place = place[step]
    place["misspelt"] = "x"
    with pytest.raises(ValueError, match=r"misspelt|knows only"):
        validate(broken)


def test_variables_of_the_pod_are_settings(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt one within a section is refused by `load`, which reads them all."""
    template = terminal.env_template(Settings())
    for name in _variables(overlay):
        assert name in template
    settings = _settings(overlay, monkeypatch)
    assert settings.broker.group == GROUP
    assert settings.telemetry.host == "0.0.0.0"
    assert _pod(overlay)["enableServiceLinks"] is False


def test_probes_ask_the_port_of_the_settings_for_progress(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The container's named port is where the worker listens, and what Prometheus scrapes."""
    container = _container(overlay)
    (port,) = container["ports"]
    assert port["containerPort"] == _settings(overlay, monkeypatch).telemetry.port
    paths = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: get["path"] for name, get in paths.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    monitored = find(overlay, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"]
    allowed = find(overlay, "NetworkPolicy")["spec"]["ingress"][0]["ports"][0]["port"]
    assert {port["name"], monitored, allowed} | {get["port"] for get in paths.values()} == {"telemetry"}


def test_grace_period_covers_pre_stop_drain_and_leaving(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker ends itself before Kubernetes kills it."""
    pod = _pod(overlay)
    pre_stop = _container(overlay)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = _settings(overlay, monkeypatch).pipeline.drain_timeout_s
    assert pod["terminationGracePeriodSeconds"] > pre_stop + drain + leaving.LEAVE_S
    assert pod["restartPolicy"] == "Always"


def test_memory_limit_covers_what_pictures_may_take(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders at their bound are not a reason for the kernel to kill the worker."""
    settings = _settings(overlay, monkeypatch)
    pictures = settings.pipeline.preprocess_threads * settings.pipeline.decode_memory_mib * 2**20
    limit = int(_container(overlay)["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
    assert limit >= pictures + settings.fetch.max_held_bytes + 512 * 2**20


def test_topics_are_as_the_command_makes_them(overlay: str) -> None:
    """All of their fields, since Strimzi's own schema is not at hand."""
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
    stamped = {"cleanup.policy": "compact", "min.insync.replicas": "2", **topics.STAMPED_BY_THE_BROKER}
    assert changelog == {"partitions": 12, "replicas": 3, "config": stamped}


def test_users_may_do_what_they_need_and_no_more(overlay: str) -> None:
    """The scorer writes what it publishes and reads what it consumes; the scaler reads no record."""
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
    }


def test_scaler_watches_the_scorers_group_and_topic(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another group's lag would scale on nothing; more replicas than partitions would idle."""
    settings = _settings(overlay, monkeypatch)
    spec = find(overlay, "ScaledObject")["spec"]
    (trigger,) = spec["triggers"]
    metadata = trigger["metadata"]
    assert spec["scaleTargetRef"]["name"] == find(overlay, "Deployment")["metadata"]["name"]
    assert spec["maxReplicaCount"] == settings.topics.partitions
    assert metadata["bootstrapServers"] == settings.broker.bootstrap
    assert metadata["consumerGroup"] == settings.broker.group
    assert metadata["topic"] == settings.topics.updates
    assert "replicas" not in find(overlay, "Deployment")["spec"]
    assert json.loads(metadata["limitToPartitionsWithLag"])
    assert not json.loads(metadata["allowIdleConsumers"])  # KEDA refuses the two together


def test_pictures_may_come_from_where_the_fetcher_may_go(overlay: str) -> None:
    """The network refuses what the address rules refuse, should a bug ever let it through them."""
    blocks = {
        block["cidr"]: set(block["except"])
        for rule in find(overlay, "NetworkPolicy")["spec"]["egress"]
        for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer)
    }
    public = addresses._GLOBAL_UNICAST
    refused = [network for network, _ in addresses._REFUSED_IPV6 if network.subnet_of(public)]
    assert all(isinstance(network, IPv6Network) for network in refused)
    assert blocks == {
        "0.0.0.0/0": {str(network) for network, _ in addresses._REFUSED_IPV4},
        str(public): {str(network) for network in refused},
    }


def test_state_lies_where_the_container_may_write(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust makes its directory, also where the state is kept in memory."""
    writable = {volume["name"] for volume in _pod(overlay)["volumes"] if "emptyDir" in volume}
    paths = [mount["mountPath"] for mount in _container(overlay)["volumeMounts"] if mount["name"] in writable]
    directory = _settings(overlay, monkeypatch).state.directory
    assert any(directory.is_relative_to(path) for path in paths)


def test_pods_hold_no_rights_and_no_writable_root(overlay: str) -> None:
    """What a picture's decoder could be made to do ends at the container."""
    assert find(overlay, "ServiceAccount")["automountServiceAccountToken"] is False
    assert _pod(overlay)["automountServiceAccountToken"] is False
    assert _pod(overlay)["securityContext"]["runAsNonRoot"] is True
    context = _container(overlay)["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert not [
        resource["kind"] for resource in render(overlay) if resource["kind"] in ("Role", "Secret", "RoleBinding")
    ]


def test_gpu_scorers_read_the_plans_that_the_job_writes(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a command that the command line takes, in a volume that both mount; a CPU scorer has neither."""
    if overlay == "cpu":
        assert not [resource for resource in render(overlay) if resource["kind"] == "Job"]
        assert _settings(overlay, monkeypatch).engine.plans is None
        return
    pod, claim = find(overlay, "Job")["spec"]["template"]["spec"], find(overlay, "PersistentVolumeClaim")
    (job,) = pod["containers"]
    assert job["image"] == _container(overlay)["image"]
    context = typer.main.get_command(app).make_context("streamer", list(job["args"]), resilient_parsing=True)
    name, command, rest = typer.main.get_command(app).resolve_command(context, list(job["args"]))  # type: ignore[attr-defined]
    given = command.make_context(name, rest).params
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
