"""The wire contracts as one AsyncAPI 3 document, made of the types that read and write them. Pure.

`streamer contracts` prints it; `docs/asyncapi.json` is what it printed last, and a test compares. Topics have their
default names here. What is read says what must be given, what is written what is always there.

Source: https://www.asyncapi.com/docs/reference/specification/v3.0.0, and version 0.5.0 of its Kafka bindings.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from streamer import __version__, reviews, topics
from streamer.events import CLOUD_EVENT, DeadLetter, EngineRelease, MismatchAlert, ProductScore, Redecision
from streamer.settings import BrokerSettings, LabelSettings, TopicSettings
from streamer.shadow_events import SHADOW_KEY, ShadowRelease, ShadowScore
from streamer.tracing import CARRIED
from streamer.updates import ProductUpdate
from streamer.wire import REPLAYED_FROM, SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from streamer.topics import TopicSpec

Json = dict[str, Any]
Action = Literal["send", "receive"]

_BINDINGS_VERSION = "0.5.0"
_SCHEMAS = "#/components/schemas/"
_SCORER, _LABELER = BrokerSettings().group, LabelSettings().group


@dataclass(frozen=True)
class _Operation:
    """What the application does with a topic; `group` is the consumer group that receives."""

    name: str
    action: Action
    summary: str
    group: str | None = None


@dataclass(frozen=True)
class _Channel:
    """A topic: what stands in it and by what that is keyed, what a null value says, and who does what with it."""

    contracts: dict[type[msgspec.Struct], str]
    operations: tuple[_Operation, ...]
    null: tuple[str, str] | None = None

    @property
    def written(self) -> bool:
        return any(operation.action == "send" for operation in self.operations)


def _channels(names: TopicSettings) -> dict[str, _Channel]:
    """Return the channels by topic: a new topic or a new reader of one belongs here."""
    send: Action = "send"
    receive: Action = "receive"
    return {
        names.updates: _Channel(
            {ProductUpdate: "the product's id"},
            (_Operation("scoreProduct", receive, "Score the product; every record has exactly one outcome.", _SCORER),),
            null=("ProductTombstone", "The product that the key names is gone."),
        ),
        names.scores: _Channel(
            {ProductScore: "the product's id"},
            (
                _Operation("recordOutcome", send, "Record the outcome of an update that was not rejected."),
                _Operation("decideAlert", receive, "Decide whether an alert opens, changes or resolves.", _SCORER),
            ),
        ),
        names.alerts: _Channel(
            {MismatchAlert: "the product's id"}, (_Operation("publishAlert", send, "Tell that a picture is wrong."),)
        ),
        names.dead_letters: _Channel(
            {DeadLetter: "the rejected record's own key"},
            (_Operation("rejectRecord", send, "Keep a record that could not be taken, and why."),),
        ),
        names.redecisions: _Channel(
            {Redecision: "the product's id"},
            (
                _Operation("askForRedecision", send, "Ask the product's owner to look at its alert again."),
                _Operation("redecideAlert", receive, "Decide by the stored score and the release that runs.", _SCORER),
            ),
        ),
        names.shadow_scores: _Channel(
            {ShadowScore: "the product's id"},
            (
                _Operation("publishOpinions", send, "Tell what champion and challenger make of a product."),
                _Operation("compareOpinions", receive, "Sum up where they differ: `streamer releases compare`."),
            ),
        ),
        names.reviews: _Channel(
            {reviews.ReviewRequest: "the product's id"},
            (_Operation("askPeople", send, "Ask about a product that did not alert."),),
        ),
        names.labels: _Channel(
            {reviews.ConfirmedLabel: "the product's id"},
            (_Operation("recordVerdict", receive, "Record what a person says, in the data set.", _LABELER),),
            null=("ProductErasure", "Erase what is kept of the product that the key names."),
        ),
        names.releases: _Channel(
            {EngineRelease: "the release", ShadowRelease: f"`{SHADOW_KEY.decode()}`"},
            (
                _Operation("announceRelease", send, "Say which engine runs, or is tried: `streamer releases`."),
                _Operation("swapEngine", receive, "Put the announced engine to work, between two batches."),
            ),
            null=("ReleaseTakenBack", "The announcement that the key names counts no more."),
        ),
    }


def document() -> Json:
    """Return the AsyncAPI document of this version's contracts."""
    names = TopicSettings()
    specs = {spec.name: spec for spec in topics.specs(names)}
    channels = _channels(names)
    return {
        "asyncapi": "3.0.0",
        "id": "urn:mismatch-streamer",
        "info": {
            "title": "mismatch-streamer",
            "version": __version__,
            "description": "Finds products whose picture does not show what their text says, as the catalogue changes.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": _SERVERS,
        "channels": {topic: _channel(specs[topic], channel) for topic, channel in channels.items()},
        "operations": {
            operation.name: _operation(topic, operation)
            for topic, channel in channels.items()
            for operation in channel.operations
        },
        "components": {
            "messages": {message: body for channel in channels.values() for message, body in _messages(channel)},
            "schemas": _schemas(channels.values()),
            "securitySchemes": {"scram": {"type": "scramSha512", "description": "SASL over TLS"}},
        },
    }


_SERVERS: Json = {
    "plain": {
        "host": "{bootstrap}",
        "protocol": "kafka",
        "variables": {"bootstrap": {"default": BrokerSettings().bootstrap, "description": "any broker of the cluster"}},
    },
    "secure": {
        "host": "{bootstrap}",
        "protocol": "kafka-secure",
        "variables": {"bootstrap": {"default": "kafka:9093", "description": "any broker of the cluster"}},
        "security": [{"$ref": "#/components/securitySchemes/scram"}],
    },
}


def _channel(spec: TopicSpec, channel: _Channel) -> Json:
    config: Json = {"cleanup.policy": [spec.config["cleanup.policy"]]}
    config |= {name: int(spec.config[name]) for name in ("retention.ms", "max.message.bytes") if name in spec.config}
    return {
        "address": spec.name,
        "description": spec.role.partition(": ")[2].capitalize() + ".",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name, _ in _messages(channel)},
        "bindings": {
            "kafka": {
                "topic": spec.name,
                "partitions": spec.partitions,
                "topicConfiguration": config,
                "bindingVersion": _BINDINGS_VERSION,
            }
        },
    }


def _operation(topic: str, operation: _Operation) -> Json:
    body: Json = {
        "action": operation.action,
        "summary": operation.summary,
        "channel": {"$ref": f"#/channels/{topic}"},
    }
    if operation.group is not None:
        group = {"groupId": {"type": "string", "enum": [operation.group]}, "bindingVersion": _BINDINGS_VERSION}
        body["bindings"] = {"kafka": group}
    return body


def _messages(channel: _Channel) -> Iterator[tuple[str, Json]]:
    """Yield the messages of a channel by name: its contracts, and what a null value says."""
    for contract, key in channel.contracts.items():
        yield contract.__name__, _message(contract) | {"headers": _headers(contract), "bindings": _key(key)}
    if channel.null is not None:
        name, summary = channel.null
        bindings = _key(next(iter(channel.contracts.values())))
        yield name, {"name": name, "summary": summary, "payload": {"type": "null"}, "bindings": bindings}


def _message(contract: type[msgspec.Struct]) -> Json:
    name = contract.__name__
    summary, _, description = inspect.cleandoc(contract.__doc__ or "").partition("\n\n")
    body: Json = {"name": name, "title": name, "summary": summary, "payload": {"$ref": f"{_SCHEMAS}{name}"}}
    if description:
        body["description"] = description
    if contract is MismatchAlert:
        body["contentType"] = "application/cloudevents+json"
    return body


def _key(described: str) -> Json:
    return {"kafka": {"key": {"type": "string", "description": described}, "bindingVersion": _BINDINGS_VERSION}}


def _headers(contract: type[msgspec.Struct]) -> Json:
    """Return the headers of a contract's messages; none is ever required."""
    described: dict[str, str] = dict.fromkeys(CARRIED, "W3C Trace Context, of whoever traces")
    if contract is ProductUpdate:
        described[REPLAYED_FROM] = "TOPIC/PARTITION/OFFSET where the update first stood, of one that is published again"
    if contract is MismatchAlert:
        described[CLOUD_EVENT[0]] = f"{CLOUD_EVENT[1].decode()}: the value is the whole CloudEvent"
    fields = {name: {"type": "string", "description": text} for name, text in described.items()}
    return {"type": "object", "properties": fields}


# -- payloads


def _schemas(channels: Iterable[_Channel]) -> dict[str, Json]:
    """Return the JSON schema (draft 07, as AsyncAPI takes it) of each contract and of what they are made of."""
    schemas: dict[str, Json] = {}
    for channel in channels:
        _, parts = msgspec.json.schema_components(list(channel.contracts), ref_template=_SCHEMAS + "{name}")
        for contract in chain.from_iterable(map(_structs, channel.contracts)):
            schemas[contract.__name__] = _schema(parts[contract.__name__], contract, written=channel.written)
    return schemas


def _structs(contract: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    """Yield the contract and the structs inside of it."""
    yield contract
    for field in msgspec.structs.fields(contract):
        for part in _parts(field.type):
            if isinstance(part, type) and issubclass(part, msgspec.Struct):
                yield from _structs(part)


def _parts(annotation: Any) -> Iterator[Any]:  # noqa: ANN401 - any annotation
    """Yield the types that an annotation is made of."""
    yield annotation
    for argument in get_args(annotation):
        yield from _parts(argument)


def _schema(schema: Json, contract: type[msgspec.Struct], *, written: bool) -> Json:
    """Return msgspec's schema of a contract with what only its types tell."""
    properties: dict[str, Json] = schema["properties"]
    fields = {field.encode_name: set(map(_hashable, _parts(field.type))) for field in msgspec.structs.fields(contract)}
    for name, types in fields.items():
        properties[name] = _draft_07(properties[name], is_time=datetime in types)
    if "schema_version" in properties:
        properties["schema_version"]["const"] = SCHEMA_VERSION
    if written:
        schema["required"] = [name for name, types in fields.items() if msgspec.UnsetType not in types]
        for each in properties.values():
            each.pop("default", None)
    schema["description"] = inspect.cleandoc(contract.__doc__ or "")
    return schema


def _hashable(annotation: Any) -> Any:  # noqa: ANN401 - any annotation
    return annotation if isinstance(annotation, type) else repr(annotation)


def _draft_07(schema: Json, *, is_time: bool) -> Json:
    """Return a field's schema in the draft's words: tuples as a list of items, times by their format."""
    schema = {name: value for name, value in schema.items() if name != "prefixItems"} | (
        {"items": schema["prefixItems"], "additionalItems": False} if "prefixItems" in schema else {}
    )
    if is_time and schema.get("type") == "string":
        schema["format"] = "date-time"
    if "anyOf" in schema:
        schema["anyOf"] = [_draft_07(each, is_time=is_time) for each in schema["anyOf"]]
    if isinstance(schema.get("items"), dict):
        schema["items"] = _draft_07(schema["items"], is_time=False)
    return schema
