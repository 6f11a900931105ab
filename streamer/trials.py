"""A challenger is put beside the release that runs, and what came of it is read.

a release → checked as for a promotion → announced under `shadow` → scorers try it → shadow-scores → compared
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from streamer import topics
from streamer.announcements import announce_shadow, open_announcements
from streamer.comparison import Comparison, compare
from streamer.errors import FatalError, RejectedEvent
from streamer.shadow_events import ShadowRelease, ShadowScore, parse_shadow_score
from streamer.topic_log import open_topic_log

if TYPE_CHECKING:
    from streamer.promotion import Checked
    from streamer.settings import Settings
    from streamer.topic_log import Watch

MAX_RECORD_BYTES = 2**20


async def begin(settings: Settings, checked: Checked, *, share: float, by: str, reason: str | None) -> ShadowRelease:
    """Announce the trial of a release that was checked; it takes the place of the one before, if there is one.

    Raises:
        FatalError: runs_already, topics_missing, or as `streamer.announcements.announce`.
    """
    name = checked.stored.manifest.release
    async with topics.admin(settings.broker) as client:
        if settings.topics.shadow_scores not in await topics.describe(client):
            raise FatalError(
                "topics_missing", f"no {settings.topics.shadow_scores} on the broker: run `streamer topics create`"
            )
    async with open_announcements(settings.broker, settings.topics.releases) as announced:
        if announced.newest is not None and announced.newest.release == name:
            raise FatalError("runs_already", f"{name} is what runs: there is nothing to compare it with")
    shadow = ShadowRelease(
        release=name,
        manifest_sha256=checked.stored.manifest_sha256,
        share=share,
        announced_at=datetime.now(UTC),
        announced_by=by,
        reason=reason,
    )
    await announce_shadow(settings.broker, settings.topics.releases, shadow)
    return shadow


async def end(settings: Settings) -> ShadowRelease | None:
    """Announce the end of the trial; return the one that runs, None where none does.

    Raises:
        FatalError: as `streamer.announcements.announce`.
    """
    async with open_announcements(settings.broker, settings.topics.releases) as announced:
        running = announced.shadow
    if running is not None:
        await announce_shadow(settings.broker, settings.topics.releases, None)
    return running


async def running(settings: Settings) -> ShadowRelease | None:
    """Return the trial that is announced.

    Raises:
        FatalError: as `streamer.announcements.open_announcements`.
    """
    async with open_announcements(settings.broker, settings.topics.releases) as announced:
        return announced.shadow


async def read(settings: Settings, *, release: str | None, since: datetime | None, watch: Watch) -> list[Comparison]:
    """Return what challengers have said since that time, compared; `release`: of one challenger only.

    Raises:
        FatalError: topics_missing, broker_unreachable, broker_unauthorized, broker_refused.
    """
    found: list[ShadowScore] = []
    async with open_topic_log(settings.broker, settings.topics.shadow_scores, max_record_bytes=MAX_RECORD_BYTES) as log:
        async for record in log.read(since, watch):
            try:
                score = parse_shadow_score(record.value or b"")
            except RejectedEvent:
                continue  # whatever else somebody has written there
            if release is None or score.challenger.release == release:
                found.append(score)
    return compare(found)
