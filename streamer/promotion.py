"""Putting a release to work: published whole, checked, announced; and going back to the one before.

    a directory → verified, loaded, its golden pairs asked → copied into the store → announced
    a release of the store → fetched, verified, loaded, asked → announced

What cannot be loaded here is not announced to scorers. How good a release is, is not asked: `streamer retrain` asked
its gate before, `streamer releases promote` announces what a person has chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from engines import golden, releases
from engines.runtime import loader
from engines.store import ReleaseStore, Stored
from streamer.announcements import Announcements, announce, open_announcements
from streamer.errors import FatalError
from streamer.events import EngineRelease

if TYPE_CHECKING:
    from pathlib import Path

    from engines.contract import Manifest
    from streamer.settings import Settings

ANNOUNCED_MEANWHILE: Final = "announced_meanwhile"


@dataclass(frozen=True)
class Checked:
    """A release of the store that loads and answers here; `golden_pairs` is 0 where it was made without."""

    stored: Stored
    golden_pairs: int


@dataclass(frozen=True)
class Listed:
    """A release of the store, and its last announcement."""

    manifest: Manifest
    announced: EngineRelease | None
    runs: bool


def open_store(settings: Settings) -> ReleaseStore:
    """Return the store of the settings.

    Raises:
        FatalError: store_missing.
    """
    if settings.releases.store is None:
        raise FatalError(
            "store_missing",
            "say where releases are kept: --store DIR_OR_URL, or STREAMER_RELEASES__STORE, as the scorers have it",
        )
    return ReleaseStore(settings.releases.store)


def publish(store: ReleaseStore, directory: Path) -> Checked:
    """Check a release in a directory and copy it into the store.

    Raises:
        EngineError: it is not whole, does not load, or does not answer as it did where it was made.
    """
    releases.verify(directory)
    pairs = _check(directory)
    return Checked(store.publish(directory), pairs)


def check(store: ReleaseStore, name: str) -> Checked:
    """Fetch a release of the store and check it here.

    Raises:
        EngineError: as `publish`, or the store does not have it.
    """
    with store.fetched(name) as directory:
        pairs = _check(directory)
    return Checked(store.read(name), pairs)


async def running_before(settings: Settings, store: ReleaseStore) -> str | None:
    """Publish the release that scorers run where nothing was announced yet, to go back to; None where something was.

    Raises:
        EngineError: as `publish`.
        FatalError: as `promote`.
    """
    if await announced_release(settings) is not None:
        return None
    return publish(store, settings.engine.release or releases.shipped()).stored.manifest.release


def _check(directory: Path) -> int:
    engine, _ = loader.load_checked(directory)
    try:
        known = golden.read(directory, engine.manifest)
        return 0 if known is None else len(known.pairs)
    finally:
        engine.close()


async def promote(
    settings: Settings,
    checked: Checked,
    *,
    by: str,
    reason: str | None,
    running: str | None = None,
    expected: str | None = None,
) -> EngineRelease | None:
    """Announce a release; None where it is announced already.

    Args:
        settings: the broker and its topics.
        checked: what is announced.
        by: whom.
        reason: for those who read the list later.
        running: a release of the store that scorers run where nothing was announced yet, to go back to.
        expected: the release that must run for this one to take its place; any if None. What somebody announces in the
            milliseconds between the look and the announcement is still replaced: Kafka has no compare-and-set.

    Raises:
        FatalError: topics_missing, broker_unreachable, announcement_refused, announced_meanwhile.
    """
    async with open_announcements(settings.broker, settings.topics.releases) as announced:
        newest = announced.newest
    if newest is not None and newest.release == checked.stored.manifest.release:
        return None
    before = newest.release if newest is not None else running
    if expected is not None and before != expected:
        raise FatalError(ANNOUNCED_MEANWHILE, f"{before} was announced meanwhile, not {expected}: look, and try again")
    if before == checked.stored.manifest.release:
        before = None  # scorers run it already, by their settings: that is nothing to go back to
    release = _announcement(checked.stored, "promoted", replaces=before, previous=before, by=by, reason=reason)
    await announce(settings.broker, settings.topics.releases, release)
    return release


async def announced_release(settings: Settings) -> EngineRelease | None:
    """Return what scorers have been told to run, None where nothing was announced yet.

    Raises:
        FatalError: as `promote`.
    """
    async with open_announcements(settings.broker, settings.topics.releases) as announced:
        return announced.newest


async def was_taken_back(settings: Settings, release: str) -> bool:
    """Return whether a release was announced, and another one after it.

    Raises:
        FatalError: as `promote`.
    """
    async with open_announcements(settings.broker, settings.topics.releases) as announced:
        return announced.of(release) is not None and announced.newest != announced.of(release)


async def rollback_target(settings: Settings) -> str:
    """Return the release that ran before the one that is announced.

    Raises:
        FatalError: nothing_to_roll_back, or as `promote`.
    """
    async with open_announcements(settings.broker, settings.topics.releases) as announced:
        return _before(announced)


async def roll_back(settings: Settings, checked: Checked, *, by: str, reason: str | None) -> EngineRelease:
    """Announce the release that ran before; what it goes back to next is what ran before that.

    Raises:
        FatalError: nothing_to_roll_back, or as `promote`.
    """
    async with open_announcements(settings.broker, settings.topics.releases) as announced:
        target, newest = _before(announced), announced.newest
        earlier = announced.of(target)
    if target != checked.stored.manifest.release:
        raise FatalError(ANNOUNCED_MEANWHILE, "somebody else has announced a release just now: look, and try again")
    release = _announcement(
        checked.stored,
        "rolled_back",
        replaces=newest.release if newest is not None else None,
        previous=earlier.previous if earlier is not None else None,
        by=by,
        reason=reason,
    )
    await announce(settings.broker, settings.topics.releases, release)
    return release


async def list_releases(settings: Settings, store: ReleaseStore) -> list[Listed]:
    """Return the releases of the store, the oldest first, with what was announced of them.

    Raises:
        FatalError: as `promote`.
        EngineError: the store does not answer, or a manifest in it cannot be read.
    """
    async with open_announcements(settings.broker, settings.topics.releases) as announced:
        newest = announced.newest
        listed = [
            Listed(store.read(name).manifest, announced.of(name), newest is not None and newest.release == name)
            for name in store.names()
        ]
    return sorted(listed, key=lambda one: one.manifest.created_at)


def _before(announced: Announcements) -> str:
    newest = announced.newest
    if newest is None or newest.previous is None:
        raise FatalError(
            "nothing_to_roll_back",
            "no release is known to have run before: `streamer releases promote RELEASE` puts any to work",
        )
    return newest.previous


def _announcement(
    stored: Stored,
    action: Literal["promoted", "rolled_back"],
    *,
    replaces: str | None,
    previous: str | None,
    by: str,
    reason: str | None,
) -> EngineRelease:
    return EngineRelease(
        release=stored.manifest.release,
        manifest_sha256=stored.manifest_sha256,
        action=action,
        replaces=replaces,
        previous=previous,
        announced_at=datetime.now(UTC),
        announced_by=by,
        reason=reason,
    )
