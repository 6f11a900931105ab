"""A product that was scored and what a person says of it, for tests of the review loop."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from streamer.reviews import ConfirmedLabel, ScoredItem, item_id
from streamer.wire import SourcePosition

PICTURE = b"the bytes of a picture"
IMAGE_SHA256 = hashlib.sha256(PICTURE).hexdigest()
TEXT_SHA256 = hashlib.sha256(b"title: Blue mug").hexdigest()
RELEASE = "fusion-0123456789ab"


def item(product_id: str = "mug-blue", picture: bytes = PICTURE, **changes: object) -> ScoredItem:
    """Return what was scored of a product; `changes` replace fields."""
    image = hashlib.sha256(picture).hexdigest()
    fields: dict[str, object] = {
        "item_id": item_id(product_id, image, TEXT_SHA256, str(changes.get("release", RELEASE))),
        "product_id": product_id,
        "order": 7,
        "item_group_id": "mug",
        "category": "Kitchen",
        "title": "Blue mug",
        "text": "title: Blue mug",
        "fields": {"title": "Blue mug"},
        "columns": {"title": "Blue mug", "price": 9.9, "care": ["no oven"]},
        "image_url": "https://cdn.example/mug.jpg",
        "image_sha256": image,
        "text_sha256": TEXT_SHA256,
        "logit": 2.5,
        "probability": 0.9375,
        "threshold": 0.5,
        "release": RELEASE,
        "scored_at": datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC),
        "source": SourcePosition(topic="product-updates", partition=3, offset=41),
        "sampled": "alert",
        "sampling_probability": 1.0,
    }
    return ScoredItem(**(fields | changes))  # type: ignore[arg-type]


def label(scored: ScoredItem, **changes: object) -> ConfirmedLabel:
    """Return a person's verdict on it; `changes` replace fields."""
    fields: dict[str, object] = {
        "label_id": "1",
        "product_id": scored.product_id,
        "image_sha256": scored.image_sha256,
        "text_sha256": scored.text_sha256,
        "release": scored.release,
        "verdict": "mismatch",
        "field": "color",
        "reviewer": "ana",
        "labeled_at": datetime(2026, 3, 2, 9, 0, 0, tzinfo=UTC),
        "source": "review-desk",
    }
    return ConfirmedLabel(**(fields | changes))  # type: ignore[arg-type]


ITEM = item()
LABEL = label(ITEM)
