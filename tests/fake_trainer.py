"""Stands for `python -m engines.build` in tests of the job around it: makes a release without training anything.

    python tests/fake_trainer.py retrain CHAMPION LABELS --work RUN --mlflow DIR [--catalog DIR --erased FILE]
        [--verdict promote|refuse|fail|crash]
    python tests/fake_trainer.py champion RELEASE --mlflow DIR

What it was asked is appended to DIR/asked.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

CODES = {"promote": 0, "refuse": 1, "fail": 2}


def main() -> int:
    """Do what is asked; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("release")
    parser.add_argument("labels", nargs="?")
    parser.add_argument("--work")
    parser.add_argument("--mlflow")
    parser.add_argument("--catalog")
    parser.add_argument("--erased")
    parser.add_argument("--verdict", default="promote")
    given = parser.parse_args()
    with (Path(given.mlflow) / "asked.jsonl").open("a") as asked:
        erased = [] if given.erased is None else [given.erased]
        asked.write(json.dumps([given.command, Path(given.release).name, *erased]) + "\n")
    if given.command == "champion":
        return 0
    return _retrain(given)


def _retrain(given: argparse.Namespace) -> int:
    from engines.catalogs.judged import read_judged  # noqa: PLC0415 - with what takes a second to import
    from tests import tiny_release  # noqa: PLC0415 - likewise

    run = Path(given.work)
    assert (Path(given.release) / "manifest.json").exists()
    assert read_judged(Path(given.labels))
    if given.verdict == "crash":
        raise RuntimeError("nobody expected this")
    if given.verdict != "fail" and not (run / "decision.json").exists():
        challenger = tiny_release.write(run / "challenger", bias=1.25)
        (run / "challenger.json").write_text(json.dumps({"release": challenger.name}))
        (run / "card").mkdir(exist_ok=True)
        (run / "card" / "model-card.md").write_text("# A card\n")
        reasons = [] if given.verdict == "promote" else [{"code": "benchmark_loss", "message": "worse"}]
        (run / "decision.json").write_text(json.dumps({"promote": not reasons, "reasons": reasons}))
    return CODES[given.verdict]


if __name__ == "__main__":
    sys.exit(main())
