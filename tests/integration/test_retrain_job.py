"""`streamer retrain` around its training program: pinned, promoted, recorded; refused, resumed; killed anywhere."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import signal
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from engines.catalogs import judged
from streamer import promotion
from streamer import retrain as retraining_job
from streamer.adapt import train
from streamer.blobs import Blobs
from streamer.cli import main
from streamer.drift import Limits
from streamer.drift_telemetry import DriftTelemetry
from streamer.drift_watch import DriftWatch
from streamer.errors import FatalError
from streamer.labels import Joined
from streamer.retrain_log import RetrainLog
from streamer.retrain_runs import alone
from streamer.settings import LabelSettings, RetrainSettings
from streamer.wire import encode
from tests import retrain_place, tiny_release
from tests.killed import Point
from tests.retrain_place import ITEMS, Place, judge
from tests.review import PICTURE, item, label
from tests.unit.test_drift import LEAST, SIZE, drawn

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.demo.broker import EmbeddedBroker
    from streamer.events import EngineRelease, ProductScore

POINTS = (
    Point("streamer.retrain", "pin", 1),
    Point("engines.releases", "install", 1),  # of the champion into the run's folder
    Point("streamer.retrain", "train", 2),
    Point("streamer.promotion", "publish", 1),  # of the champion, to go back to
    Point("streamer.promotion", "publish", 2),  # of the challenger
    Point("streamer.promotion", "promote", 1),  # published, not announced
    Point("streamer.retrain", "train", 3),  # announced, MLflow not told
    Point("streamer.retrain_log.RetrainLog", "record", 1),
    Point("streamer.retrain_runs.Runs", "end", 1),  # recorded, the run not ended
    Point("streamer.retrain_runs.Runs", "tidy", 1),  # ended, the labels still there
)


@pytest.fixture
def place(tansu: EmbeddedBroker, tmp_path: Path) -> Place:
    """A broker with topics, a champion, and labels of some products."""
    return retrain_place.make(tansu, tmp_path)


def _killed(point: Point, place: Place) -> None:
    """Run the job, and end by SIGKILL at this point."""
    point.arm()
    place.retrain()


def test_job_killed_at_each_step_goes_on_and_promotes_once(place: Place) -> None:
    """SIGKILL from the pinned labels to the last tidying: one run, one release, one announcement."""
    champion = tiny_release.write(place.folder / "made").name
    place.request(champion, at=datetime(2026, 1, 1, tzinfo=UTC))
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["streamer.retrain", "streamer.cli", "deltalake", "pytest", "tests.tiny_release"])
    for point in POINTS:
        child = context.Process(target=_killed, args=(point, place))
        child.start()
        child.join(120)
        assert child.exitcode == -signal.SIGKILL, point
    (run,) = place.runs()
    assert place.retrain(if_needed=True) == 0
    assert place.runs() == [run]
    challenger, previous = place.announced()
    assert previous == champion
    last = place.log.last()
    assert last is not None
    assert (last.outcome, last.champion, last.challenger, last.items) == ("promoted", champion, challenger, ITEMS)
    assert place.log.pending() is None
    assert not (run / "labels").exists()
    assert (run / "challenger" / challenger / "manifest.json").exists()
    assert (place.folder / "store" / "retraining" / run.name / "model-card.md").exists()
    assert {path.name for path in (place.folder / "store").iterdir()} == {champion, challenger, "retraining"}
    assert place.asked()[-1] == ["champion", challenger]


def test_job_runs_when_enough_is_judged_or_somebody_asks(place: Place) -> None:
    """Six new items are awaited; a request about what runs does not wait for them, and is answered either way."""
    assert place.retrain(if_needed=True) == 0
    assert len(place.runs()) == 1
    assert place.retrain(if_needed=True) == 0
    judge(place, range(ITEMS, 2 * ITEMS - 1))
    assert place.retrain(if_needed=True) == 0
    assert len(place.runs()) == 1
    place.request("small-000000000000")
    assert place.retrain(if_needed=True) == 0
    assert len(place.runs()) == 1
    place.request(place.announced()[0])
    assert place.retrain("refuse", if_needed=True) == 1
    assert len(place.runs()) == 2
    assert place.log.pending() is None
    last = place.log.last()
    assert last is not None
    assert (last.outcome, last.reasons, last.items) == ("refused", ("benchmark_loss",), 2 * ITEMS - 1)


def test_erased_items_do_not_put_the_next_retraining_off(place: Place) -> None:
    """Six items were learned from and four of them erased: six new ones are awaited as ever, not ten."""
    assert place.retrain("refuse", if_needed=True) == 1
    for number in range(4):
        place.dataset.erase(f"p{number}")
    judge(place, range(ITEMS, 2 * ITEMS - 1))
    assert place.retrain(if_needed=True) == 0
    assert len(place.runs()) == 1
    judge(place, range(2 * ITEMS - 1, 2 * ITEMS))
    assert place.retrain("refuse", if_needed=True) == 1
    assert len(place.runs()) == 2


def test_job_that_would_learn_the_same_again_has_nothing_to_do(place: Place) -> None:
    """Drift is seen again after a refusal: the same labels would train the same challenger."""
    champion = tiny_release.write(place.folder / "made").name
    assert place.retrain("refuse") == 1
    place.request(champion)
    assert place.retrain(if_needed=True) == 0
    assert len(place.runs()) == 1
    place.request(None)
    judge(place, range(ITEMS, ITEMS + 1))
    assert place.retrain("refuse", if_needed=True) == 1
    assert place.log.pending() is None


def test_release_that_was_taken_back_is_not_announced_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job fails after its announcement, somebody rolls back: the next job begins anew and leaves it at that."""
    champion = tiny_release.write(place.folder / "made").name

    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("the store is gone")

    with monkeypatch.context() as broken:
        broken.setattr(RetrainLog, "record", failing)
        with pytest.raises(RuntimeError, match="the store is gone"):
            place.retrain()
    challenger, _ = place.announced()
    place.roll_back()
    assert place.retrain("refuse", if_needed=True) == 1
    assert place.announced()[0] == champion
    first, second = place.runs()
    ended = {json.loads((run / "ended.json").read_text())["outcome"] for run in (first, second)}
    assert ended == {"given up", "refused"}
    assert asyncio.run(promotion.was_taken_back(place.settings, challenger))


def test_registry_is_told_what_runs_whoever_has_announced_it(place: Place) -> None:
    """Somebody rolls back or promotes by hand: the next job says so to MLflow, also when it has nothing else to do."""
    champion = tiny_release.write(place.folder / "made").name
    assert place.retrain() == 0
    challenger, _ = place.announced()
    assert place.asked() == [["champion", champion], ["retrain", champion], ["champion", challenger]]
    place.roll_back()
    assert place.retrain(if_needed=True) == 0
    assert place.asked()[3:] == [["champion", champion]]


def test_drift_that_lasts_is_answered_by_one_retraining(place: Place) -> None:
    """From products that are scored otherwise than at first to a run that says so, though few labels are new."""
    patient = place.settings.model_copy(update={"retrain": RetrainSettings(min_labels=100)})
    here = place._replace(settings=patient)
    champion = tiny_release.write(place.folder / "made").name
    watch = DriftWatch(
        limits=Limits(),
        size=SIZE,
        least=LEAST,
        patience=timedelta(0),
        blobs=Blobs(str(place.folder / "store"), setting="releases"),
        telemetry=DriftTelemetry(),
        clock=lambda: datetime.now(UTC),
    )

    def score(*products: ProductScore) -> None:
        for one in products:
            watch.score(encode(one))
        watch.check()

    score(*drawn(SIZE, 0, release=champion), *drawn(SIZE, 1, release=champion))
    assert here.retrain("refuse", if_needed=True) == 0
    assert here.runs() == []
    score(*drawn(SIZE, 2, mean=0.5, release=champion))
    assert here.retrain("refuse", if_needed=True) == 1
    (run,) = here.runs()
    assert "streamer drift: the distribution of score" in json.loads((run / "run.json").read_text())["reason"]
    watch.check()
    assert here.log.pending() is None
    assert here.retrain("refuse", if_needed=True) == 0


def test_request_that_comes_during_a_run_stays(place: Place) -> None:
    """What somebody saw after a run began is not answered by it."""
    place.request(tiny_release.write(place.folder / "made").name, at=datetime.now(UTC) + timedelta(hours=1))
    assert place.retrain() == 0
    assert place.log.pending() is not None


def test_refused_challenger_is_left_to_be_inspected_and_not_announced(place: Place) -> None:
    """Its release and its card stay, what people said does not."""
    assert place.retrain("refuse") == 1
    (run,) = place.runs()
    assert sorted(path.name for path in run.iterdir()) == [
        *("card", "challenger", "challenger.json", "decision.json", "ended.json", "run.json"),
    ]
    assert asyncio.run(promotion.announced_release(place.settings)) is None
    assert {path.name for path in (place.folder / "store").iterdir()} == {"retraining"}


def test_run_that_failed_is_gone_on_with(place: Place) -> None:
    """Exit code 2, and the next job takes the same run and its pinned labels, with the options that it began with."""
    assert place.retrain("fail") == 2
    (run,) = place.runs()
    pinned = judged.read_pinned(run / "labels")
    assert pinned is not None
    assert pinned.verdicts == 2 * ITEMS
    judge(place, range(ITEMS, ITEMS + 3))
    assert place.retrain("promote") == 2
    assert place.runs() == [run]
    assert judged.read_pinned(run / "labels") == pinned
    assert place.retrain("promote", restart=True) == 0
    assert len(place.runs()) == 2


def test_run_whose_product_was_erased_or_champion_replaced_is_given_up(place: Place) -> None:
    """Nothing is learned from what is erased, and nothing goes on from a release that no longer runs."""
    assert place.retrain("fail") == 2
    place.dataset.erase("p3")
    assert place.retrain("fail") == 2
    erased, current = place.runs()
    assert json.loads((erased / "ended.json").read_text())["outcome"] == "given up"
    assert not (erased / "labels").exists()
    assert {one.product_id for one in judged.read_judged(current / "labels")} == {f"p{n}" for n in (0, 1, 2, 4, 5)}
    store = promotion.open_store(place.settings)
    other = promotion.publish(store, tiny_release.write(place.folder / "made", bias=0.5))
    asyncio.run(promotion.promote(place.settings, other, by="test", reason=None))
    assert place.retrain("promote") == 0
    assert json.loads((current / "ended.json").read_text())["outcome"] == "given up"
    assert place.announced()[1] == other.stored.manifest.release


def test_challenger_is_not_announced_over_a_release_it_was_not_compared_with(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it was trained somebody has promoted another one, which stays; the next run goes on from that."""

    def trained(command: list[str], variables: dict[str, str] | None = None) -> int:
        if "retrain" in command:
            store = promotion.open_store(place.settings)
            other = promotion.publish(store, tiny_release.write(place.folder / "made", bias=0.5))
            asyncio.run(promotion.promote(place.settings, other, by="ops", reason=None))
        return train(command, variables)

    monkeypatch.setattr(retraining_job, "train", trained)
    assert place.retrain() == 2
    (run,) = place.runs()
    assert json.loads((run / "ended.json").read_text())["outcome"] == "given up"
    assert (run / "challenger").exists()  # nothing of it was erased: it is left to be inspected
    assert place.announced()[0] == tiny_release.write(place.folder / "made", bias=0.5).name


@pytest.mark.parametrize(
    "behind", ["publish", "announced_release"], ids=["while it is published", "after the last look"]
)
def test_challenger_is_not_announced_over_a_release_that_comes_at_the_last_moment(
    place: Place, monkeypatch: pytest.MonkeyPatch, behind: str
) -> None:
    """Somebody promotes another one between the look at what runs and the announcement: theirs stays."""
    store = promotion.open_store(place.settings)
    other = promotion.publish(store, tiny_release.write(place.folder / "made", bias=0.5))
    real, asked = getattr(promotion, behind), []

    def meddling(*given: Any) -> Any:  # noqa: ANN401 - of either
        asked.append(given)
        found = real(*given)
        if len(asked) == {"publish": 2, "announced_release": 3}[behind]:
            found = found if behind == "publish" else _answering(asyncio.run(found))
            asyncio.run(promotion.promote(place.settings, other, by="ops", reason=None))
        return found

    monkeypatch.setattr(promotion, behind, meddling)
    assert place.retrain() == 2
    (run,) = place.runs()
    assert json.loads((run / "ended.json").read_text())["outcome"] == "given up"
    monkeypatch.undo()
    assert place.announced()[0] == other.stored.manifest.release


async def _answering(found: EngineRelease | None) -> EngineRelease | None:
    return found


def test_training_program_that_crashes_is_no_refusal(place: Place) -> None:
    """Python ends with 1 on an error that nobody expected; without a decision that is a run to go on with."""
    assert place.retrain("crash") == 2
    (run,) = place.runs()
    assert not (run / "ended.json").exists()
    assert place.log.last() is None


def test_error_that_nobody_expected_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the job itself, too: exit code 2."""
    monkeypatch.setattr(retraining_job, "retrain", _broken)
    assert _exit_code("--exit-zero") == 2


@pytest.mark.parametrize(("code", "with_exit_zero"), [(0, 0), (1, 0), (2, 2)])
def test_refusal_is_no_failure_where_that_is_asked_for(
    code: int, with_exit_zero: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a CronJob does, which would be a failed one; what could not be done still is."""
    monkeypatch.setattr(retraining_job, "retrain", lambda *_, **__: code)
    assert (_exit_code(), _exit_code("--exit-zero")) == (code, with_exit_zero)


def _broken(*_: object, **__: object) -> int:
    raise RuntimeError("a bug")


def _exit_code(*options: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(["retrain", *options])
    return ended.value.code


def test_dry_run_decides_and_tells_nobody(place: Place) -> None:
    """Neither the store nor the topic hears of it."""
    assert place.retrain(dry_run=True) == 0
    assert not (place.folder / "store").exists()
    assert asyncio.run(promotion.announced_release(place.settings)) is None


def test_refused_dry_run_tells_nobody(place: Place) -> None:
    """What drift asked for stays asked for, and the next job does not take the same labels for learned from."""
    champion = tiny_release.write(place.folder / "made").name
    place.request(champion)
    assert place.retrain("refuse", dry_run=True) == 1
    (run,) = place.runs()
    assert json.loads((run / "ended.json").read_text())["outcome"] == "refused"
    assert place.log.last() is None
    assert place.log.pending() is not None
    assert not (place.folder / "store" / "retraining" / run.name).exists()


def test_dry_run_that_was_cut_is_not_promoted_by_the_next_job(place: Place) -> None:
    """Its options were somebody's trial: the nightly job gives it up and trains a run of its own."""
    assert place.retrain("fail", dry_run=True) == 2
    assert place.retrain("refuse") == 1
    trial, own = place.runs()
    assert json.loads((trial / "ended.json").read_text())["outcome"] == "given up"
    assert json.loads((own / "ended.json").read_text())["outcome"] == "refused"
    assert asyncio.run(promotion.announced_release(place.settings)) is None


def test_dry_run_leaves_what_another_job_has_begun_to_that_job(place: Place) -> None:
    """It goes on with a run that was cut and says what came of it; the next job promotes it."""
    assert place.retrain("fail") == 2
    (run,) = place.runs()
    decided = run / "decision.json"
    tiny = tiny_release.write(run / "challenger", bias=1.25)
    (run / "challenger.json").write_text(json.dumps({"release": tiny.name}))
    decided.write_text(json.dumps({"promote": True, "reasons": []}))
    (run / "run.json").write_text((run / "run.json").read_text().replace('"fail"', '"promote"'))
    assert place.retrain(dry_run=True) == 0
    assert not (run / "ended.json").exists()
    assert asyncio.run(promotion.announced_release(place.settings)) is None
    assert place.retrain() == 0
    assert place.runs() == [run]
    assert place.announced()[0] == tiny.name


def test_job_beside_another_one_says_so(place: Place) -> None:
    """Two in one directory would train the same run."""
    with alone(place.folder / "work"), pytest.raises(FatalError) as caught:
        place.retrain()
    assert caught.value.code == "work_in_use"


def test_job_without_labels_says_what_records_them(place: Place) -> None:
    """There is nothing to pin."""
    settings = place.settings.model_copy(update={"labels": LabelSettings(dataset=str(place.folder / "none"))})
    with pytest.raises(FatalError) as caught:
        Place(place.folder, settings).retrain()
    assert caught.value.code == "labels_missing"


def test_pinned_items_count_people_and_leave_out_the_unsure(place: Place) -> None:
    """An item is one line, whoever judged it; pictures stand beside."""
    one = item("p0", picture=PICTURE + bytes([0]))
    unsure = label(one, reviewer="cai", verdict="unsure")
    no = label(one, reviewer="dan", verdict="match")
    place.dataset.write({joined.key: joined for joined in (Joined(unsure, one), Joined(no, one))})
    assert place.retrain("fail") == 2
    (run,) = place.runs()
    found = {line.product_id: line for line in judged.read_judged(run / "labels")}
    assert (found["p0"].mismatches, found["p0"].matches) == (2, 1)
    assert judged.image_path(run / "labels", found["p0"].image_sha256).read_bytes() == PICTURE + bytes([0])
    assert len(found) == ITEMS
