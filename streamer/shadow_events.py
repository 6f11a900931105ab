"""The wire contracts of a shadow, version 1: a challenger that scores a share of the traffic, and alerts nobody.

    engine-releases    ShadowRelease   under the key `shadow`; a null value there ends the trial
    shadow-scores      ShadowScore     one for each product that champion and challenger have both scored

JSON as in `streamer.wire`; golden files in `tests/contract/golden/` pin the bytes.
"""

from __future__ import annotations

import hashlib
from datetime import datetime  # noqa: TC003 - msgspec reads the annotations
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from streamer.events import ReleaseName  # noqa: TC001 - msgspec reads the annotations
from streamer.wire import SCHEMA_VERSION, Sha256, SourcePosition, parse

SHADOW_SCORES = "shadow-scores"

SHADOW_KEY = b"shadow"
"""No release has this name, so compaction keeps the last trial beside the last announcement of each release."""

Share = Annotated[float, Meta(gt=0, le=1)]

Agreement = Literal["both", "neither", "opens", "closes"]
"""Who alerts. `opens`: the challenger would and the champion does not; `closes`: the other way round."""

AGREEMENTS: tuple[Agreement, ...] = ("both", "neither", "opens", "closes")


class ShadowRelease(msgspec.Struct, frozen=True, kw_only=True):
    """An announcement: workers let `release` score this share of the products beside the one that runs.

    `share`, above 0 up to 1, is of product ids: a larger one takes the same products and more. The release is fetched
    and verified as one that is promoted.
    """

    schema_version: int = SCHEMA_VERSION
    release: ReleaseName
    manifest_sha256: Sha256
    share: Share
    announced_at: datetime
    announced_by: str
    reason: str | None = None


class Opinion(msgspec.Struct, frozen=True, kw_only=True):
    """What one release makes of a product."""

    release: str
    logit: float
    probability: float
    threshold: float

    @property
    def alerts(self) -> bool:
        return self.probability >= self.threshold


class ShadowScore(msgspec.Struct, frozen=True, kw_only=True):
    """Two opinions of one picture and text. Key: product id; `source` is that of the champion's score."""

    schema_version: int = SCHEMA_VERSION
    product_id: str
    order: int | None
    category: str | None
    source: SourcePosition
    scored_at: datetime
    champion: Opinion
    challenger: Opinion

    @property
    def agreement(self) -> Agreement:
        """Who of the two alerts."""
        if self.champion.alerts == self.challenger.alerts:
            return "both" if self.champion.alerts else "neither"
        return "closes" if self.champion.alerts else "opens"


def is_shadowed(product_id: str, share: float) -> bool:
    """Whether the product is of this share: the same answer in every worker, whatever the release."""
    digest = hashlib.sha256(b"shadow/" + product_id.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def parse_shadow_release(value: bytes) -> ShadowRelease:
    """Return the announcement that stands in these bytes.

    Raises:
        RejectedEvent: malformed_json, malformed_event, schema_unsupported.
    """
    return parse(value, ShadowRelease)


def parse_shadow_score(value: bytes) -> ShadowScore:
    """Return the opinions that stand in these bytes.

    Raises:
        RejectedEvent: malformed_json, malformed_event, schema_unsupported.
    """
    return parse(value, ShadowScore)
