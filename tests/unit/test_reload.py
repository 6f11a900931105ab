"""`streamer.reload`: what is announced is adopted, or refused with a reason while the old engine goes on."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import pytest

from engines.errors import EngineUnavailable, PlanMissing, ReleaseRefused
from engines.runtime import loader
from engines.store import ReleaseStore
from streamer.errors import FatalError
from streamer.events import EngineRelease
from streamer.reload import Loaded, Reloader
from streamer.shadow_events import ShadowRelease
from tests import tiny_release

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from engines.contract import Manifest


CONFIGURED = "tiny-ffffffffffff"


class Announced:
    """Announcements that a test makes."""

    def __init__(self) -> None:
        self.made: list[EngineRelease] = []
        self.tried: ShadowRelease | None = None
        self.waits: list[float | None] = []
        self._more = asyncio.Event()
        self.asked = asyncio.Event()

    @property
    def newest(self) -> EngineRelease | None:
        return self.made[-1] if self.made else None

    @property
    def shadow(self) -> ShadowRelease | None:
        return self.tried

    def of(self, release: str | None) -> EngineRelease | None:
        return next((one for one in reversed(self.made) if one.release == release), None)

    async def more(self, timeout_s: float | None = None) -> None:
        """A store that did not answer is asked again at once."""
        self.waits.append(timeout_s)
        self.asked.set()
        if timeout_s is None:
            await self._more.wait()
            self._more.clear()

    def announce(self, release: str, manifest_sha256: str, *, previous: str | None = None) -> None:
        self.made.append(
            EngineRelease(
                release=release,
                manifest_sha256=manifest_sha256,
                action="promoted",
                replaces=previous,
                previous=previous,
                announced_at=datetime.now(UTC),
                announced_by="test",
            )
        )
        self._more.set()

    def announce_shadow(self, release: str | None, manifest_sha256: str = "0" * 64, *, share: float = 0.5) -> None:
        moment = datetime.now(UTC)
        self.tried = None
        if release is not None:
            self.tried = ShadowRelease(
                release=release, manifest_sha256=manifest_sha256, share=share, announced_at=moment, announced_by="test"
            )
        self._more.set()


class Trials:
    """Takes down which challengers are tried, and when one is in memory."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.running: str | None = None

    async def follow(
        self, wanted: ShadowRelease | None, fetch: Callable[[ShadowRelease], Awaitable[Loaded | None]]
    ) -> None:
        if (wanted and wanted.release) == self.running:
            return
        await self.end()
        if wanted is not None and (loaded := await fetch(wanted)) is not None:
            self.running = loaded.release
            self.happened.append(f"began {loaded.release}")

    async def end(self) -> None:
        if self.running is not None:
            self.happened.append(f"ended {self.running}")
            self.running = None

    def refuse(self, wanted: ShadowRelease, code: str, error: Exception) -> None:
        self.happened.append(f"refused {code}")


class Bench:
    """A reloader, its store, and what it did."""

    def __init__(
        self,
        folder: Path,
        load: Callable[[Path], Loaded] | None = None,
        admit: Callable[[Manifest], None] | None = None,
    ) -> None:
        self.folder = folder
        self.store = ReleaseStore(str(folder / "store"))
        self.announced = Announced()
        self.adopted: list[str] = []
        self.refused: list[str] = []
        self.adoption_fails: Exception | None = None
        self.trials = Trials()
        self.reloader = Reloader(
            announced=self.announced,
            store=self.store,
            load=load or (lambda directory: Loaded(*loader.load_checked(directory, threads=1))),
            adopt=self._adopt,
            report=self,
            scratch=folder / "scratch",
            shadow=self.trials,
            admit=admit,
        )

    async def _adopt(self, loaded: Loaded) -> None:
        if self.adoption_fails is not None:
            raise self.adoption_fails
        self.trials.happened.append("swapped")
        self.adopted.append(loaded.release)

    def engine_refused(self, reason: str) -> None:
        self.refused.append(reason)

    def publish(self, bias: float, **oddity: object) -> str:
        """Publish and announce a release; return its name."""
        directory = tiny_release.write(self.folder / "made", bias=bias, **oddity)  # type: ignore[arg-type]
        stored = self.store.publish(directory)
        newest = self.announced.newest
        self.announced.announce(directory.name, stored.manifest_sha256, previous=newest.release if newest else None)
        return directory.name

    def publish_shadow(self, bias: float, **oddity: object) -> str:
        """Publish a release and announce it as a challenger; return its name."""
        directory = tiny_release.write(self.folder / "made", bias=bias, **oddity)  # type: ignore[arg-type]
        self.announced.announce_shadow(directory.name, self.store.publish(directory).manifest_sha256)
        return directory.name

    def kept(self, name: str) -> Path:
        return self.folder / "store" / name

    async def follow(self, until: Callable[[], bool]) -> None:
        """Follow announcements until that is so and the reloader asks for more."""
        task = asyncio.create_task(self.reloader.follow())
        async with asyncio.timeout(20):
            while not (until() and self.announced.asked.is_set()):
                self.announced.asked.clear()
                await self.announced.asked.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    """Give a reloader that runs the configured release, with nothing announced."""
    made = Bench(tmp_path)
    assert await made.reloader.first(CONFIGURED) is None
    return made


async def test_reloader_adopts_what_is_announced(bench: Bench) -> None:
    """One after the other; the files are gone once they are loaded."""
    first = bench.publish(0.0)
    await bench.follow(lambda: bench.adopted == [first])
    second = bench.publish(1.0)
    await bench.follow(lambda: bench.adopted == [first, second])
    assert bench.reloader.running == second
    assert list((bench.folder / "scratch").iterdir()) == []


def _truncate(bench: Bench, name: str) -> None:
    model = bench.kept(name) / "model.onnx"
    model.write_bytes(model.read_bytes()[:100])


def _exchange_tokenizer(bench: Bench, name: str) -> None:
    tiny_release.vocabulary(bench.kept(name) / "tokenizer.json", ("[PAD]", "other"))


def _change_manifest(bench: Bench, name: str) -> None:
    tiny_release.altered(bench.kept(name), threshold=0.01)


def _remove(bench: Bench, name: str) -> None:
    (bench.kept(name) / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("oddity", "harm", "code"),
    [
        ({}, _truncate, "release_corrupt"),
        ({}, _exchange_tokenizer, "release_corrupt"),
        ({}, _change_manifest, "release_corrupt"),
        ({}, _remove, "release_unknown"),
        ({"bias": float("nan")}, None, "inference_failed"),
        ({"golden_bias": 7.0}, None, "golden_mismatch"),
        ({"golden_words": ("[PAD]", "title", ":", "mug", "shoe", "blue", "red")}, None, "tokenizer_mismatch"),
    ],
)
async def test_release_that_is_broken_is_refused_and_the_old_one_goes_on(
    bench: Bench, oddity: dict[str, float], harm: Callable[[Bench, str], None] | None, code: str
) -> None:
    """Each with its reason, told once; a sound one that follows is adopted."""
    good = bench.publish(0.0)
    await bench.follow(lambda: bench.adopted == [good])
    broken = bench.publish(**({"bias": 2.0} | oddity))
    if harm is not None:
        harm(bench, broken)
    await bench.follow(lambda: bench.refused == [code])
    assert bench.reloader.running == good
    better = bench.publish(3.0)
    await bench.follow(lambda: bench.adopted == [good, better])
    assert bench.refused == [code]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineUnavailable("no such operator"), "engine_unavailable"),
        (MemoryError(), "release_load_failed"),
        (RuntimeError("a bug in a runtime"), "release_load_failed"),
    ],
)
async def test_release_that_does_not_load_is_refused(tmp_path: Path, error: Exception, code: str) -> None:
    """Whatever a runtime raises is not the running engine's affair."""

    def load(_: Path) -> Loaded:
        raise error

    bench = Bench(tmp_path, load)
    await bench.reloader.first(CONFIGURED)
    bench.publish(0.0)
    await bench.follow(lambda: bench.refused == [code])
    assert bench.reloader.running == CONFIGURED


async def test_release_without_a_plan_is_adopted_once_there_is_one(tmp_path: Path) -> None:
    """It is looked at again and again, each time counted as refused, and needs no second announcement."""
    missing = iter([PlanMissing("no plan for this GPU")] * 3)

    def load(directory: Path) -> Loaded:
        for error in missing:
            raise error
        return Loaded(*loader.load_checked(directory, threads=1))

    bench = Bench(tmp_path, load)
    await bench.reloader.first(CONFIGURED)
    name = bench.publish(0.0)
    await bench.follow(lambda: bench.adopted == [name])
    assert bench.refused == 3 * ["plan_missing"]


async def test_release_whose_plan_came_and_does_not_run_is_looked_at_no_longer(tmp_path: Path) -> None:
    """Only a plan that is missing is waited for: what follows is told once."""
    errors = iter([PlanMissing("no plan for this GPU"), EngineUnavailable("TensorRT does not load the plan")])

    def load(_: Path) -> Loaded:
        raise next(errors)

    bench = Bench(tmp_path, load)
    await bench.reloader.first(CONFIGURED)
    bench.publish(0.0)
    await bench.follow(lambda: bench.refused == ["plan_missing", "engine_unavailable"])
    assert bench.announced.waits[-1] is None


async def test_release_that_is_not_admitted_is_not_fetched(tmp_path: Path) -> None:
    """Nor does a challenger make room for it: by the manifest alone is seen that it cannot run."""
    bench = Bench(tmp_path, admit=_without_plan)
    await bench.reloader.first(CONFIGURED)
    name = bench.publish(0.0)
    (bench.kept(name) / "model.onnx").unlink()
    await bench.follow(lambda: "plan_missing" in bench.refused)
    assert set(bench.refused) == {"plan_missing"}


def _without_plan(manifest: Manifest) -> None:
    raise PlanMissing(f"{manifest.release} has no plan for this GPU")


async def test_release_that_the_worker_cannot_take_is_refused(bench: Bench) -> None:
    """What adopting raises is a reason like any other."""
    bench.adoption_fails = ReleaseRefused("other threads", code="release_incompatible")
    bench.publish(0.0)
    await bench.follow(lambda: bench.refused == ["release_incompatible"])
    assert bench.reloader.running == CONFIGURED


async def test_store_that_does_not_answer_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage of the store refuses nothing."""
    bench = Bench(tmp_path)
    await bench.reloader.first(CONFIGURED)
    name = bench.publish(0.0)
    real, failures = bench.store._files.open, iter([OSError("reset"), OSError("reset")])

    def flaky(*arguments: object, **options: object) -> object:
        for failure in failures:
            raise failure
        return real(*arguments, **options)

    monkeypatch.setattr(bench.store._files, "open", flaky)
    await bench.follow(lambda: bench.adopted == [name])
    assert bench.refused == []


async def test_worker_that_starts_runs_what_is_announced(tmp_path: Path) -> None:
    """Not what its settings name, and it does not swap to the same afterwards."""
    bench = Bench(tmp_path)
    name = bench.publish(0.0)
    loaded = await bench.reloader.first(CONFIGURED)
    assert loaded is not None
    assert loaded.release == name
    await bench.follow(lambda: True)
    assert bench.adopted == []


async def test_worker_that_starts_with_a_broken_announcement_runs_the_one_before(tmp_path: Path) -> None:
    """As the workers do that were running when it was announced."""
    bench = Bench(tmp_path)
    good = bench.publish(0.0)
    bench.publish(1.0, golden_bias=7.0)
    loaded = await bench.reloader.first(CONFIGURED)
    assert loaded is not None
    assert loaded.release == good
    await bench.follow(lambda: True)
    assert (bench.adopted, bench.refused) == ([], ["golden_mismatch"])


async def test_worker_that_starts_while_the_store_is_away_does_not_run_another_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves, to be started again."""
    bench = Bench(tmp_path)
    bench.publish(0.0)
    monkeypatch.setattr(bench.store._files, "open", partial(_raise, OSError("no route")))
    with pytest.raises(FatalError) as caught:
        await bench.reloader.first(CONFIGURED)
    assert caught.value.code == "release_unavailable"


async def test_announcement_of_what_the_settings_name_costs_nothing(tmp_path: Path) -> None:
    """It is there already."""
    bench = Bench(tmp_path)
    name = bench.publish(0.0)
    assert await bench.reloader.first(name) is None
    assert bench.reloader.running == name


async def test_challenger_is_tried_until_its_trial_is_taken_back(bench: Bench) -> None:
    """The release that runs is not touched."""
    tried = bench.publish_shadow(1.0)
    await bench.follow(lambda: bench.trials.running == tried)
    bench.announced.announce_shadow(None)
    await bench.follow(lambda: bench.trials.running is None)
    assert bench.trials.happened == [f"began {tried}", f"ended {tried}"]
    assert (bench.adopted, bench.reloader.running) == ([], CONFIGURED)


async def test_challenger_is_out_of_memory_before_a_release_is_loaded_that_is_to_run(bench: Bench) -> None:
    """And is tried again beside that one."""
    tried = bench.publish_shadow(1.0)
    await bench.follow(lambda: bench.trials.running == tried)
    bench.publish(0.0)
    await bench.follow(lambda: bench.adopted != [] and bench.trials.running == tried)
    assert bench.trials.happened == [f"began {tried}", f"ended {tried}", "swapped", f"began {tried}"]


async def test_challenger_that_is_promoted_is_tried_no_longer(bench: Bench) -> None:
    """A release has nothing to say to itself."""
    tried = bench.publish_shadow(1.0)
    await bench.follow(lambda: bench.trials.running == tried)
    assert bench.publish(1.0) == tried
    await bench.follow(lambda: bench.adopted == [tried])
    assert bench.trials.happened[-1] == "swapped"
    assert bench.trials.running is None


@pytest.mark.parametrize(
    ("oddity", "code"), [({"golden_bias": 7.0}, "golden_mismatch"), ({"bias": float("nan")}, "inference_failed")]
)
async def test_challenger_that_is_broken_is_refused_as_a_release_is(
    bench: Bench, oddity: dict[str, float], code: str
) -> None:
    """But it is not counted among the announced releases that a worker should run."""
    bench.publish_shadow(**({"bias": 1.0} | oddity))
    await bench.follow(lambda: bench.trials.happened == [f"refused {code}"])
    assert bench.refused == []


async def test_store_that_is_away_does_not_end_a_trial_for_a_release_that_cannot_be_had(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends once the release is here and is about to be loaded."""
    tried = bench.publish_shadow(1.0)
    await bench.follow(lambda: bench.trials.running == tried)
    name = bench.publish(0.0)
    real, failures = bench.store._files.open, iter([OSError("reset")])
    running_meanwhile: list[str | None] = []

    def flaky(*arguments: object, **options: object) -> object:
        for failure in failures:
            running_meanwhile.append(bench.trials.running)
            raise failure
        return real(*arguments, **options)

    monkeypatch.setattr(bench.store._files, "open", flaky)
    await bench.follow(lambda: bench.adopted == [name])
    assert running_meanwhile == [tried]


def _raise(error: Exception, *_: object, **__: object) -> None:
    raise error
