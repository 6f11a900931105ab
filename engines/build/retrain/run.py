"""A retraining from its beginning to its decision; each step leaves a file, and a run that was cut goes on behind it.

    RUN/checkpoint*.pt      training
    RUN/challenger/<name>/  the challenger, exported and compared with its model; named in challenger.json
    RUN/card/               model card and plots
    RUN/decision.json       written last

What cannot be a release (weights that are not numbers, a graph that does not load) is a refused challenger, not an
error of the run: the decision says why, and what there is can be looked at.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np

from engines import releases
from engines.build import tracking
from engines.build.assemble import HeldOut, assemble
from engines.build.models import compact
from engines.build.recipe import PREVALENCE
from engines.build.restore import restore
from engines.build.retrain import catalogue, confirmed, facts, gate, tune_compact, tune_small, votes
from engines.build.retrain.apart import keep_apart
from engines.build.retrain.card import Story, write_card
from engines.build.retrain.decision import Decision, GateRules, Manifests, Observed, refuse
from engines.build.retrain.facts import Known, Retraining
from engines.build.retrain.frozen import BENCHMARK, LABELS, FrozenSet
from engines.build.retrain.paired import Answers
from engines.build.retrain.taught import teach
from engines.build.thresholds import Target
from engines.errors import EngineError, TrainingEnded
from engines.runtime.loader import Place, load_checked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.progress import Progress

    from engines.build.assemble import Source
    from engines.contract import Manifest

DECISION_FILE: Final = "decision.json"
LOCK_FILE: Final = ".lock"
CHALLENGER_FILE: Final = "challenger.json"
CHALLENGER_FOLDER: Final = "challenger"
CARD_FOLDER: Final = "card"


class Asked(NamedTuple):
    """A release, and its logits for each set."""

    manifest: Manifest
    logits: Mapping[str, NDArray[np.float64]]


class Compared(NamedTuple):
    """A decision, and what it was made of: None and nothing where the challenger could not be asked."""

    decision: Decision
    challenger: Manifest | None
    answers: dict[str, Answers]


class Named(msgspec.Struct, frozen=True):
    """`challenger.json`: the release that stands in the run's folder."""

    release: str


def retrain(run: Retraining, progress: Progress) -> Decision:
    """Return the decision on a challenger; its files, and the model card, stand in the run's folder.

    Raises:
        EngineError: the champion cannot be gone on from, labels or catalogue cannot be used, or training was ended.
        OSError: the disk is full.
    """
    run.work.mkdir(parents=True, exist_ok=True)
    with (run.work / LOCK_FILE).open("a") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)  # whoever started this may have been killed, and another one after it
        path = run.work / DECISION_FILE
        if not path.exists():
            write_whole(path, msgspec.json.format(msgspec.json.encode(_decide(run, progress)), indent=2))
        return msgspec.json.decode(path.read_bytes(), type=Decision)


def _decide(run: Retraining, progress: Progress) -> Decision:
    """Return the decision, its card written."""
    known = _read(run, progress)
    tracking.params(facts.all_of(run, known))
    tracking.register(run.champion, tracking.CHAMPION)
    sets = _frozen(known)
    champions = ask(run.champion, sets, progress)
    try:
        directory = _challenger(run, known, progress)
    except TrainingEnded:
        raise  # there is no challenger to refuse: the run goes on when it is started again
    except EngineError as error:
        compared = Compared(refuse(error.code, str(error)), None, {})
    else:
        tracking.register(directory, tracking.CHALLENGER)
        observed = Observed(known.prevalence, int(known.confirmed.audited.sum()))
        compared = compare(directory, Asked(known.champion, champions), sets, observed, run.rules, progress)
    decision = compared.decision
    story = Story(
        champion=known.champion,
        challenger=compared.challenger,
        decision=decision,
        rules=run.rules,
        sets=sets,
        answers=compared.answers,
        champions=champions,
        prevalence=known.prevalence,
        confirmed=known.confirmed,
        facts=facts.all_of(run, known),
    )
    card = write_card(story, run.work / CARD_FOLDER)
    tracking.metrics(facts.figures(decision), step=0)
    tracking.artifacts(card)
    return decision


def compare(  # noqa: PLR0917 - as `gate.judge` takes them
    directory: Path,
    champion: Asked,
    sets: Mapping[str, FrozenSet],
    observed: Observed,
    rules: GateRules,
    progress: Progress,
) -> Compared:
    """Return the decision on a release that stands in a directory; one that is not whole or does not work is refused.

    Args:
        directory: of the challenger.
        champion: and what it answers.
        sets: see `gate.judge`.
        observed: likewise.
        rules: what the challenger is held to.
        progress: bars are added to it.
    """
    try:
        challengers = ask(directory, sets, progress)
        challenger = releases.read_manifest(directory)
    except EngineError as error:
        return Compared(refuse(error.code, str(error)), None, {})
    answers = {name: Answers(champion.logits[name], challengers[name]) for name in sets}
    decision = gate.judge(sets, answers, Manifests(champion.manifest, challenger), observed, rules)
    return Compared(decision, challenger, answers)


def ask(directory: Path, sets: Mapping[str, FrozenSet], progress: Progress) -> dict[str, NDArray[np.float64]]:
    """Return the logits of a release for every set; it is loaded as a scorer loads it, golden pairs and all.

    Raises:
        EngineError: it is not whole, does not load, or does not answer.
    """
    engine, tokenizer = load_checked(directory, place=Place(runtime="cpu"))  # the reference, wherever it runs
    try:
        return {name: one.ask(engine, tokenizer, progress) for name, one in sets.items()}
    finally:
        engine.close()


def challenger_of(work: Path) -> Path | None:
    """Return the directory of the release that a run has made, None where it has made none."""
    path = work / CHALLENGER_FILE
    if not path.exists():
        return None
    return work / CHALLENGER_FOLDER / msgspec.json.decode(path.read_bytes(), type=Named).release


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _read(run: Retraining, progress: Progress) -> Known:
    champion = releases.verify(run.champion)
    source = restore(run.champion)
    people = confirmed.read_confirmed(run.labels, image=source.image, progress=progress, reviewed=run.reviewed)
    parts = catalogue.gather(
        run.catalog,
        run.champion,
        champion,
        products=run.products,
        held_out_products=run.held_out_products,
        progress=progress,
        without=run.digests_erased(),
    )
    people, parts, replayed = keep_apart(parts, people)
    return Known(
        champion=champion,
        source=source,
        parts=parts,
        confirmed=people,
        prevalence=votes.prevalence(people.votes, people.categories),
        taught=teach(parts.training, people, run.recipe, replayed=replayed),
    )


def _frozen(known: Known) -> dict[str, FrozenSet]:
    held = known.confirmed.rows(known.confirmed.part == confirmed.TEST)
    pairs, weights, likely = confirmed.pairs_of(held)
    audited = held.audited[pairs.product]
    benchmark = known.parts.test_pairs
    return {
        BENCHMARK: FrozenSet(BENCHMARK, known.parts.test, benchmark, np.ones(len(benchmark.label)), PREVALENCE),
        LABELS: FrozenSet(
            LABELS, held.catalog, pairs, weights, known.prevalence.overall.value, likely=likely, audited=audited
        ),
    }


def _challenger(run: Retraining, known: Known, progress: Progress) -> Path:
    """Return the directory of the challenger, which is made if it is not there yet.

    Raises:
        ParityExceeded, EngineUnavailable, InferenceFailed: what was trained cannot be a release.
        TrainingEnded: a process that trained was ended; what it had done is gone on from.
    """
    made = challenger_of(run.work)
    if made is not None:
        return made
    family = tune_compact if known.champion.family == compact.FAMILY else tune_small
    task = progress.add_task("training", total=None)
    tuned = family.tune(
        known.source,
        known.taught,
        run.recipe,
        run.work,
        on_step=lambda done, total: progress.update(task, completed=done, total=total),
        progress=progress,
    )
    directory = assemble(
        replace(tuned, provenance=tuned.provenance | facts.provenance(run, known)),
        _validation(known, tuned),
        HeldOut(known.parts.test, tuned.encode(known.parts.test), known.parts.test_pairs),
        target=_target(run, known),
        out=run.work / CHALLENGER_FOLDER,
        progress=progress,
        parent=known.champion.release,
        said={"labels": facts.labels(known)},
    )
    write_whole(run.work / CHALLENGER_FILE, msgspec.json.encode(Named(directory.name)))
    return directory


def _validation(known: Known, source: Source) -> list[HeldOut]:
    """Return the pairs that calibration and thresholds are chosen with: exchanged ones, and confirmed ones."""
    catalog = known.parts.validation
    chosen = [HeldOut(catalog, source.encode(catalog), known.parts.validation_pairs)]
    held = known.confirmed.rows(known.confirmed.part == confirmed.VALIDATION)
    if held.judged:
        pairs, weights, _ = confirmed.pairs_of(held)
        chosen.append(HeldOut(held.catalog, source.encode(held.catalog), pairs, weights))
    return chosen


def _target(run: Retraining, known: Known) -> Target:
    by_category = {name: interval.value for name, interval in known.prevalence.by_category.items()}
    return Target(run.rules.precision, known.prevalence.overall.value, by_category)
