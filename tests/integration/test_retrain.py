"""A retraining from its labels to its decision: killed at each step, spoiled in each way, and let through."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from rich.progress import Progress

from engines import releases
from engines.build import held_out, restore
from engines.build.models.small import SmallFusion
from engines.build.recipe import RetrainRecipe
from engines.build.retrain import confirmed, gate, run, tune_small
from engines.build.retrain.decision import Decision, Manifests, Observed
from engines.build.retrain.frozen import BENCHMARK, LABELS
from engines.build.retrain.paired import Answers
from engines.catalogs import judged
from engines.errors import ParityExceeded, ReleaseNotRestorable, TrainingEnded
from tests import retraining, tiny_release
from tests.killed import Point

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.build.assemble import Source
    from engines.build.retrain.facts import Known
    from engines.build.retrain.frozen import FrozenSet
    from tests.retraining import World

pytestmark = pytest.mark.usefixtures("one_torch_thread")

CREDULOUS = replace(retraining.RETRAIN, steps=160, doubted_weight=3.0, replayed=1)
"""Learns ten times more from what may be a mismatch than a recipe does: one poisoned slice does harm then."""

POINTS = (
    Point("engines.build.retrain.run", "ask"),  # before anything is trained
    Point("engines.build.retrain.tune_small", "save_state", call=2),  # in the middle of training
    Point("engines.build.assemble", "_measure"),  # exported, not yet published
    Point("engines.build.retrain.run", "write_whole"),  # published in the run's folder, not yet named
    Point("engines.build.retrain.run", "compare"),  # named, not yet compared
    Point("engines.build.retrain.run", "write_card"),
    Point("engines.build.retrain.run", "write_whole", call=1),  # decided, the decision not yet written
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, one_torch_thread: None) -> World:
    """A catalogue and a champion that knows it."""
    return retraining.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What people say, and are right."""
    return retraining.write_labels(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def decided(world: World, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int | None]]:
    """A run that was killed at every point and went on each time, and how each of its processes ended."""
    work = tmp_path_factory.mktemp("run")
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.retraining", "engines.build.retrain.run"])
    ended = []
    for point in POINTS:
        child = context.Process(target=retraining.run_until, args=(point, world, labels, work))
        child.start()
        child.join(240)
        ended.append(child.exitcode)
        assert not (work / run.DECISION_FILE).exists()
    with Progress(disable=True) as progress:
        run.retrain(retraining.retraining(world, labels, work), progress)
    return work, ended


@pytest.mark.slow
def test_retraining_killed_at_each_step_goes_on_to_a_decision(
    world: World, decided: tuple[Path, list[int | None]]
) -> None:
    """SIGKILL leaves what the next run goes on from; what comes of it knows the new kind and has lost nothing."""
    work, ended = decided
    assert ended == [-signal.SIGKILL] * len(POINTS)
    decision = msgspec.json.decode((work / run.DECISION_FILE).read_bytes(), type=Decision)
    assert decision.promote, decision.reasons
    assert decision.gains[LABELS].difference.value > 0.15
    challenger = run.challenger_of(work)
    assert challenger is not None
    manifest = releases.verify(challenger)
    assert manifest.parent == world.champion.name
    said = manifest.metrics["labels"]
    assert said["prevalence"][1] < 0.2 < said["prevalence"][2]
    assert set(said["prevalence_by_category"]) == {"Home", "Office", "Party"}
    assert manifest.provenance["labels"]["version"] == 3
    assert not list(work.glob("**/*.partial"))


@pytest.mark.slow
def test_decision_leaves_a_card_with_its_plots(decided: tuple[Path, list[int | None]]) -> None:
    """Markdown and a page, and what they show as files."""
    work, _ = decided
    card = work / run.CARD_FOLDER
    text = (card / "model-card.md").read_text(encoding="utf-8")
    assert "**Promoted.**" in text
    assert "verdicts on 300 items" in text
    decision = msgspec.json.decode((work / run.DECISION_FILE).read_bytes(), type=Decision)
    told = {tuple(line.split(" | ")[:2]) for line in text.splitlines() if line.startswith("| `")}
    assert told >= {(f"| `{test.name}`", test.what) for test in decision.slices}
    names = {test.name for test in decision.slices}
    assert names >= {"benchmark, category: Home", "benchmark, brand: Acme"}
    page = (card / "index.html").read_text(encoding="utf-8")
    assert "Promoted" in page
    assert {path.stem for path in card.glob("*.svg")} >= {
        *(f"{plot}-{name}" for plot in ("precision-recall", "reliability") for name in (BENCHMARK, LABELS)),
        "slices",
        "drift",
    }
    assert page.count("<svg") == len(list(card.glob("*.svg")))
    assert all(name in page for name in names)


@pytest.mark.slow
def test_challenger_is_measured_on_what_its_champion_held_out(
    world: World, decided: tuple[Path, list[int | None]]
) -> None:
    """And holds the same products out again, for its own successor."""
    challenger = run.challenger_of(decided[0])
    assert challenger is not None
    before = held_out.read(world.champion, releases.read_manifest(world.champion))
    after = held_out.read(challenger, releases.read_manifest(challenger))
    assert before is not None
    assert after is not None
    assert before.test == after.test
    assert before.validation < after.validation


@pytest.mark.slow
def test_labels_of_products_that_the_champion_holds_out_teach_nothing(
    world: World, labels: Path, tmp_path: Path
) -> None:
    """All that people judged is one product of the benchmark, which its hash would let be trained on."""
    known = held_out.read(world.champion, releases.read_manifest(world.champion))
    assert known is not None
    tiles = (f"tile-{number}" for number in range(480))
    one = next(i for i in tiles if held_out.mark(i) in known.test and confirmed.part_of(i) == confirmed.TRAINING)
    told = shutil.copytree(labels, tmp_path / "told")
    judgements = [msgspec.structs.replace(i, product_id=one, item_group_id=None) for i in judged.read_judged(told)]
    judged.write_pinned(told, judgements, judged.Pinned(dataset="labels", version=4, items=300, verdicts=600))
    with Progress(disable=True) as progress:
        read = run._read(retraining.retraining(world, told, tmp_path / "run"), progress)
    assert set(read.confirmed.part.tolist()) == {""}
    assert not read.taught.matches.catalog.products
    assert not read.taught.doubted.catalog.products


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _changed(release: Path, name: str, content: bytes) -> None:
    """Give a release another file, and the digest of it: only golden pairs can tell."""
    (release / name).write_bytes(content)
    files = releases.read_manifest(release).files | {name: releases.sha256(release / name)}
    tiny_release.altered(release, files=files)


def _swap_words(release: Path, words: tuple[str, str]) -> None:
    described = msgspec.json.decode((release / releases.TOKENIZER_FILE).read_bytes())
    vocabulary = described["model"]["vocab"]
    one, other = words
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    _changed(release, releases.TOKENIZER_FILE, msgspec.json.encode(described))


def _with_bias(release: Path, bias: float) -> None:
    model = onnx.load(str(release / releases.MODEL_FILE))
    (old,) = (one for one in model.graph.initializer if one.name == "evidence.bias")
    old.CopyFrom(numpy_helper.from_array(np.array([bias], np.float32), "evidence.bias"))
    _changed(release, releases.MODEL_FILE, model.SerializeToString())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda release: _cut(release / releases.MODEL_FILE), "release_corrupt"),
        (lambda release: (release / releases.MANIFEST_FILE).write_text("{"), "manifest_invalid"),
        (partial(_swap_words, words=("red", "blue")), "tokenizer_mismatch"),
        (partial(_with_bias, bias=float("nan")), "inference_failed"),
        (partial(_with_bias, bias=3.0), "golden_mismatch"),
    ],
    ids=["truncated", "no manifest", "wrong tokenizer", "NaN weights", "other weights"],
)
def test_spoiled_challenger_is_refused(  # noqa: PLR0917 - fixtures
    spoil: Callable[[Path], object],
    code: str,
    world: World,
    labels: Path,
    decided: tuple[Path, list[int | None]],
    tmp_path: Path,
) -> None:
    """By the code of what is wrong with it; nothing is compared."""
    challenger = run.challenger_of(decided[0])
    assert challenger is not None
    copy = shutil.copytree(challenger, tmp_path / challenger.name)
    spoil(copy)
    with Progress(disable=True) as progress:
        known = run._read(retraining.retraining(world, labels, tmp_path), progress)
        sets = run._frozen(known)
        champion = run.Asked(known.champion, {name: np.zeros(len(one.pairs.label)) for name, one in sets.items()})
        compared = run.compare(copy, champion, sets, _observed(known), retraining.RULES, progress)
    assert [reason.code for reason in compared.decision.reasons] == [code]
    assert not compared.answers


@pytest.mark.slow
def test_run_on_flipped_labels_ends_in_a_refusal(world: World, tmp_path: Path) -> None:
    """People who say the opposite of what is so teach it; it shows on the catalogue's products, and all is kept."""
    told = retraining.write_labels(tmp_path / "told", says=lambda _, wrong: not wrong)
    work = tmp_path / "run"
    with Progress(disable=True) as progress:
        decision = run.retrain(retraining.retraining(world, told, work), progress)
    assert not decision.promote
    assert "benchmark_loss" in {reason.code for reason in decision.reasons}
    assert msgspec.json.decode((work / run.DECISION_FILE).read_bytes(), type=Decision) == decision
    challenger = run.challenger_of(work)
    assert challenger is not None
    assert releases.verify(challenger).parent == world.champion.name
    text = (work / run.CARD_FOLDER / "model-card.md").read_text(encoding="utf-8")
    assert "**Refused.**" in text
    assert "* `benchmark_loss`: recall at precision 0.5 on the benchmark is" in text


@pytest.mark.slow
def test_run_on_flipped_labels_is_refused_at_the_product_s_own_rates(world: World, tmp_path: Path) -> None:
    """`RetrainRecipe` as it is learns too little of them to do harm; so engine and labels contradict each other."""
    told = retraining.write_labels(tmp_path / "told", says=lambda _, wrong: not wrong, count=900)
    own = replace(retraining.retraining(world, told, tmp_path / "run"), recipe=RetrainRecipe(seed=0))
    with Progress(disable=True) as progress:
        decision = run.retrain(own, progress)
    assert not decision.promote
    assert "labels_contradict" in {reason.code for reason in decision.reasons}
    assert set(decision.contradicted) >= {"category: Home", "category: Office"}
    assert decision.gains[BENCHMARK].difference.low > -0.03  # weights do no harm, and thresholds do
    assert "benchmark, all, alarms" in decision.harmed
    assert {test.what for test in decision.alarms} == {"alarms"}
    text = (tmp_path / "run" / run.CARD_FOLDER / "model-card.md").read_text(encoding="utf-8")
    assert "* `labels_contradict`: category: Home: among " in text
    assert "| `category: Home` | " in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flipped", "audit", "codes"),
    [
        ((), 0.02, set()),
        (retraining.CATEGORIES[:1], 0.02, {"prevalence_implausible", "alarms_risen"}),
        ((), 0.0, {"audit_missing", "alarms_risen"}),
    ],
    ids=["honest", "one poisoned slice", "no audit"],
)
def test_labels_as_they_are_sampled_decide(
    flipped: tuple[str, ...], audit: float, codes: set[str], world: World, tmp_path: Path
) -> None:
    """All that alerts and some of the rest, judged once, by the product's own recipe: thresholds are what moves."""
    told = retraining.write_sampled_labels(
        tmp_path / "told", world, audit=audit, says=lambda category, wrong: wrong != (category in flipped)
    )
    own = replace(retraining.retraining(world, told, tmp_path / "run"), recipe=RetrainRecipe(seed=0))
    with Progress(disable=True) as progress:
        decision = run.retrain(own, progress)
    assert {reason.code for reason in decision.reasons} >= codes, decision.reasons
    assert decision.promote == (not codes), decision.reasons
    if flipped:
        named = {reason.message.split(":")[0] for reason in decision.reasons if reason.code == "prevalence_implausible"}
        assert named == {"all", "Home"}
        assert "benchmark, category: Home, alarms" in decision.harmed


@pytest.mark.slow
def test_challenger_that_learned_a_poisoned_slice_is_refused(world: World, tmp_path: Path) -> None:
    """By the weights: labels that are flipped in one category only, and believed; the slice is named.

    Whether by its recall or by its false alarms depends on where the threshold of all falls, so on the CPU's rounding.
    """
    poisoned = retraining.CATEGORIES[0]
    decision = _learned(world, tmp_path, CREDULOUS, says=lambda category, wrong: wrong != (category == poisoned))
    assert "slice_loss" in {reason.code for reason in decision.reasons}
    home = "benchmark, category: Home"
    assert {f"{home}, {what}" for what in ("recall", "false alarms")} & set(decision.harmed)
    lost: Counter[str] = Counter()
    for test in decision.slices:
        lost[test.name] += test.lost  # recall, and false alarms: Youden's index
    assert lost[home] > lost["benchmark, category: Office"]


@pytest.mark.slow
def test_training_that_was_ended_decides_nothing(
    world: World, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its labels are used up by a decision only: a process that the kernel killed says nothing of a challenger."""

    def ended(*_: object, **__: object) -> Source:
        raise TrainingEnded("SIGKILL killed it")

    monkeypatch.setattr(tune_small, "tune", ended)
    with Progress(disable=True) as progress, pytest.raises(TrainingEnded):
        run.retrain(retraining.retraining(world, labels, tmp_path / "run"), progress)
    assert not (tmp_path / "run" / run.DECISION_FILE).exists()


@pytest.mark.slow
def test_weights_that_are_not_numbers_are_refused_before_they_are_a_release(
    world: World, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training that ends in NaN is a refused challenger with its card, not an error of the run."""

    def diverged(source: Source, *_: object, **__: object) -> Source:
        model = source.model
        assert isinstance(model, SmallFusion)
        with torch.no_grad():
            model.evidence.bias.fill_(float("nan"))
        return source

    monkeypatch.setattr(tune_small, "tune", diverged)
    with Progress(disable=True) as progress:
        decision = run.retrain(retraining.retraining(world, labels, tmp_path / "run"), progress)
    assert [reason.code for reason in decision.reasons] == ["inference_failed"]
    assert "Refused" in (tmp_path / "run" / run.CARD_FOLDER / "model-card.md").read_text(encoding="utf-8")
    assert run.challenger_of(tmp_path / "run") is None


@pytest.mark.slow
def test_restored_release_is_refused_where_it_does_not_answer_as_its_graph(world: World, tmp_path: Path) -> None:
    """Weights of a sister model have the same sizes; they are found out."""
    copy = shutil.copytree(world.champion, tmp_path / world.champion.name)
    restored = restore.restore(copy)
    assert isinstance(restored.model, SmallFusion)
    with torch.no_grad():
        restored.model.evidence.bias.add_(0.5)
    from engines.build import weights  # noqa: PLC0415 - beside its use

    weights.save(restored.model, copy / releases.WEIGHTS_FILE)
    manifest = releases.read_manifest(copy)
    digest = releases.sha256(copy / releases.WEIGHTS_FILE)
    tiny_release.altered(copy, files=manifest.files | {releases.WEIGHTS_FILE: digest})
    with pytest.raises(ParityExceeded):
        restore.restore(copy)


def test_release_that_ships_is_read_back_from_its_graph() -> None:
    """It was made before releases had weights beside their graph; restore compares them itself."""
    restored = restore.restore(releases.shipped())
    assert restored.family == "small"
    assert not restored.model.training


def test_release_of_another_family_is_not_gone_on_with(tmp_path: Path) -> None:
    """The message names the families that are."""
    with pytest.raises(ReleaseNotRestorable, match="small, compact"):
        restore.restore(tiny_release.write(tmp_path))


def _observed(known: Known) -> Observed:
    return Observed(known.prevalence, int(known.confirmed.audited.sum()))


def _learned(world: World, folder: Path, recipe: RetrainRecipe, *, says: Callable[[str, bool], bool]) -> Decision:
    """Train on what people say, and judge the model itself: an export would add nothing but time."""
    told = retraining.write_labels(folder / "told", says=says, count=900)
    with Progress(disable=True) as progress:
        known = run._read(replace(retraining.retraining(world, told, folder / "run"), recipe=recipe), progress)
        sets = run._frozen(known)
        (folder / "run").mkdir()
        tuned = tune_small.tune(
            known.source, known.taught, recipe, folder / "run", on_step=lambda *_: None, progress=progress
        )
    champion = restore.restore(world.champion)
    answers = {name: Answers(_logits(champion, one), _logits(tuned, one)) for name, one in sets.items()}
    return gate.judge(sets, answers, Manifests(known.champion, known.champion), _observed(known), retraining.RULES)


@torch.no_grad()
def _logits(source: Source, asked: FrozenSet) -> NDArray[np.float64]:
    texts, pairs = source.encode(asked.catalog), asked.pairs
    found: NDArray[np.float32] = source.model(
        torch.from_numpy(asked.catalog.pixel_values[pairs.picture]),
        torch.from_numpy(texts.input_ids[pairs.product]),
        torch.from_numpy(texts.attention_mask[pairs.product]),
    ).numpy()
    return found.astype(np.float64)
