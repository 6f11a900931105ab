"""`benchmarks/quality.py`, whole, on a few drawn products: every method is measured on every grade."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
import quality_scores
import quality_seeds
import quality_signals

from engines.build import families, grades
from engines.catalogs import rendered
from tests import tiny_families

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "quality.py"
METHODS = {
    "pooled vectors + MLP",
    "dual encoder",
    "dual encoder, hard negatives",
    "LEMoN",
    "compact, fusion layers alone",
    "compact",
    "dual encoder + facets + taggers",
    "clip of tiny",
}
STAGES = {"features", *METHODS} - {"compact, fusion layers alone", "dual encoder + facets + taggers"}


@pytest.mark.slow
def test_quality_measures_every_method_on_every_grade(tmp_path: Path) -> None:
    """Two steps of training say nothing of quality; the table, the plot and the intervals are there."""
    rendered.write_folder(rendered.render_catalog(200, 6), tmp_path / "shop", 48)
    families.save(tiny_families.source("clip"), tmp_path / "tiny")
    options = ("--out", str(tmp_path / "out"), "--epochs", "0.1", "--max-tokens", "16", "--threads", "1")
    options += ("--shares", "0.4", "0.3", "0.3")
    options += ("--views", "1", "--readers", "2", "--also", f"clip={tmp_path / 'tiny'}")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "shop"), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    facts = orjson.loads((tmp_path / "out" / "quality.json").read_bytes())
    assert set(facts["methods"]) == METHODS
    for method in facts["methods"].values():
        assert set(method) == grades.MEANINGS.keys()
        for grade in method.values():
            value, low, high = grade["auc"]
            assert 0 <= low <= value <= high <= 1
    for gains in facts["gains"].values():
        assert gains.keys() == facts["methods"]["compact"].keys()
    assert set(facts["gains"]) == {"the better dual encoder", "dual encoder + facets + taggers"}
    assert facts["seconds"].keys() == STAGES
    assert facts["seconds_whole"]
    assert sum(facts["products"].values()) == 200
    assert "| compact |" in (tmp_path / "out" / "quality.md").read_text()
    assert (tmp_path / "out" / "quality.png").read_bytes().startswith(b"\x89PNG")
    assert [point["auc"].keys() for point in facts["curves"]] == [facts["methods"]["compact"].keys()] * 2
    for picture in ("curves", "misses", "false-alarms"):
        assert (tmp_path / "out" / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    scores = quality_scores.load(tmp_path / "out")
    for part in (scores.validation, scores.test):
        assert set(part.methods) == METHODS
    assert not scores.test.choosing.any()
    assert all(np.isfinite(said).all() for said in scores.test.methods.values())
    assert all(np.isfinite(said[scores.validation.choosing]).all() for said in scores.validation.methods.values())
    assert scores.validation.draw.max() == 3
    quality_seeds.summarise([tmp_path / "out"] * 2, tmp_path / "seeds")
    assert "| compact |" in (tmp_path / "seeds" / "seeds.md").read_text()
    lines = quality_signals.table(scores)
    assert [line.split(" |")[0] for line in lines if line.startswith("| ridge")] == [
        "| ridge",
        "| ridge, with disagreement",
    ]
