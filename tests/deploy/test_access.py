"""Who may do what, as the overlays render it: users of the broker, the network, files, rights in the cluster."""

from __future__ import annotations

from ipaddress import IPv6Network

import pytest

from streamer import addresses, topics
from streamer.settings import TopicSettings
from tests.deploy.rendering import OVERLAYS, ROOT, find, render
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
    workloads,
)

CHANGELOG = f"{GROUP}-alert-state-changelog"
NODE_LOCAL_DNS = "169.254.20.10/32"
"""Source: https://kubernetes.io/docs/tasks/administer-cluster/nodelocaldns/"""

pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)


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
    settings = settings_of(overlay, monkeypatch, "operators")
    container = container_of(overlay, "operators")
    (password,) = (entry for entry in container["env"] if entry["name"] == "STREAMER_BROKER__PASSWORD")
    assert password["valueFrom"] == {"secretKeyRef": {"name": settings.broker.username, "key": "password"}}
    assert settings.broker.username == find(overlay, "KafkaUser", "operators")["metadata"]["name"]
    assert settings.broker.group == GROUP
    assert settings.releases.store == settings_of(overlay, monkeypatch).releases.store
    assert find(overlay, "Deployment", "operators")["spec"]["replicas"] == 0
    assert priority_of(overlay, "operators") == priority_of(overlay, "scorer")
    (tmp,) = (volume for volume in pod_of(overlay, "operators")["volumes"] if volume["name"] == "tmp")
    assert gibibytes(tmp["emptyDir"]["sizeLimit"]) > LARGEST_RELEASE_BYTES
    assert container_of(overlay, "labeler")["image"] == container["image"]


def test_pictures_may_come_from_where_the_fetcher_may_go(overlay: str) -> None:
    """The network refuses what the address rules refuse, should a bug ever let it through them."""
    blocks = {
        block["cidr"]: set(block["except"])
        for rule in network_policies(overlay)["pictures"]["egress"]
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
    policies = network_policies(overlay)
    for name in workloads(overlay):
        mine = {policy for policy, spec in policies.items() if selects(spec["podSelector"], name)}
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
    store = find(overlay, "ConfigMap", container_of(overlay)["envFrom"][1]["configMapRef"]["name"])["data"]
    assert store["AWS_ENDPOINT_URL"].endswith(":9000")
    assert not [spec for name, spec in policies.items() if "ingress" in spec and name != "telemetry"]


def test_every_file_that_is_written_lies_where_its_container_may_write(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust makes its directory, also where the state is kept in memory."""
    for workload in ("scorer", "labeler", "drift", "retrain"):
        kinds = {"emptyDir", "persistentVolumeClaim"}
        writable = {volume["name"] for volume in pod_of(overlay, workload)["volumes"] if kinds & volume.keys()}
        mounts = container_of(overlay, workload)["volumeMounts"]
        paths = [mount["mountPath"] for mount in mounts if mount["name"] in writable]
        directory = settings_of(overlay, monkeypatch, workload).state.directory
        assert any(directory.is_relative_to(path) for path in paths)
        assert "/tmp" in paths
    dockerfile = (ROOT / "docker/trainer.Dockerfile").read_text()
    assert "WORKDIR /data" in dockerfile
    assert "/data" in paths


def test_pods_hold_no_rights_and_no_writable_root(overlay: str) -> None:
    """What a picture's decoder could be made to do ends at the container; each workload is somebody of its own."""
    for name, pod in workloads(overlay).items():
        assert pod["serviceAccountName"] == name
        assert find(overlay, "ServiceAccount", name)["automountServiceAccountToken"] is False
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"] == pod_of(overlay)["securityContext"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container_of(overlay, name)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container_of(overlay, name)["resources"]["limits"]
    assert not [
        resource["kind"] for resource in render(overlay) if resource["kind"] in ("Role", "Secret", "RoleBinding")
    ]
