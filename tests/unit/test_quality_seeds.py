"""`benchmarks/quality_seeds.py`: several runs in one table, and which of them reach what is to be reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import quality_seeds
import typer
from quality_figures import DUALS, FUSION

if TYPE_CHECKING:
    from pathlib import Path

GRADE = "hard"


def run(
    seed: int, recall: float, duals: tuple[float, float], aucs: tuple[float, float], low: float | None
) -> dict[str, Any]:
    """Return the facts of a run: recall of fusion and of the dual encoders, their AUCs, the low end of the gain."""

    def method(recall: float, auc: float) -> dict[str, Any]:
        stated = {"average_precision": [recall, 0, 1], "recall_at_precision": {"0.5": [recall, 0, 1]}}
        return {GRADE: {"auc": [auc, 0, 1], "prevalence": {"0.05": stated}}}

    methods = {FUSION: method(recall, 0.92)} | {
        name: method(r, a) for name, r, a in zip(DUALS, duals, aucs, strict=True)
    }
    facts: dict[str, Any] = {"catalog": "shop", "recipe": {"seed": seed}, "methods": methods}
    if low is not None:
        gains = {name: [0.5, low, 1] for name in ("recall", "average_precision", "auc")}
        facts["gains"] = {"the better dual encoder": {GRADE: gains}}
    return facts


def test_gain_of_a_run_is_over_the_better_dual_encoder_of_each_statistic() -> None:
    """The one with more recall has the lower AUC."""
    facts = run(0, 0.64, (0.05, 0.0), (0.85, 0.88), 0.1)
    assert quality_seeds.gain_of(facts, GRADE, "recall") == 0.59
    assert quality_seeds.gain_of(facts, GRADE, "auc") == 0.04


@pytest.mark.parametrize(
    ("statistic", "least", "low", "verdict"),
    [
        ("recall", 0.6, 0.1, "reached"),
        ("recall", 0.7, 0.1, "not reached"),
        ("recall_gain", 0.25, 0.1, "reached"),
        ("recall_gain", 0.25, -0.1, "not reached: 0 is in its interval"),
        ("recall_gain", 0.25, None, "interval to be taken anew"),
        ("auc_gain", 0.05, 0.1, "not reached"),
    ],
)
def test_target_is_reached_by_figure_and_interval(
    statistic: str, least: float, low: float | None, verdict: str
) -> None:
    """A gain counts where its interval excludes 0, and where it was taken against the better dual encoder."""
    facts = run(0, 0.64, (0.05, 0.0), (0.85, 0.88), low)
    assert quality_seeds.reaches(facts, statistic, GRADE, least)[1] == verdict


def test_summary_tells_median_mean_and_each_seeds_verdict(tmp_path: Path) -> None:
    """One seed far off moves the mean, not the median; each seed has its own word."""
    for seed, recall in enumerate((0.5, 0.6, 0.9)):
        (tmp_path / str(seed)).mkdir()
        facts = run(seed, recall, (0.3, 0.2), (0.85, 0.88), 0.1)
        (tmp_path / str(seed) / "quality.json").write_bytes(msgspec.json.encode(facts))
    targets = tmp_path / "targets.toml"
    targets.write_text("[shop.recall]\nhard = 0.55\n")
    quality_seeds.summarise([tmp_path / str(seed) for seed in range(3)], tmp_path / "out", targets)
    text = (tmp_path / "out" / "seeds.md").read_text(encoding="utf-8")
    assert f"| {FUSION} | 0.600, 0.667 (0.500 to 0.900) |" in text
    line = next(line for line in text.splitlines() if line.startswith("| recall, hard"))
    assert line.endswith("| 0.500 not reached | 0.600 reached | 0.900 reached | 0.600 | 0.667 |")
    assert (tmp_path / "out" / "seeds.png").read_bytes().startswith(b"\x89PNG")


def test_summary_without_targets_has_no_table_of_them(tmp_path: Path) -> None:
    """Of an unknown catalogue nothing is to be reached."""
    (tmp_path / "quality.json").write_bytes(msgspec.json.encode(run(0, 0.5, (0.3, 0.2), (0.85, 0.88), None)))
    quality_seeds.summarise([tmp_path], tmp_path / "out", None)
    assert "Targets" not in (tmp_path / "out" / "seeds.md").read_text(encoding="utf-8")


def test_summary_of_a_run_that_was_cut_says_what_to_do(tmp_path: Path) -> None:
    """Its folder is there, its figures are not."""
    with pytest.raises(typer.BadParameter, match="run to its end first"):
        quality_seeds.summarise([tmp_path], tmp_path / "out", None)
