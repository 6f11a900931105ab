"""What kubectl's own kustomize makes of an overlay, and the schemas that its objects must obey.

Kubernetes' objects are validated strictly against its OpenAPI schemas, KEDA's and the Prometheus operator's against
models generated from their CRDs: what a model does not know does not come back out of it. What KEDA's schema leaves
open, the fields of a trigger, is closed here; Strimzi's kinds are in `tests.deploy.strimzi`.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus

from tests.deploy import strimzi

ROOT = Path(__file__).parents[2]
OVERLAYS = ("cpu", "gpu")
KUBERNETES_VERSIONS = ("1.34", "1.37")  # the first with a preStop of `sleep` for good, and the newest known here

MODELS: dict[str, Any] = {
    "ScaledObject": keda.ScaledObject,
    "TriggerAuthentication": keda.TriggerAuthentication,
    "PodMonitor": prometheus.PodMonitor,
    "PrometheusRule": prometheus.PrometheusRule,
}
KAFKA_TRIGGER = {
    *("bootstrapServers", "consumerGroup", "topic", "lagThreshold", "activationLagThreshold", "offsetResetPolicy"),
    *("allowIdleConsumers", "scaleToZeroOnInvalidOffset", "excludePersistentLag", "limitToPartitionsWithLag"),
    *("ensureEvenDistributionOfPartitions", "partitionLimitation", "version", "sasl", "tls"),
}
"""Source: https://keda.sh/docs/latest/scalers/apache-kafka/, trigger specification."""


@cache
def render(overlay: str) -> tuple[dict[str, Any], ...]:
    """Return the objects of the overlay."""
    kubectl = Path(sys.executable).with_name("kubectl")
    rendered = subprocess.run(
        [kubectl, "kustomize", ROOT / "k8s/overlays" / overlay], check=True, capture_output=True, timeout=60
    )
    return tuple(yaml.safe_load_all(rendered.stdout))


def find(overlay: str, kind: str, name: str | None = None) -> dict[str, Any]:
    """Return the one object of this kind (and name)."""
    (found,) = (o for o in render(overlay) if o["kind"] == kind and name in (None, o["metadata"]["name"]))
    return found


def validate(resource: dict[str, Any]) -> None:
    """Check an object against its schema.

    Raises:
        ValueError: it breaks its schema, or has a field that the schema does not know.
    """
    if resource["kind"] in strimzi.MODELS:
        strimzi.validate(resource)
        return
    model = MODELS.get(resource["kind"])
    if model is not None:
        known = model.model_validate(resource).model_dump(mode="json", by_alias=True, exclude_unset=True)
        if known != resource:
            raise ValueError(f"{resource['kind']}: the schema knows only {known}")
        for trigger in resource["spec"].get("triggers", ()):
            if not_known := trigger["metadata"].keys() - KAFKA_TRIGGER:
                raise ValueError(f"KEDA's Kafka scaler knows only {KAFKA_TRIGGER}, not {not_known}")
        return
    for version in KUBERNETES_VERSIONS:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise ValueError(str(error)) from error
