"""`streamer retrain`: labels pinned → champion fetched → trained and judged → published → announced → recorded.

Training and judging are a program of their own (`python -m engines.build retrain`): torch never enters this process.
Each step may be killed; the next run finds what there is and goes on. What has been done is not done twice: a release
is published and announced under the name that its content gives it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from engines import releases
from engines.catalogs import erased, judged
from streamer import promotion, retrain_erased
from streamer.adapt import PROGRAM, TRAINING_NEEDS, require, train
from streamer.dataset import LabelDataset
from streamer.erasures import Erasures
from streamer.errors import FatalError
from streamer.pinning import pin
from streamer.purge import purge_if_possible
from streamer.retrain_log import LastRetraining, RetrainLog
from streamer.retrain_reason import reason
from streamer.retrain_runs import CARD_FOLDER, CHALLENGER_FOLDER, CHAMPION_FOLDER, LABELS_FOLDER, Runs, alone

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from rich.console import Console

    from engines.store import ReleaseStore
    from streamer.promotion import Checked
    from streamer.retrain_runs import Decision, Run
    from streamer.settings import Settings

    T = TypeVar("T")
    Runner = Callable[[Coroutine[Any, Any, T]], T]

PROMOTED, REFUSED, FAILED = 0, 1, 2
"""Exit codes; 0 is also that there was nothing to do."""

GIVES_WAY: Final = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads of training sleep while they wait for each other: by default they spin, which beside a scorer on the same
cores costs several times the CPU.

Source: https://gcc.gnu.org/onlinedocs/libgomp/OMP_005fWAIT_005fPOLICY.html
"""

_DECIDED: Final = frozenset({0, 1})  # exit codes of the training program when the gate has said something


@dataclass(frozen=True, kw_only=True)
class RetrainOptions:
    """What the command line says; `passed` goes to the training program as it is."""

    work: Path
    catalog: Path | None = None
    if_needed: bool = False
    restart: bool = False
    dry_run: bool = False
    by: str = "streamer retrain"
    passed: Sequence[str] = field(default_factory=tuple)


class _Gone(NamedTuple):
    """Why a run is given up; `erased`: since it may have learned from something that was erased."""

    why: str
    erased: bool = False


class Retrainer:
    """One run of the job.

    Args:
        options: what it is to do.
        settings: where labels, releases and the broker are.
        console: is told what happens.
        run: runs a coroutine.
        program: the training program.
    """

    def __init__(
        self,
        options: RetrainOptions,
        settings: Settings,
        console: Console,
        run: Runner[Any],
        *,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._options, self._settings, self._console = options, settings, console
        self._run, self._program = run, program
        self._store: ReleaseStore = promotion.open_store(settings)
        self._log = RetrainLog(self._store.url)
        self._dataset = LabelDataset(settings.labels.dataset)
        self._erasures = Erasures(settings.labels.dataset)
        self._runs = Runs(options.work)

    def retrain(self) -> int:
        """Go on with the unfinished run, or begin one if there is reason to; return the exit code.

        Raises:
            FatalError, TransientError, EngineError: it could not be done; the next run goes on from here.
        """
        current = self._champion()
        self._tell_registry(current)
        run = self._unfinished(current)
        if run is None:
            why = self._reason(current)
            if why is None:
                self._purge()
                return PROMOTED
            run = self._runs.begin(
                reason=why,
                at=datetime.now(UTC),
                champion=current,
                catalog=self._options.catalog,
                passed=self._options.passed,
                dry_run=self._options.dry_run,
            )
            self._say(f"run {run.name}: {why}")
        self._prepare(run)
        code = self._decide(run)
        decision = self._runs.decision(run)
        if code not in _DECIDED or decision is None:  # 1 is also how a program ends that nobody expected to fail
            self._say(f"run {run.name} could not be decided (exit code {code}): the next retraining goes on with it")
            return FAILED
        return self._conclude(run, decision)

    # -- whether, and with what

    def _champion(self) -> str:
        """Return the release that scorers run: what is announced, else what their settings name."""
        announced = self._run(promotion.announced_release(self._settings))
        return self._configured().name if announced is None else str(announced.release)

    def _configured(self) -> Path:
        """Return the directory of the release that runs where none is announced, under its own name."""
        directory = self._settings.engine.release or releases.shipped()
        return directory.with_name(releases.read_manifest(directory).release)

    def _unfinished(self, current: str) -> Run | None:
        """Return the run to go on with, None where there is none, or what it began with is gone."""
        run = self._runs.unfinished()
        if run is None:
            return None
        announced = current == self._runs.challenger(run)
        asked = self._options.restart and not announced
        gone = _Gone("you asked for a new one") if asked else self._gone(run, current)
        if gone is None and run.dry_run and not self._options.dry_run:
            gone = _Gone("it was a dry run")
        if gone is None:
            self._say(f"going on with run {run.name}: {run.reason}")
            return run
        self._give_up(run, gone)
        return None

    def _give_up(self, run: Run, gone: _Gone) -> None:
        self._say(f"run {run.name} is given up: {gone.why}")
        self._runs.end(run, "given up", datetime.now(UTC), erased=gone.erased)

    def _gone(self, run: Run, current: str) -> _Gone | None:
        """Return why a run cannot be gone on with."""
        if current == self._runs.challenger(run):
            return None  # it was announced: all that is left is to say so
        if (gone := self._erased(run)) is not None:  # before all else: none of its weights stay
            return gone
        if current != run.champion:
            return _Gone(f"{current} runs by now")
        challenger = self._runs.challenger(run)
        if challenger is not None and self._run(promotion.was_taken_back(self._settings, challenger)):
            return _Gone(f"{challenger} was announced already, and taken back")
        return None

    def _erased(self, run: Run) -> _Gone | None:
        """Return that a run may have learned from something that was erased, None where it has not."""
        folder = self._runs.folder(run)
        if retrain_erased.has_learned(folder, self._erasures.all()):
            return _Gone("a product that it learns from was erased", erased=True)
        if judged.read_pinned(folder / LABELS_FOLDER) is not None:
            kept = {item_id for item_id, _ in self._dataset.verdicts()}
            if any(item.item_id not in kept for item in judged.read_judged(folder / LABELS_FOLDER)):
                return _Gone("something that it learns from was erased", erased=True)
        return None

    def _reason(self, current: str) -> str | None:
        """Return why there is a retraining now, None where there is no reason."""
        if not self._options.if_needed:
            return "asked for"
        found = reason(current, log=self._log, dataset=self._dataset, least=self._settings.retrain.min_labels)
        if not found.retrain:
            self._say(f"nothing to do: {found.why}")
        return found.why if found.retrain else None

    def _purge(self) -> None:
        """Let no erased product wait in the catalogue for the next reason to retrain."""
        catalog = self._options.catalog
        listed = erased.NOTHING if catalog is None else self._erasures.all()
        if catalog is not None and listed and (said := purge_if_possible(catalog, listed).said):
            self._say(said)

    # -- the steps

    def _prepare(self, run: Run) -> None:
        """Pin the labels and fetch the champion, as far as that is not done; leave out what is erased by now."""
        folder = self._runs.folder(run)
        listed = self._erasures.all()
        if run.catalog is not None and (said := retrain_erased.leave_out(folder, Path(run.catalog), listed)):
            self._say(said)
        if judged.read_pinned(folder / LABELS_FOLDER) is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            with Progress(*columns, console=self._console) as bar:
                task = bar.add_task("pinning labels", total=None)
                pinned = pin(
                    self._dataset,
                    self._settings.labels.dataset,
                    folder / LABELS_FOLDER,
                    lambda done, total: bar.update(task, completed=done, total=total),
                    erased=listed,
                )
            self._say(f"labels: version {pinned.version}, {pinned.verdicts} verdicts on {pinned.items} items")
        if not (folder / CHAMPION_FOLDER / run.champion).exists():
            self._fetch(run.champion, folder / CHAMPION_FOLDER)

    def _fetch(self, champion: str, parent: Path) -> None:
        configured = self._configured()
        if configured.name == champion:
            releases.install(self._settings.engine.release or releases.shipped(), parent)
            return
        with self._store.fetched(champion) as directory:
            releases.install(directory, parent)

    def _decide(self, run: Run) -> int:
        """Train and judge; return the training program's exit code."""
        folder = self._runs.folder(run)
        listed = str(folder / retrain_erased.ERASED_FILE)
        catalog = [] if run.catalog is None else ["--catalog", run.catalog, "--erased", listed]
        return train(
            [
                *self._program,
                "retrain",
                str(folder / CHAMPION_FOLDER / run.champion),
                str(folder / LABELS_FOLDER),
                "--work",
                str(folder),
                "--mlflow",
                str(self._options.work),
                *catalog,
                *run.passed,
            ],
            GIVES_WAY,
        )

    def _conclude(self, run: Run, decision: Decision) -> int:
        """Publish and announce, or not; record it; end the run."""
        folder, promoted = self._runs.folder(run), decision.promote
        challenger = self._runs.challenger(run)
        if self._options.dry_run:
            return self._tell_only_you(run, decision)
        if promoted:
            assert challenger is not None
            if (gone := self._promote(run, folder / CHALLENGER_FOLDER / challenger)) is not None:
                self._give_up(run, gone)
                return FAILED
        pinned = judged.read_pinned(folder / LABELS_FOLDER)
        assert pinned is not None
        ended = LastRetraining(
            run=run.name,
            began_at=run.began_at,
            ended_at=datetime.now(UTC),
            outcome="promoted" if promoted else "refused",
            champion=run.champion,
            challenger=challenger,
            reasons=tuple(reason.code for reason in decision.reasons),
            dataset=pinned.dataset,
            dataset_version=pinned.version,
            items=sum(item.mismatches + item.matches > 0 for item in judged.read_judged(folder / LABELS_FOLDER)),
        )
        self._log.record(ended, began=run.began_at, card=folder / CARD_FOLDER)
        self._runs.end(run, ended.outcome, ended.ended_at)
        return PROMOTED if promoted else self._say_refused(run, decision)

    def _tell_only_you(self, run: Run, decision: Decision) -> int:
        """Say what a dry run came to; it ends, a run that another job has begun is left to that job."""
        folder = self._runs.folder(run)
        if run.dry_run:
            self._runs.end(run, "passed" if decision.promote else "refused", datetime.now(UTC))
        if not decision.promote:
            return self._say_refused(run, decision)
        self._say(f"{self._runs.challenger(run)} may take the champion's place: see {folder / CARD_FOLDER}")
        return PROMOTED

    def _say_refused(self, run: Run, decision: Decision) -> int:
        codes = ", ".join(reason.code for reason in decision.reasons)
        self._say(f"refused: {codes}; see {self._runs.folder(run) / CARD_FOLDER}")
        return REFUSED

    def _promote(self, run: Run, directory: Path) -> _Gone | None:
        """Publish and announce; return why not, None where it was.

        Publishing may take minutes, so whether it may be announced is looked at before and after.
        """
        if (gone := self._gone(run, self._champion())) is not None:
            return gone
        before: Checked = promotion.publish(self._store, self._runs.folder(run) / CHAMPION_FOLDER / run.champion)
        checked = promotion.publish(self._store, directory)
        if (gone := self._gone(run, self._champion())) is not None:
            return gone
        try:
            told = self._run(
                promotion.promote(
                    self._settings,
                    checked,
                    by=self._options.by,
                    reason=run.reason,
                    running=before.stored.manifest.release,
                    expected=run.champion,
                )
            )
        except FatalError as error:
            if error.code != promotion.ANNOUNCED_MEANWHILE:
                raise
            return _Gone(str(error))
        self._say(f"{'announced' if told else 'announced already:'} {checked.stored.manifest.release}")
        self._tell_registry(directory.name)
        return None

    def _tell_registry(self, running: str) -> None:
        """Let MLflow's alias `champion` follow what is announced, also by `streamer releases promote | rollback`."""
        train([*self._program, "champion", running, "--mlflow", str(self._options.work)])

    def _say(self, words: str) -> None:
        self._console.print(escape(words), soft_wrap=True, highlight=False)


def retrain(
    options: RetrainOptions,
    settings: Settings,
    console: Console,
    run: Runner[Any],
    *,
    program: Sequence[str] = PROGRAM,
    needs: Sequence[str] = TRAINING_NEEDS,
) -> int:
    """Run the job; return 0 when a challenger was promoted or nothing was to do, 1 when it was refused, 2 otherwise.

    Raises:
        FatalError: train_not_installed, work_in_use, and as `Retrainer.retrain`.
    """
    require(needs, "train")
    with alone(options.work):
        return Retrainer(options, settings, console, run, program=program).retrain()
