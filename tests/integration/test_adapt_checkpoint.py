"""`python -m engines.build adapt --checkpoint`, whole: from a tiny checkpoint in the hub's format to a release."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engines import releases
from engines.build import families
from engines.build.adapt_checkpoint import TUNED_FOLDER
from engines.build.cli import app
from engines.catalogs import rendered
from engines.runtime.loader import load
from tests import tiny_families

ROOT = Path(__file__).parents[2]
OPTIONS = ("--epochs", "0.2", "--max-tokens", "8", "--threads", "1", "--seed", "5", "--shares", "0.4", "0.3", "0.3")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of drawn products."""
    folder = tmp_path_factory.mktemp("data") / "shop"
    rendered.write_folder(rendered.render_catalog(200, 6), folder, tiny_families.SIZE)
    return folder


def options(tmp_path: Path, shop: Path, family: str, *more: str) -> list[str]:
    """Write a tiny checkpoint of the family, and return the options of its adaptation."""
    families.save(tiny_families.source(family), tmp_path / "checkpoint")
    out = str(tmp_path / "out")
    checkpoint = ("--family", family, "--checkpoint", str(tmp_path / "checkpoint"))
    return ["adapt", str(shop), "--out", out, *checkpoint, *OPTIONS, *more]


@pytest.mark.slow
def test_adapt_checkpoint_publishes_a_release_that_runs(tmp_path: Path, shop: Path) -> None:
    """Tuned, exported, compared, measured by grade; and saved for the next time."""
    result = CliRunner().invoke(app, options(tmp_path, shop, "blip", "--attributes"))
    assert result.exit_code == 0, result.output
    release = Path(result.output.splitlines()[-1])
    manifest = releases.verify(release)
    assert {"all", "easy", "hard", "nearest", "variant"} <= set(manifest.metrics["test"])
    assert manifest.metrics["onnx_minus_torch"] < 1e-4
    assert manifest.attributes is not None
    assert manifest.attributes.numbers == ("price",)
    assert manifest.provenance["checkpoint"] == "checkpoint"
    assert manifest.provenance["recipe"]["seed"] == 5
    assert load(release, threads=1).manifest.release == release.name
    assert (tmp_path / "out" / f"{release.name}-report" / "index.html").exists()
    tuned = tmp_path / "out" / "work" / TUNED_FOLDER
    loaded = families.load("blip", tuned, max_tokens=8, attributes=manifest.attributes)
    assert loaded.inputs == manifest.inputs


@pytest.mark.slow
def test_adapt_checkpoint_in_two_processes_publishes_one_release(tmp_path: Path, shop: Path) -> None:
    """`accelerate launch` shares each step's pairs; one process writes, both end."""
    launch = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--main_process_port", "0")
    done = subprocess.run(
        [sys.executable, *launch, "-m", "engines.build", *options(tmp_path, shop, "clip")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = done.stdout.splitlines()
    assert releases.verify(Path(line)).family == "clip"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--family", "vilt"), "vilt needs --checkpoint"),
        (("--family", "compact", "--checkpoint", "somewhere"), "compact takes no --checkpoint"),
        (("--family", "small", "--attributes"), "small reads no --attributes"),
    ],
)
def test_adapt_options_that_do_not_go_together_are_refused(tmp_path: Path, given: tuple[str, ...], said: str) -> None:
    """Before anything is read."""
    result = CliRunner().invoke(app, ["adapt", str(tmp_path), "--out", str(tmp_path / "out"), *given])
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())


def test_adapt_checkpoint_that_is_none_says_so(tmp_path: Path) -> None:
    """An empty directory ends with the error's code, not with a traceback."""
    (tmp_path / "nothing").mkdir()
    given = ["--family", "clip", "--checkpoint", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["adapt", str(tmp_path), *given])
    assert result.exit_code == 1
    assert "engine_unavailable" in result.output
