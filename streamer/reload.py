"""A release is announced → fetched, verified, loaded and warmed beside the engine that runs, checked → adopted.

The announcement that stands last in engine-releases says what runs. A release that cannot be had, or does not answer
as it did where it was made, is refused and told; the engine that runs goes on. Only one that lacks a plan for this GPU
is looked at again: its plan may be under construction. Fetching, loading and checking happen in
a thread of low priority that nothing waits for; adopting is one assignment between two batches (`streamer.pipeline`).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from engines.errors import EngineError, PlanMissing, ReleaseRefused, ReleaseUnavailable
from streamer.errors import FatalError, StreamerError
from streamer.priority import give_way

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from engines.contract import Engine, Manifest
    from engines.store import ReleaseStore
    from engines.text import Tokenizer
    from streamer.events import EngineRelease
    from streamer.shadow_events import ShadowRelease

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A release that is loaded, warm and checked."""

    engine: Engine
    tokenizer: Tokenizer

    @property
    def release(self) -> str:
        """Its name."""
        return self.engine.manifest.release


class Announced(Protocol):
    """What has been announced (`streamer.announcements`)."""

    @property
    def newest(self) -> EngineRelease | None: ...

    @property
    def shadow(self) -> ShadowRelease | None: ...

    def of(self, release: str | None) -> EngineRelease | None: ...

    async def more(self, timeout_s: float | None = None) -> None: ...


class Report(Protocol):
    """Is told what became of announcements (`streamer.telemetry`)."""

    def engine_refused(self, reason: str) -> None: ...


class Trials(Protocol):
    """Tries a challenger (`streamer.shadow`)."""

    async def follow(
        self, wanted: ShadowRelease | None, fetch: Callable[[ShadowRelease], Awaitable[Loaded | None]]
    ) -> None: ...

    async def end(self) -> None: ...

    def refuse(self, wanted: ShadowRelease, code: str, error: Exception) -> None: ...


class Reloader:
    """Follows the announcements; belongs to one event loop.

    Args:
        announced: what stands in the topic, and what comes.
        store: where releases are fetched from.
        load: makes a release of a directory ready, and checks it; called in a thread.
        adopt: gives what comes from now on to a loaded release; what it raises refuses the release.
        report: is told of refusals.
        scratch: where a release lies while it is being loaded.
        retry_s: before a store that did not answer is asked again.
        plan_retry_s: before a plan that was not there is looked for again.
        shadow: tries the challenger that is announced. It ends before a release is loaded that is to run: no worker
            needs memory for three.
        load_challenger: as `load`, for a release that is only tried.
        admit: is shown a release's manifest before its files are fetched; what it raises refuses the release.
    """

    def __init__(
        self,
        *,
        announced: Announced,
        store: ReleaseStore,
        load: Callable[[Path], Loaded],
        adopt: Callable[[Loaded], Awaitable[None]],
        report: Report,
        scratch: Path | None = None,
        retry_s: float = 10.0,
        plan_retry_s: float = 60.0,
        shadow: Trials | None = None,
        load_challenger: Callable[[Path], Loaded] | None = None,
        admit: Callable[[Manifest], None] | None = None,
    ) -> None:
        self._shadow = shadow
        self._load_challenger = load_challenger or load
        self._admit = admit
        self._announced = announced
        self._store = store
        self._load = load
        self._adopt = adopt
        self._report = report
        self._scratch = scratch
        self._retry_s = retry_s
        self._plan_retry_s = plan_retry_s
        self._refused: set[EngineRelease] = set()
        self._without_plan: set[EngineRelease] = set()
        self._thread = ThreadPoolExecutor(1, "reload", initializer=give_way)
        self.running: str | None = None
        """The release that runs."""

    async def first(self, configured: str) -> Loaded | None:
        """Return what a worker that starts must run; None: the release of that name, which its settings give it.

        The last announcement counts; where it is refused, the release that it would go back to.

        Raises:
            FatalError: release_unavailable, when the store does not answer: to run another engine than the one that
                was announced would be worse than not to run.
        """
        wanted, tried = self._announced.newest, set[str]()
        while wanted is not None and wanted.release != configured and wanted.release not in tried:
            tried.add(wanted.release)
            try:
                loaded = await self._get(wanted)
            except ReleaseUnavailable as error:
                raise FatalError(error.code, f"{wanted.release} is announced, and cannot be had: {error}") from error
            if loaded is not None:
                self.running = loaded.release
                return loaded
            wanted = self._announced.of(wanted.previous)
        self.running = configured
        return None

    async def follow(self) -> None:
        """Adopt what is announced, one after the other, and try what is to be tried; runs until it is cancelled."""
        while True:
            again: float | None = None
            for step in (self._follow_promoted, self._follow_shadow):
                try:
                    await step()
                except ReleaseUnavailable as error:
                    again = self._retry_s
                    log.warning("release.unavailable", message=str(error), retry_s=again)
            if again is None and self._announced.newest in self._without_plan:
                again = self._plan_retry_s
            await self._announced.more(again)

    async def _follow_promoted(self) -> None:
        wanted = self._announced.newest
        if wanted is not None and wanted.release != self.running and wanted not in self._refused:
            await self._replace(wanted)

    async def _follow_shadow(self) -> None:
        if self._shadow is None:
            return
        wanted = self._announced.shadow
        runs_already = wanted is not None and wanted.release == self.running
        await self._shadow.follow(None if runs_already else wanted, self._get_challenger)

    async def _get_challenger(self, wanted: ShadowRelease) -> Loaded | None:
        assert self._shadow is not None
        return await self._load_in_thread(wanted, self._load_challenger, partial(self._shadow.refuse, wanted))

    async def _replace(self, wanted: EngineRelease) -> None:
        loaded = await self._get(wanted, alone=self._shadow)
        if loaded is None:
            return
        try:
            await self._adopt(loaded)
        except (EngineError, StreamerError) as error:
            self._refuse(wanted, error.code, error)
            await asyncio.get_running_loop().run_in_executor(self._thread, loaded.engine.close)
            return
        self.running = loaded.release
        self._without_plan.discard(wanted)

    async def _get(self, wanted: EngineRelease, *, alone: Trials | None = None) -> Loaded | None:
        """Return the release, loaded and checked, None where it is refused; `alone`: no challenger is in memory then.

        Raises:
            ReleaseUnavailable: the store does not answer.
        """
        loop = asyncio.get_running_loop()

        def load(directory: Path) -> Loaded:
            if alone is not None:
                asyncio.run_coroutine_threadsafe(alone.end(), loop).result()
            return self._load(directory)

        return await self._load_in_thread(wanted, load, partial(self._refuse, wanted))

    async def _load_in_thread(
        self,
        wanted: EngineRelease | ShadowRelease,
        load: Callable[[Path], Loaded],
        refuse: Callable[[str, Exception], None],
    ) -> Loaded | None:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._fetch, wanted, load)
        except ReleaseUnavailable as error:
            if error.code != "release_unknown":
                raise
            refuse(error.code, error)
        except (EngineError, StreamerError) as error:
            refuse(error.code, error)
        except Exception as error:  # noqa: BLE001 - memory, disk, a bug in a runtime: none of it is the running engine's
            refuse("release_load_failed", error)
        return None

    def _fetch(self, wanted: EngineRelease | ShadowRelease, load: Callable[[Path], Loaded]) -> Loaded:
        with self._store.fetched(
            wanted.release, manifest_sha256=wanted.manifest_sha256, scratch=self._scratch, admit=self._admit
        ) as directory:
            loaded = load(directory)
        if loaded.release != wanted.release:
            loaded.engine.close()
            raise ReleaseRefused(f"{wanted.release} is announced, {loaded.release} was loaded")
        return loaded

    def _refuse(self, wanted: EngineRelease, code: str, error: Exception) -> None:
        if code == PlanMissing.code:
            self._without_plan.add(wanted)
        else:
            self._refused.add(wanted)
            self._without_plan.discard(wanted)
        self._report.engine_refused(code)
        log.error("release.refused", release=wanted.release, reason=code, message=str(error), goes_on_with=self.running)

    def close(self) -> None:
        """End the thread; a release that is being loaded is left to end with the process."""
        self._thread.shutdown(wait=False, cancel_futures=True)
