"""What a KafkaTopic and a KafkaUser of Strimzi may hold: the parts in use, closed.

Another field is refused, also one that Strimzi knows and nobody here needed so far: its CRDs drop what they do not
know. The CRDs themselves are asked in `test_strimzi`, where npm is.

Source: packaging/install/cluster-operator/043-Crd-kafkatopic.yaml and 044-Crd-kafkauser.yaml of Strimzi 1.0.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Metadata(BaseModel):
    name: str
    namespace: str
    labels: Annotated[dict[str, str], Field(min_length=1)]


class _TopicSpec(_Closed):
    partitions: Annotated[int, Field(ge=1)]
    replicas: Annotated[int, Field(ge=1, le=32767)]
    config: dict[str, str | int | bool]


class KafkaTopic(_Closed):
    """A topic; its config is open in Strimzi's own schema."""

    apiVersion: Literal["kafka.strimzi.io/v1"]  # noqa: N815 - as it is written
    kind: Literal["KafkaTopic"]
    metadata: _Metadata
    spec: _TopicSpec


class _Scram(_Closed):
    type: Literal["scram-sha-512", "tls", "tls-external"]


class _Resource(_Closed):
    type: Literal["topic", "group", "cluster", "transactionalId"]
    name: str | None = None
    patternType: Literal["literal", "prefix"] = "literal"  # noqa: N815


class _Rule(_Closed):
    type: Literal["allow", "deny"] = "allow"
    resource: _Resource
    host: str = "*"
    operations: list[
        Literal[
            "Read", "Write", "Create", "Delete", "Alter", "Describe",
            "ClusterAction", "AlterConfigs", "DescribeConfigs", "IdempotentWrite", "All",
        ]
    ]  # fmt: skip


class _Acls(_Closed):
    type: Literal["simple"]
    acls: list[_Rule]


class _UserSpec(_Closed):
    authentication: _Scram
    authorization: _Acls


class KafkaUser(_Closed):
    """A user, how it says who it is, and what it may do."""

    apiVersion: Literal["kafka.strimzi.io/v1"]  # noqa: N815
    kind: Literal["KafkaUser"]
    metadata: _Metadata
    spec: _UserSpec


MODELS: dict[str, type[BaseModel]] = {"KafkaTopic": KafkaTopic, "KafkaUser": KafkaUser}


def validate(resource: dict[str, Any]) -> None:
    """Check a topic or a user.

    Raises:
        ValueError: it breaks its schema.
    """
    MODELS[resource["kind"]].model_validate(resource)
