"""`benchmarks/quality.py`, whole, on a few drawn products: every method is measured on every grade."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from engines.catalogs import rendered

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "quality.py"
METHODS = {
    "pooled vectors + MLP",
    "dual encoder",
    "dual encoder, hard negatives",
    "LEMoN",
    "compact, fusion layers alone",
    "compact",
}


@pytest.mark.slow
def test_quality_measures_every_method_on_every_grade(tmp_path: Path) -> None:
    """Two steps of training say nothing of quality; the table, the plot and the intervals are there."""
    rendered.write_folder(rendered.render_catalog(350, 6), tmp_path / "shop", 48)
    options = ("--out", str(tmp_path / "out"), "--epochs", "0.1", "--max-tokens", "16", "--threads", "1")
    options += ("--views", "2", "--readers", "2")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "shop"), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    facts = orjson.loads((tmp_path / "out" / "quality.json").read_bytes())
    assert set(facts["methods"]) == METHODS
    for method in facts["methods"].values():
        assert {"easy", "medium", "hard", "hard-rule", "nearest", "variant"} == set(method)
        for grade in method.values():
            value, low, high = grade["auc"]
            assert 0 <= low <= value <= high <= 1
    assert facts["gain"].keys() == facts["methods"]["compact"].keys()
    assert sum(facts["products"].values()) == 350
    assert "| compact |" in (tmp_path / "out" / "quality.md").read_text()
    assert (tmp_path / "out" / "quality.png").read_bytes().startswith(b"\x89PNG")
    assert [point["auc"].keys() for point in facts["curves"]] == [facts["methods"]["compact"].keys()] * 2
    for picture in ("curves", "misses", "false-alarms"):
        assert (tmp_path / "out" / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    runs = [str(tmp_path / "out")] * 2
    seeds = [sys.executable, str(SCRIPT.with_name("quality_seeds.py")), *runs, "--out", str(tmp_path / "seeds")]
    subprocess.run(seeds, check=True, capture_output=True)
    assert "| compact |" in (tmp_path / "seeds" / "seeds.md").read_text()
