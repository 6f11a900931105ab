"""What an overlay takes in beside the base: a component must still render, and agree with the code that it turns on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from streamer.settings import load
from tests.deploy.rendering import ROOT, find, validate

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Sequence[dict[str, Any]]:
    """The CPU overlay with Label Studio's component."""
    folder = tmp_path_factory.mktemp("overlay").resolve()
    taken = {
        "resources": [os.path.relpath(ROOT / "k8s/overlays/cpu", folder)],
        "components": [os.path.relpath(ROOT / "k8s/components/label-studio", folder)],
        "namespace": "mismatch-streamer",
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(taken))
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run([kubectl, "kustomize", folder], check=True, capture_output=True, timeout=60)
    return tuple(yaml.safe_load_all(done.stdout))


def _one(rendered: Sequence[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in rendered if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def test_component_obeys_its_schemas(rendered: Sequence[dict[str, Any]]) -> None:
    """With all that the overlay has."""
    for resource in rendered:
        validate(resource)


def test_webhook_is_reached_at_the_port_where_the_worker_listens(
    rendered: Sequence[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its Service, through its policy, with a secret; not on the loopback address that is the default."""
    container = _one(rendered, "Deployment", "labeler")["spec"]["template"]["spec"]["containers"][0]
    webhook = {each["name"]: each for each in container["env"] if "WEBHOOK" in each["name"]}
    for name, entry in webhook.items():
        monkeypatch.setenv(name, entry.get("value", "secret"))
    settings = load().labels
    assert settings.webhook_host == "0.0.0.0"
    assert settings.webhook_secret is not None
    assert "secretKeyRef" in webhook["STREAMER_LABELS__WEBHOOK_SECRET"]["valueFrom"]
    (port,) = (each for each in container["ports"] if each["containerPort"] == settings.webhook_port)
    (served,) = _one(rendered, "Service", "labeler")["spec"]["ports"]
    assert (served["port"], served["targetPort"]) == (settings.webhook_port, port["name"])
    policy = _one(rendered, "NetworkPolicy", "webhook")["spec"]
    assert [each["port"] for rule in policy["ingress"] for each in rule["ports"]] == [port["name"]]
    labels = _one(rendered, "Deployment", "labeler")["spec"]["template"]["metadata"]["labels"]
    for selector in (policy["podSelector"]["matchLabels"], _one(rendered, "Service", "labeler")["spec"]["selector"]):
        assert selector.items() <= labels.items()


def test_worker_with_a_webhook_may_write_labels_and_nothing_else_more(rendered: Sequence[dict[str, Any]]) -> None:
    """Without it, it only reads them."""
    before = find("cpu", "KafkaUser", "mismatch-labeler")["spec"]["authorization"]["acls"]
    after = _one(rendered, "KafkaUser", "mismatch-labeler")["spec"]["authorization"]["acls"]
    more = {
        each["resource"]["name"]: set(each["operations"]) - set(was["operations"])
        for was, each in zip(before, after, strict=True)
    }
    assert {name: operations for name, operations in more.items() if operations} == {"confirmed-labels": {"Write"}}
