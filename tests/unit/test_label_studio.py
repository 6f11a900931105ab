"""`streamer.label_studio`: annotations become labels, and nobody without the secret writes any."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest

from streamer.errors import RejectedEvent
from streamer.label_studio import PATH, Webhook, label_of
from tests.fakes import Published
from tests.review import IMAGE_SHA256, RELEASE, TEXT_SHA256

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = "a secret"
NOW = datetime(2026, 3, 2, 10, tzinfo=UTC)


def payload(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return a webhook as Label Studio posts it for a new annotation; `changes` are of the annotation."""
    annotation = {
        "id": 17,
        "completed_by": {"id": 5, "email": "ana@shop.example"},
        "result": [
            {
                "id": "x1",
                "from_name": "verdict",
                "to_name": "image",
                "type": "choices",
                "value": {"choices": ["mismatch"]},
            },
            {"id": "x2", "from_name": "field", "to_name": "image", "type": "textarea", "value": {"text": ["color"]}},
        ],
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2026-03-02T09:00:00.000000Z",
        "updated_at": "2026-03-02T09:30:00.000000Z",
        "lead_time": 12.5,
        "task": 3,
    }
    data = {
        "product_id": "mug-blue",
        "image": "https://cdn.example/mug.jpg",
        "image_sha256": IMAGE_SHA256,
        "text_sha256": TEXT_SHA256,
        "release": RELEASE,
    }
    return {
        "action": "ANNOTATION_CREATED",
        "annotation": annotation | changes,
        "task": {"id": 3, "data": data, "is_labeled": True},
        "project": {"id": 1, "title": "alerts"},
    }


def test_annotation_becomes_a_label() -> None:
    """With the user's number and no mail address; the time is that of the last change."""
    label = label_of(orjson.dumps(payload()))
    assert label is not None
    assert (label.product_id, label.image_sha256, label.text_sha256) == ("mug-blue", IMAGE_SHA256, TEXT_SHA256)
    assert (label.verdict, label.field, label.reviewer) == ("mismatch", "color", "label-studio:5")
    assert (label.source, label.labeled_at.minute) == ("label-studio", 30)
    again = label_of(orjson.dumps(payload(updated_at="2026-03-02T10:00:00Z", completed_by=5)))
    assert again is not None
    assert again.reviewer == label.reviewer
    assert again.label_id != label.label_id


@pytest.mark.parametrize(
    "change", [{"annotation": None}, {"action": "TASK_CREATED"}, {"action": "ANNOTATIONS_DELETED"}]
)
def test_webhook_that_says_no_verdict_is_let_pass(change: dict[str, Any]) -> None:
    """Other actions are none of ours."""
    assert label_of(orjson.dumps(payload() | change)) is None


def test_skipped_task_says_no_verdict() -> None:
    """Who skips has not judged."""
    assert label_of(orjson.dumps(payload(was_cancelled=True))) is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "webhook_malformed"),
        (b"[]", "webhook_malformed"),
        (orjson.dumps(payload() | {"task": None}), "webhook_malformed"),
        (orjson.dumps(payload(result=[])), "malformed_event"),
        (orjson.dumps(payload() | {"task": {"data": {"product_id": "p"}}}), "label_names_no_item"),
        (orjson.dumps(payload() | {"task": {"data": {}}}), "malformed_event"),
        (orjson.dumps(payload(updated_at="yesterday")), "malformed_event"),
        (orjson.dumps(payload(result=[{"from_name": "verdict", "value": {"choices": [7]}}])), "malformed_event"),
    ],
)
def test_webhook_that_is_none_is_refused_with_its_code(body: bytes, code: str) -> None:
    """The reason goes back to Label Studio's log."""
    with pytest.raises(RejectedEvent) as caught:
        label_of(body)
    assert caught.value.code == code


@pytest.fixture
async def served() -> AsyncIterator[tuple[str, Published]]:
    """Yield the webhook's URL, and what it publishes."""
    published = Published()
    webhook = Webhook(secret=SECRET, publish=published, topic="confirmed-labels", clock=lambda: NOW)
    await webhook.start("127.0.0.1", 0)
    yield f"http://127.0.0.1:{webhook.port}{PATH}", published
    await webhook.stop()


async def test_webhook_publishes_and_answers(served: tuple[str, Published]) -> None:
    """200 when the broker has the label, 204 where there is none, 422 for what is wrong, 401 without the secret."""
    url, published = served
    headers = {"Authorization": f"Bearer {SECRET}"}
    cases: list[tuple[dict[str, str], bytes, int]] = [
        (headers, orjson.dumps(payload()), 200),
        (headers, orjson.dumps(payload(was_cancelled=True)), 204),
        (headers, b"{", 422),
        (headers, orjson.dumps(payload(updated_at="2026-03-02T11:30:00Z")), 422),
        (headers, b" " * 5 * 2**20, 413),
        ({}, orjson.dumps(payload()), 401),
        ({"Authorization": "Bearer a secreT"}, orjson.dumps(payload()), 401),
        ({"Authorization": "Bearer ü"}, orjson.dumps(payload()), 401),
    ]
    async with aiohttp.ClientSession() as session:
        for given, body, status in cases:
            async with session.post(url, data=io.BytesIO(body), headers=given) as response:
                assert response.status == status
    ((topic, key, label),) = published.records
    assert (topic, key, label["verdict"]) == ("confirmed-labels", b"mug-blue", "mismatch")
