"""`benchmarks/quality.py` and its methods, as far as they need no training."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import quality
import quality_methods
import torch
import typer
from quality_figures import DUALS, FUSION
from quality_methods import Unattended, method_of
from quality_run import Run
from torch import nn
from typer.testing import CliRunner

from engines.build import weighing
from engines.build.models.compact import CompactConfig, CompactFusion
from engines.build.recipe import AdaptRecipe
from engines.build.signals import Evidence
from tests import scored_pairs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from quality_scores import Scores

    from engines.build.models.compact import Signals

CONFIG = CompactConfig(
    image_size=64, max_tokens=8, width=32, heads=2, joint=16, readers=1, taggers=1, tags=4, known_texts=2, facets=(3,)
)


class Scored(NamedTuple):
    """As much of a bench as has scores."""

    scores: Scores


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    """Give the benchmark as a command."""
    made = typer.Typer()
    made.command()(quality.measure)
    return made


def model(seed: int) -> CompactFusion:
    """Return a small random model, whose taggers know four words."""
    torch.manual_seed(seed)
    made = CompactFusion(CONFIG, pretrained=False).eval()
    for tagger in made.each_tagger():
        tagger.tag_of[:4] = torch.arange(4)
    assert made.novelty is not None
    made.novelty.know(torch.tensor([[0, 1], [1, 2]]), torch.ones(2, 2))
    return made


@torch.no_grad()
def signals(of: CompactFusion) -> Signals:
    """Return what a model says of three pairs."""
    generator = torch.Generator().manual_seed(9)
    sight = of.see(torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=generator))
    states = torch.rand((3, 8, 384), generator=generator)
    return of.signals(sight, torch.arange(8).repeat(3, 1) % 4, states, torch.ones((3, 8), dtype=torch.int32), None)


def test_unattended_has_the_encoders_signals_and_the_taggers_but_no_fusion() -> None:
    """All that needs no attention, of those who learned it; nothing is trained."""
    encoder, fused = model(0), model(1)
    found = Unattended(encoder, fused.taggers)
    found.backbone, found.palette = encoder.backbone, encoder.palette  # features are read once, by one backbone
    told, plain = signals(found), signals(encoder)
    assert not told.fusion.any()
    assert plain.fusion.any()
    torch.testing.assert_close(told.similarity, plain.similarity)
    torch.testing.assert_close(told.surprise, plain.surprise)
    encoder.taggers = fused.taggers
    torch.testing.assert_close(told.denial, signals(encoder).denial)
    assert not torch.equal(told.denial, plain.denial)
    assert torch.equal(told.novelty, plain.novelty)
    assert told.novelty.any()
    assert isinstance(found.taggers, nn.ModuleList)


@pytest.mark.parametrize("better", [0, 1])
def test_unattended_is_of_the_dual_encoder_that_finds_more_of_the_validation_pairs(
    monkeypatch: pytest.MonkeyPatch, better: int
) -> None:
    """The test pairs have no say, though there the other one is better."""
    scores = scored_pairs.scores()
    for part, first in ((scores.validation, better), (scores.test, 1 - better)):
        for number, name in enumerate(DUALS):
            part.methods[name] = scored_pairs.noisy(part, 0.3 if number == first else 2.0, number)
    asked: list[Unattended] = []
    monkeypatch.setattr(quality_methods, "_weighed", lambda _, __, judge: asked.append(judge))
    encoders = [model(0), model(1)]
    quality_methods.unattended(Scored(scores), encoders, encoders[0].taggers)
    assert asked[0].readers is encoders[better].readers


def test_quality_of_a_folder_that_is_not_there_says_so(app: typer.Typer, tmp_path: Path) -> None:
    """Words and an exit code, as the command line has them, no traceback."""
    result = CliRunner().invoke(app, [str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"), "--threads", "1"])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "catalog_invalid: cannot read" in result.output


@pytest.mark.parametrize("also", ["clip", "clip=", "compact=here", "none=here"])
def test_quality_also_of_no_family_with_a_checkpoint_is_refused(app: typer.Typer, tmp_path: Path, also: str) -> None:
    """Before anything is trained."""
    result = CliRunner().invoke(app, [str(tmp_path), "--out", str(tmp_path / "out"), "--also", also])
    assert result.exit_code == 2
    assert "FAMILY=CHECKPOINT" in result.output
    assert not (tmp_path / "out").exists()


def test_other_families_may_have_checkpoints_with_any_name() -> None:
    """A path may hold `=`; a method is called by the last part of it."""
    assert quality.other_families(["vilt=dandelin/vilt", "clip=/a=b/c"]) == [
        ("vilt", "dandelin/vilt"),
        ("clip", "/a=b/c"),
    ]
    assert method_of("vilt", "dandelin/vilt") == "vilt of vilt"


def test_scoring_of_pairs_is_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a method took is its training and the choice of its weights; what asks it afterwards is measuring."""
    now = [100.0]

    def takes(seconds: float, result: object = None) -> Callable[..., Any]:
        def work(*_: object, **__: object) -> Any:  # noqa: ANN401 - stands for several
            now[0] += seconds
            return result

        return work

    said = Evidence(*(np.zeros(shape) for shape in (4, (4, 0), 4, (4, 0), (4, 0))))
    run = Run(tmp_path, {}, now=lambda: now[0])
    bench: Any = SimpleNamespace(
        run=run,
        recipe=AdaptRecipe(seed=0),
        prepared=SimpleNamespace(validation=SimpleNamespace(catalog=None), facets=SimpleNamespace(names=())),
        asked=takes(50, (said, said)),
        keep=takes(0),
        keep_signals=takes(0),
        weights={},
    )
    monkeypatch.setattr(quality_methods.evaluate, "halves", takes(0, (None, None)))
    monkeypatch.setattr(quality_methods.weighing, "weigh", takes(3))
    monkeypatch.setattr(
        quality_methods.weighing, "weights_of", takes(0, weighing.Weights(np.zeros((2, 2)), np.zeros(2)))
    )
    monkeypatch.setattr(quality_methods.weighing, "combined", takes(0, np.zeros(4)))
    untagged = CompactFusion(replace(CONFIG, taggers=0, tags=0, known_texts=0, facets=()), pretrained=False)
    with run.stage(FUSION):
        now[0] += 10
        quality_methods._weighed(bench, FUSION, untagged)
    assert run.seconds() == {FUSION: 13.0}
