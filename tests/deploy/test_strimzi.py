"""Topics and users against Strimzi's own CRDs, as `make strimzi` fetches them, compiled to validators by their package.

A CRD drops fields that it does not know without a word; those are refused by `tests.deploy.strimzi`.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.deploy import strimzi
from tests.deploy.rendering import OVERLAYS, ROOT, find, render

VALIDATORS = Path(sys.prefix) / "strimzi/node_modules/@kubernetes-models/strimzi-kafka-operator"

MISTAKES: dict[str, tuple[str, tuple[str | int, ...], object]] = {
    "partitions in words": ("KafkaTopic", ("spec", "partitions"), "twelve"),
    "no partition": ("KafkaTopic", ("spec", "partitions"), 0),
    "more replicas than Kafka can count": ("KafkaTopic", ("spec", "replicas"), 40_000),
    "another kind's group": ("KafkaTopic", ("apiVersion",), "apps/v1"),
    "unknown authentication": ("KafkaUser", ("spec", "authentication", "type"), "password"),
    "unknown operation": ("KafkaUser", ("spec", "authorization", "acls", 0, "operations", 0), "Peek"),
    "unknown resource": ("KafkaUser", ("spec", "authorization", "acls", 0, "resource", "type"), "queue"),
    "rules that are no list": ("KafkaUser", ("spec", "authorization", "acls"), "all"),
}


def _changed(given: dict[str, Any], path: tuple[str | int, ...], to: object) -> dict[str, Any]:
    changed: Any = copy.deepcopy(given)
    at = changed
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = to
    return changed  # type: ignore[no-any-return]


def _declared() -> dict[str, dict[str, Any]]:
    return {
        f"{overlay}: {resource['kind']} {resource['metadata']['name']}": resource
        for overlay in OVERLAYS
        for resource in render(overlay)
        if resource["kind"] in strimzi.MODELS
    }


def _broken() -> dict[str, dict[str, Any]]:
    whole = {
        "KafkaTopic": find("cpu", "KafkaTopic", "product-updates"),
        "KafkaUser": find("cpu", "KafkaUser", "mismatch-scorer"),
    }
    return {name: _changed(whole[kind], path, to) for name, (kind, path, to) in MISTAKES.items()}


@pytest.fixture(scope="module")
def findings() -> dict[str, str | None]:
    """What Strimzi's validators find in each object, None where nothing is wrong; one process for all."""
    node = shutil.which("node")
    if node is None or not VALIDATORS.exists():
        pytest.skip("no CRDs of Strimzi: `make strimzi`, where npm is")
    command = [node, ROOT / "tests/deploy/validate_strimzi.mjs", VALIDATORS]
    given = orjson.dumps(_declared() | _broken())
    done = subprocess.run(command, input=given, check=True, capture_output=True, timeout=60)
    found: dict[str, str | None] = orjson.loads(done.stdout)
    return found


def test_topics_and_users_obey_strimzis_own_schemas(findings: dict[str, str | None]) -> None:
    """All of them, of both overlays."""
    names = _declared().keys()
    assert any("KafkaTopic" in name for name in names)
    assert any("KafkaUser" in name for name in names)
    assert {name: findings[name] for name in names} == dict.fromkeys(names)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_refused_by_strimzis_own_schemas(findings: dict[str, str | None], mistake: str) -> None:
    """Without this, the test above could pass on validators that take everything."""
    assert findings[mistake] is not None


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_refused_by_our_closed_model(mistake: str) -> None:
    """What Strimzi refuses is refused on a machine without npm, too."""
    with pytest.raises(ValueError, match=r"validation error"):
        strimzi.validate(_broken()[mistake])
