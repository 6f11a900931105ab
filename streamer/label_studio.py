"""Label Studio's webhooks → confirmed labels. A task's data names what is judged, a choice says the verdict.

A task must carry `product_id`, and `alert_id` or `image_sha256` and `text_sha256` (and `release`), as the alert or the
ReviewRequest has them. The labeling interface has `<Choices name="verdict">` with mismatch, match and unsure, and may
have a `field`, as choices or as text. Annotations that are skipped or deleted say nothing.

Source: https://labelstud.io/guide/webhook_reference
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
from aiohttp import web

from streamer.errors import RejectedEvent
from streamer.reviews import ConfirmedLabel, check_record, parse_label
from streamer.wire import encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

log = structlog.get_logger(__name__)

PATH: Final = "/label-studio"
SOURCE: Final = "label-studio"
MAX_BODY_BYTES: Final = 4 * 2**20

_ACTIONS: Final = frozenset({"ANNOTATION_CREATED", "ANNOTATION_UPDATED"})
_NAMED: Final = ("product_id", "alert_id", "image_sha256", "text_sha256", "release")


class _Annotation(msgspec.Struct):
    id: int
    result: list[dict[str, Any]]
    completed_by: int | dict[str, Any] | None = None
    updated_at: str | None = None
    created_at: str | None = None
    was_cancelled: bool = False


class _Task(msgspec.Struct):
    data: dict[str, Any]


class _Payload(msgspec.Struct):
    action: str
    annotation: _Annotation | None = None
    task: _Task | None = None


def label_of(body: bytes) -> ConfirmedLabel | None:
    """Return the label that a webhook's body says, None where it says none: another action, a skipped task.

    Raises:
        RejectedEvent: webhook_malformed, malformed_event, label_names_no_item.
    """
    try:
        payload = msgspec.json.decode(body, type=_Payload)
    except msgspec.DecodeError as error:
        raise RejectedEvent("webhook_malformed", f"not a webhook of Label Studio: {error}") from error
    annotation = payload.annotation
    if payload.action not in _ACTIONS or annotation is None or annotation.was_cancelled:
        return None
    if payload.task is None:
        raise RejectedEvent("webhook_malformed", "it has no task: turn on `Send payload` for the webhook")
    moment = annotation.updated_at or annotation.created_at
    said = {
        "label_id": f"{SOURCE}:{annotation.id}:{moment}",
        "verdict": _chosen(annotation.result, "verdict"),
        "field": _chosen(annotation.result, "field"),
        "reviewer": f"{SOURCE}:{_reviewer(annotation.completed_by)}",
        "labeled_at": moment,
        "source": SOURCE,
        **{name: payload.task.data.get(name) for name in _NAMED},
    }
    return parse_label(msgspec.json.encode({name: value for name, value in said.items() if value is not None}))


def _chosen(result: list[dict[str, Any]], name: str) -> Any:  # noqa: ANN401 - checked by the contract
    """Return the first choice, or the first text, of the control of that name."""
    for region in result:
        value = region.get("value")
        if region.get("from_name") == name and isinstance(value, dict):
            for kind in ("choices", "text"):
                given = value.get(kind)
                if given:
                    return given[0] if isinstance(given, list) else given
    return None


def _reviewer(completed_by: int | dict[str, Any] | None) -> object:
    """Return the user's number: mail addresses have no place in a data set."""
    return completed_by.get("id") if isinstance(completed_by, dict) else completed_by


class Webhook:
    """Serves the webhook; an annotation is answered when the broker has its label.

    Args:
        secret: what the header `Authorization: Bearer …` must have.
        publish: returns when the broker has the record.
        topic: of confirmed labels.
        clock: the time, with a zone.
    """

    def __init__(
        self,
        *,
        secret: str,
        publish: Callable[[str, bytes | None, bytes], Awaitable[None]],
        topic: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._expected = f"Bearer {secret}".encode()
        self._publish = publish
        self._topic = topic
        self._clock = clock
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post(PATH, self._receive)
        self._runner = web.AppRunner(app, access_log=None)
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes any that is free, `port` then says which."""
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Answer what has come, and end."""
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), self._expected):
            return web.Response(status=401, text="the webhook needs the header `Authorization: Bearer SECRET`\n")
        try:
            record = self._record(await request.read())
        except RejectedEvent as error:
            log.warning("label.refused", reason=error.code, message=str(error))
            return web.Response(status=422, text=f"{error.code}: {error}\n")
        if record is None:
            return web.Response(status=204)
        await self._publish(self._topic, *record)
        return web.Response(status=200, text="recorded\n")

    def _record(self, body: bytes) -> tuple[bytes, bytes] | None:
        """Return key and value of the label that a body says, checked as the worker that reads it will.

        Raises:
            RejectedEvent: as `label_of`; labeled_in_future.
        """
        label = label_of(body)
        if label is None:
            return None
        key = label.product_id.encode()
        check_record(label, key, self._clock())
        return key, encode(label)
