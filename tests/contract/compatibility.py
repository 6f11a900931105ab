"""Which changes from one AsyncAPI document to the next break somebody: field by field, in words.

Who writes what the application receives must be able to go on as they do: all that was accepted is accepted still. Who
reads what it sends likewise: nothing comes that could not come before. A field that is gone or renamed breaks both,
though JSON would let it pass. New optional fields break nobody: unknown ones are to be ignored.

Knows the words of JSON schema that msgspec writes, and refuses others. A checker from a registry would say yes or no;
who owns a contract needs to know which field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]

_SILENT = {"title", "description", "default", "additionalItems"}
_KNOWN = _SILENT | {
    *("$ref", "anyOf", "type", "const", "enum", "format", "pattern"),
    *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"),
    *("properties", "required", "additionalProperties", "items"),
}
_LOWER, _UPPER = ("minimum", "minLength", "minItems"), ("maximum", "maxLength", "maxItems")


def breaking(old: Json, new: Json) -> list[str]:
    """Return what of the new document breaks those who live with the old one."""
    found = list(_gone("operation", old["operations"], new["operations"]))
    found += _gone("channel", old["channels"], new["channels"])
    for topic in old["channels"].keys() & new["channels"].keys():
        before, after = old["channels"][topic], new["channels"][topic]
        if before["address"] != after["address"]:
            found.append(f"{topic}: its topic is called {after['address']}, not {before['address']}")
        found += _gone(f"{topic}: message", before["messages"], after["messages"])
        actions = {each["action"] for each in old["operations"].values() if each["channel"]["$ref"].endswith(topic)}
        for message in before["messages"].keys() & after["messages"].keys():
            found += _message(message, _Side(old), _Side(new), actions)
    return sorted(set(found))


def _message(name: str, old: _Side, new: _Side, actions: set[str]) -> Iterator[str]:
    before, after = (side.document["components"]["messages"][name] for side in (old, new))
    keys = [message["bindings"]["kafka"]["key"]["description"] for message in (before, after)]
    if keys[0] != keys[1]:
        yield f"{name}: its key is {keys[1]}, not {keys[0]}"
    for part in ("payload", "headers"):
        was, becomes = before.get(part, {"type": "object"}), after.get(part, {"type": "object"})
        if "receive" in actions:
            yield from _refused(name, old.at(was), new.at(becomes))
        if "send" in actions:
            yield from _refused(name, new.at(becomes), old.at(was))
        yield from _fields_gone(name, old.at(was), new.at(becomes))


def _gone(what: str, old: Json, new: Json) -> Iterator[str]:
    yield from (f"{what} {name} is gone" for name in old.keys() - new.keys())


@dataclass(frozen=True)
class _Side:
    """A schema of one of the documents."""

    document: Json
    schema: Any = None

    def at(self, schema: Json) -> _Side:
        """Return a schema of the same document, what it refers to instead of the reference."""
        if "$ref" in schema:
            place: Any = self.document
            for step in schema["$ref"].removeprefix("#/").split("/"):
                place = place[step]
            return self.at(place)
        unknown = schema.keys() - _KNOWN
        assert not unknown, f"what is to be made of {sorted(unknown)}?"
        return _Side(self.document, schema)

    def alternatives(self) -> list[_Side]:
        """Return the schemas of which a value obeys one."""
        if "anyOf" not in self.schema:
            return [self]
        return [each for part in self.schema["anyOf"] for each in self.at(part).alternatives()]

    @property
    def properties(self) -> dict[str, _Side]:
        return {name: self.at(schema) for name, schema in self.schema.get("properties", {}).items()}

    @property
    def values(self) -> list[Any] | None:
        """Return the values that it names, None where it names none."""
        return [self.schema["const"]] if "const" in self.schema else self.schema.get("enum")

    @property
    def kind(self) -> str | None:
        if "type" in self.schema or self.values is None:
            return self.schema.get("type")
        return {str: "string", bool: "boolean", int: "integer"}[type(self.values[0])]


def _fields_gone(path: str, old: _Side, new: _Side) -> Iterator[str]:
    """Yield fields that are no more, however deep."""
    for before in old.alternatives():
        for after in (each for each in new.alternatives() if each.kind == before.kind):
            yield from _gone(f"{path}: field", before.properties, after.properties)
            for name in before.properties.keys() & after.properties.keys():
                yield from _fields_gone(f"{path}.{name}", before.properties[name], after.properties[name])
            if isinstance(before.schema.get("items"), dict) and isinstance(after.schema.get("items"), dict):
                yield from _fields_gone(f"{path}[]", before.at(before.schema["items"]), after.at(after.schema["items"]))


def _refused(path: str, given: _Side, taken: _Side) -> Iterator[str]:
    """Yield in which way a value that `given` may be is not one that `taken` is."""
    for one in given.alternatives():
        tried = [list(_refused_by(path, one, other)) for other in taken.alternatives() if _comparable(one, other)]
        if not tried:
            yield f"{path}: {one.kind} is not expected"
        elif all(tried):
            yield from min(tried, key=len)


def _comparable(given: _Side, taken: _Side) -> bool:
    return taken.kind in (None, given.kind) or (given.kind, taken.kind) == ("integer", "number")


def _refused_by(path: str, given: _Side, taken: _Side) -> Iterator[str]:
    yield from _bounds(path, given.schema, taken.schema)
    for word in ("pattern", "format"):
        if word in taken.schema and taken.schema[word] != given.schema.get(word):
            yield f"{path}: {word} {given.schema.get(word)} is not {taken.schema[word]}"
    if taken.values is not None:
        others = given.kind if given.values is None else [each for each in given.values if each not in taken.values]
        if others:
            yield f"{path}: {others} is not among {taken.values}"
    if given.kind == "object":
        yield from _object(path, given, taken)
    if given.kind == "array":
        yield from _array(path, given, taken)


def _bounds(path: str, given: Json, taken: Json) -> Iterator[str]:
    for words, sign in ((_LOWER, 1), (_UPPER, -1)):
        for word in words:
            if word in taken and (word not in given or sign * given[word] < sign * taken[word]):
                yield f"{path}: {word} {given.get(word)} is not {taken[word]}"


def _object(path: str, given: _Side, taken: _Side) -> Iterator[str]:
    for name in set(taken.schema.get("required", ())) - set(given.schema.get("required", ())):
        yield f"{path}.{name}: may be missing"
    for name in given.properties.keys() & taken.properties.keys():
        yield from _refused(f"{path}.{name}", given.properties[name], taken.properties[name])
    if isinstance(taken.schema.get("additionalProperties"), dict):
        others = given.schema.get("additionalProperties", {})
        yield from _refused(f"{path}.*", given.at(others), taken.at(taken.schema["additionalProperties"]))


def _array(path: str, given: _Side, taken: _Side) -> Iterator[str]:
    ours, theirs = given.schema.get("items", {}), taken.schema.get("items", {})
    if isinstance(ours, dict) and isinstance(theirs, dict):
        yield from _refused(f"{path}[]", given.at(ours), taken.at(theirs))
    elif ours != theirs:
        yield f"{path}[]: its items are others"
