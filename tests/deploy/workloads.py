"""What the overlays make of each workload: its pods, its container, the settings that it starts with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamer.settings import Settings, load
from tests.deploy.rendering import find, render

if TYPE_CHECKING:
    import pytest

GROUP = "mismatch-scorer"
LARGEST_RELEASE_BYTES = 2 * 2**30
"""Twice FLAVA's graph in fp32, the largest that the README has a plan of. BLIP-2 at its published size needs more."""


def variables_of(overlay: str, name: str = "scorer") -> dict[str, str]:
    """Return the variables of a workload's container, those of the object store's client left out."""
    container = container_of(overlay, name)
    given: dict[str, str] = {}
    for source in container["envFrom"]:
        if "configMapRef" in source:
            given |= find(overlay, "ConfigMap", source["configMapRef"]["name"])["data"]
    given |= {entry["name"]: entry.get("value", "secret") for entry in container["env"]}
    return {variable: value for variable, value in given.items() if not variable.startswith("AWS_")}


def settings_of(overlay: str, monkeypatch: pytest.MonkeyPatch, name: str = "scorer") -> Settings:
    """Return the settings that a workload starts with."""
    for variable, value in variables_of(overlay, name).items():
        monkeypatch.setenv(variable, value)
    return load()


def workloads(overlay: str) -> dict[str, dict[str, Any]]:
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


def pod_of(overlay: str, name: str = "scorer") -> dict[str, Any]:
    """Return the specification of a workload's pods."""
    return workloads(overlay)[name]


def container_of(overlay: str, name: str = "scorer") -> dict[str, Any]:
    """Return the only container of a workload."""
    (container,) = pod_of(overlay, name)["containers"]
    return dict(container)


def priority_of(overlay: str, name: str) -> dict[str, Any]:
    """Return the class that a workload's pods are of."""
    return find(overlay, "PriorityClass", pod_of(overlay, name)["priorityClassName"])


def network_policies(overlay: str) -> dict[str, dict[str, Any]]:
    """Return the network policies by name."""
    return {each["metadata"]["name"]: each["spec"] for each in render(overlay) if each["kind"] == "NetworkPolicy"}


def selects(selector: dict[str, Any], name: str) -> bool:
    """Tell whether a selector, by name as all here, takes a workload's pods."""
    if "matchLabels" in selector:
        return bool(selector["matchLabels"] == {"app.kubernetes.io/name": name})
    (expression,) = selector["matchExpressions"]
    assert (expression["key"], expression["operator"]) == ("app.kubernetes.io/name", "In")
    return name in expression["values"]


def gibibytes(quantity: str) -> int:
    """Return the bytes of a quantity in Gi."""
    return int(quantity.removesuffix("Gi")) * 2**30
