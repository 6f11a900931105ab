"""The AsyncAPI document says what the contracts are, is valid, and a change that breaks somebody is found."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import orjson
import pytest

from streamer import topics
from streamer.cli import main
from streamer.contracts import document
from streamer.settings import TopicSettings
from streamer.wire import REPLAYED_FROM
from tests.contract.compatibility import breaking

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs/asyncapi.json"
RELEASED = json.loads((Path(__file__).parent / "released.asyncapi.json").read_text())
GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))
PARSER = Path(sys.prefix) / "asyncapi/node_modules/@asyncapi/parser"
NOT_IN_A_TOPIC = {"scored-item"}  # lies in the evidence store

Json = dict[str, Any]


def test_committed_document_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails: `streamer contracts > docs/asyncapi.json`, and look at what has changed."""
    with pytest.raises(SystemExit, match="0"):
        main(["contracts"])
    assert capsys.readouterr().out == COMMITTED.read_text()


def test_document_has_every_topic() -> None:
    """With a message and somebody who sends or receives it."""
    channels = document()["channels"]
    assert set(channels) == {spec.name for spec in topics.specs(TopicSettings())}
    used = {operation["channel"]["$ref"].rpartition("/")[2] for operation in document()["operations"].values()}
    assert used == set(channels)


# -- valid


MISTAKES: dict[str, tuple[tuple[str, ...], object]] = {
    "misspelt field": (("channels", "product-updates", "misspelt"), 1),
    "unknown action": (("operations", "scoreProduct", "action"), "take"),
    "reference to nothing": (("operations", "scoreProduct", "channel", "$ref"), "#/channels/nowhere"),
    "payload of no type": (("components", "schemas", "ProductUpdate", "type"), "objekt"),
    "binding of another type": (("channels", "product-updates", "bindings", "kafka", "partitions"), "many"),
}


@pytest.fixture(scope="module")
def findings() -> dict[str, list[str]]:
    """What the official parser finds in the document, and with each mistake: in one process, which takes seconds."""
    node = shutil.which("node")
    if node is None or not PARSER.exists():
        pytest.skip("no AsyncAPI parser: `make asyncapi`, where npm is")
    given = {"as it is": document()} | {name: _changed(document(), *mistake) for name, mistake in MISTAKES.items()}
    command = [node, ROOT / "tests/contract/validate.mjs", PARSER]
    done = subprocess.run(command, input=orjson.dumps(given), check=True, capture_output=True, timeout=120)
    found: dict[str, list[str]] = orjson.loads(done.stdout)
    return found


def test_document_is_valid_by_the_official_parser(findings: dict[str, list[str]]) -> None:
    """Of the AsyncAPI initiative: the document's schema, its references, its payloads' schemas."""
    assert findings["as it is"] == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_broken_document_is_refused_by_the_official_parser(findings: dict[str, list[str]], mistake: str) -> None:
    """Without this, the test above could pass on a parser that takes everything."""
    assert findings[mistake] != []


def _payload(golden: Path) -> tuple[Json, Json]:
    """Return what stands in a golden file, and the schema that its contract has in the document."""
    given, names = json.loads(golden.read_text()), document()["components"]["schemas"]
    (name,) = (name for name in names if golden.stem.startswith(_dashed(name)))
    return given, {"$ref": f"#/components/schemas/{name}", "components": {"schemas": names}}


def _dashed(name: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")


PAYLOADS = [path for path in GOLDEN if path.stem not in NOT_IN_A_TOPIC]


@pytest.mark.parametrize("golden", PAYLOADS, ids=lambda path: path.stem)
def test_golden_file_obeys_its_schema_in_the_document(golden: Path) -> None:
    """And does no more once its required fields are gone, or hold another type."""
    given, schema = _payload(golden)
    validator = jsonschema.Draft7Validator(schema, format_checker=jsonschema.FormatChecker())
    validator.validate(given)
    required = schema["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["required"]
    for name in required:
        assert not validator.is_valid({field: value for field, value in given.items() if field != name})
        assert not validator.is_valid(given | {name: {"another": "type"}})


# -- changes


def _changed(given: Json, path: tuple[str | int, ...], value: object) -> Json:
    """Return the document with something else at a place; a function is given what is there."""
    changed = copy.deepcopy(given)
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value(place.get(path[-1])) if callable(value) else value
    return changed


def _schema(contract: str, *path: str | int) -> tuple[str | int, ...]:
    return ("components", "schemas", contract, *path)


def _field(contract: str, *path: str | int) -> tuple[str | int, ...]:
    return _schema(contract, "properties", *path)


def _message(name: str, *path: str | int) -> tuple[str | int, ...]:
    return ("components", "messages", name, *path)


def _without(name: str) -> Callable[[Any], Any]:
    return lambda there: (
        {key: value for key, value in there.items() if key != name}
        if isinstance(there, dict)
        else [value for value in there if value != name]
    )


def _and(*names: Any) -> Callable[[list[Any]], list[Any]]:  # noqa: ANN401 - JSON
    return lambda there: [*there, *names]


def _with(name: str) -> Callable[[Json], Json]:
    return lambda there: there | {name: {"type": "string"}}


STRING: Json = {"type": "string"}
NULLABLE: Json = {"anyOf": [STRING, {"type": "null"}]}
BREAKS: dict[str, tuple[tuple[str | int, ...], object, str]] = {
    "input field removed": (_schema("ProductUpdate", "properties"), _without("brand"), "field brand is gone"),
    "output field removed": (_schema("ProductScore", "properties"), _without("release"), "field release is gone"),
    "nested field removed": (_schema("Contradiction", "properties"), _without("share"), "field share is gone"),
    "input field retyped": (_field("ProductUpdate", "deleted"), STRING, "boolean is not"),
    "output field retyped": (_field("DeadLetter", "attempts"), STRING, "string is not"),
    "input field required": (_schema("ConfirmedLabel", "required"), _and("field"), "field: may be missing"),
    "output field optional": (_schema("MismatchAlert", "required"), _without("subject"), "subject: may be missing"),
    "input enum narrowed": (_field("ConfirmedLabel", "verdict", "enum"), _without("unsure"), "['unsure']"),
    "output enum widened": (_field("MismatchAlert", "type", "enum"), _and("x.y"), "['x.y']"),
    "both: enum widened": (_field("ProductScore", "outcome", "enum"), _and("late"), "['late']"),
    "both: enum narrowed": (_field("ProductScore", "outcome", "enum"), _without("deleted"), "['deleted']"),
    "output enum opened": (_field("MismatchData", "reason"), STRING, "string is not among"),
    "input null refused": (_field("ProductUpdate", "title", "anyOf"), lambda _: [STRING], "null is not"),
    "output null new": (_field("MismatchAlert", "id"), NULLABLE, "null is not"),
    "input shorter": (_field("ProductUpdate", "id", "maxLength"), 64, "maxLength 256 is not 64"),
    "input longer at least": (_field("ConfirmedLabel", "source", "minLength"), 2, "minLength 1 is not 2"),
    "input bounded": (_field("ProductUpdate", "additional_image_link", "minItems"), 1, "minItems"),
    "input pattern": (_field("ProductUpdate", "id", "pattern"), "^[a-z]+$", "pattern None"),
    "input number whole": (_field("ProductUpdate", "price", "anyOf", 1, "type"), "integer", "number is not"),
    "input map narrowed": (_field("ProductUpdate", "attributes", "additionalProperties"), STRING, "boolean is"),
    "output time untold": (_field("DeadLetter", "rejected_at"), STRING, "format None is not date-time"),
    "items retyped": (_field("ProductUpdate", "additional_image_link", "items", "type"), "integer", "string is"),
    "tuple changed": (_field("DeadLetter", "headers", "items", "items"), lambda _: [STRING] * 2, "items"),
    "schema version": (_field("ProductUpdate", "schema_version", "const"), 2, "[1] is not among [2]"),
    "topic renamed": (("channels", "product-updates", "address"), "updates", "topic is called updates"),
    "topic dropped": (("channels",), _without("dead-letters"), "channel dead-letters is gone"),
    "operation dropped": (("operations",), _without("rejectRecord"), "operation rejectRecord is gone"),
    "tombstones dropped": (("channels", "product-updates", "messages"), _without("ProductTombstone"), "gone"),
    "another key": (_message("ProductScore", "bindings", "kafka", "key", "description"), "shop", "key"),
    "header": (_message("ProductUpdate", "headers", "properties", REPLAYED_FROM, "type"), "integer", "string is"),
}  # fmt: skip
HARMLESS: dict[str, tuple[tuple[str | int, ...], object]] = {
    "input field new": (_schema("ProductUpdate", "properties"), _with("season")),
    "output field new": (_schema("ProductScore", "properties"), _with("shadow")),
    "output field new and always there": (_schema("DeadLetter", "required"), _and("season")),
    "input no longer required": (_schema("ConfirmedLabel", "required"), _without("source")),
    "input enum widened": (_field("ConfirmedLabel", "verdict", "enum"), _and("later")),
    "output enum narrowed": (_field("MismatchAlert", "type", "enum"), _without("catalogue.mismatch.opened")),
    "input longer": (_field("ProductUpdate", "id", "maxLength"), 512),
    "output shorter": (_field("ReviewRequest", "text", "maxLength"), 100),
    "output number whole": (_field("ReviewRequest", "probability", "type"), "integer"),
    "described": (_schema("ProductUpdate", "description"), "Another description."),
    "topic new": (("channels",), lambda there: there | {"new": there["dead-letters"] | {"address": "new"}}),
}  # fmt: skip


def test_contracts_break_nobody_who_lives_with_the_released_ones() -> None:
    """If this fails, give the contract a new version beside the old one; see CONTRIBUTING.md."""
    assert breaking(RELEASED, document()) == []


@pytest.mark.parametrize(("path", "value", "told"), BREAKS.values(), ids=BREAKS.keys())
def test_change_that_breaks_somebody_is_told(path: tuple[str | int, ...], value: object, told: str) -> None:
    """With the field it is about."""
    found = breaking(RELEASED, _changed(RELEASED, path, value))
    assert any(told in each for each in found), found


@pytest.mark.parametrize(("path", "value"), HARMLESS.values(), ids=HARMLESS.keys())
def test_change_that_breaks_nobody_passes(path: tuple[str | int, ...], value: object) -> None:
    """Who writes goes on as before, who reads ignores what they do not know."""
    assert breaking(RELEASED, _changed(RELEASED, path, value)) == []
