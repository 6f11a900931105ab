"""`streamer adapt` up to training, which a tiny program stands for here."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import orjson
import pytest
from PIL import Image
from rich.console import Console

from engines.catalogs.folder import read_folder
from streamer.adapt import AdaptOptions, adapt, require, train
from streamer.cli import main
from streamer.erasures import Erasures
from streamer.errors import FatalError
from streamer.pictures import INDEX_FILE, open_index
from streamer.settings import LabelSettings, Settings

if TYPE_CHECKING:
    from pathlib import Path

RECORD = "import json, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(json.dumps(sys.argv[2:])); sys.exit(7)"

# A parent that trains; its child says that it is ready, waits for a signal, and says which one it was.
CHILD = """
import signal, sys, time
def say(number, _):
    print("got", signal.Signals(number).name, flush=True)
    sys.exit(3)
signal.signal(signal.SIGINT, say)
signal.signal(signal.SIGTERM, say)
print("ready", flush=True)
signal.pause()
"""
PARENT = "import sys; from streamer.adapt import train; sys.exit(train([sys.executable, '-c', sys.argv[1]]))"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A feed of two products, one of them without its picture."""
    folder = tmp_path / "shop"
    folder.mkdir()
    Image.new("RGB", (20, 10), "red").save(folder / "1.jpg")
    rows = [{"id": str(n), "title": f"Mug {n}", "image_link": f"{n}.jpg"} for n in (1, 2)]
    (folder / "feed.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return folder


def run(tmp_path: Path, catalog: Path, *passed: str) -> tuple[int, list[str], str]:
    """Adapt with a program that records its arguments; return its exit code, those, and what was shown."""
    shown = io.StringIO()
    options = AdaptOptions(
        command="adapt", catalog=catalog, out=tmp_path / "release", work=tmp_path / "work", passed=passed
    )
    program = (sys.executable, "-c", RECORD, str(tmp_path / "arguments"))
    console = Console(file=shown, width=200)
    settings = Settings(labels=LabelSettings(dataset=str(tmp_path / "labels")))
    code = adapt(options, settings, console, asyncio.run, program=program, needs=())
    return code, orjson.loads((tmp_path / "arguments").read_bytes()), shown.getvalue()


def test_adapt_feed_is_collected_surveyed_and_trained_on(tmp_path: Path, shop: Path) -> None:
    """Training gets the collected folder and every option that is its own; its exit code comes back."""
    code, arguments, shown = run(tmp_path, shop / "feed.jsonl", "--epochs", "3")
    collected = tmp_path / "work/catalog"
    assert code == 7
    assert arguments == [
        "adapt", str(collected), "--out", str(tmp_path / "release"), "--epochs", "3",
    ]  # fmt: skip
    assert [item.id for item in read_folder(collected)] == ["1"]
    assert "image_not_found" in (tmp_path / "work/survey/index.html").read_text()
    assert "collected 1 of 2 products" in shown
    assert "1 refused: image_not_found" in shown


def test_adapt_folder_that_was_collected_is_used_where_it_stands(tmp_path: Path, shop: Path) -> None:
    """What `streamer collect` has finished is not collected again."""
    out = tmp_path / "collected"
    with pytest.raises(SystemExit) as ended:
        main(["collect", str(shop / "feed.jsonl"), "--out", str(out)])
    assert not ended.value.code
    assert (out / "survey/survey.json").exists()
    _, arguments, _ = run(tmp_path, out)
    assert arguments[:2] == ["adapt", str(out)]
    assert not (tmp_path / "work/catalog").exists()


def test_adapt_folder_with_an_erased_product_is_purged_or_copied_without_it(tmp_path: Path, shop: Path) -> None:
    """Where the folder cannot be written, training gets a copy, and its owner is told what stands there still."""
    out = tmp_path / "collected"
    Image.new("RGB", (20, 10), "blue").save(shop / "2.jpg")
    with pytest.raises(SystemExit):
        main(["collect", str(shop / "feed.jsonl"), "--out", str(out), "--no-survey"])
    Erasures(str(tmp_path / "labels")).add("2")
    index = open_index(out / INDEX_FILE)  # as another run does
    try:
        _, arguments, shown = run(tmp_path, out)
    finally:
        index.close()
    assert arguments[1] == str(tmp_path / "work/catalog")
    assert [item.id for item in read_folder(tmp_path / "work/catalog")] == ["1"]
    assert f"1 erased products stand in {out} still: delete them there" in shown
    _, arguments, shown = run(tmp_path, out)
    assert arguments[1] == str(out)
    assert [item.id for item in read_folder(out)] == ["1"]
    assert f"removed from {out}: 1 erased products, 1 pictures" in shown


@pytest.mark.parametrize(
    ("command", "own", "passed"),
    [
        (
            "adapt",
            ["--family", "tiny", "--epochs", "3"],
            ["--work", "{out}.work/training", "--family", "tiny", "--epochs", "3"],
        ),
        ("audit", ["--folds", "3"], ["--work", "{out}.work/training", "--folds", "3"]),
    ],
)
def test_commands_pass_on_what_is_the_training_program_s(  # noqa: PLR0917 - fixtures and cases
    tmp_path: Path, shop: Path, monkeypatch: pytest.MonkeyPatch, command: str, own: list[str], passed: list[str]
) -> None:
    """`streamer adapt` and `streamer audit` say what to do, where, and all that they do not know themselves."""
    asked: list[AdaptOptions] = []

    def record(options: AdaptOptions, *_: object) -> int:
        asked.append(options)
        return 5

    monkeypatch.setattr("streamer.adapt.adapt", record)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main([command, str(shop / "feed.jsonl"), "--out", str(out), *own])
    assert ended.value.code == 5
    (options,) = asked
    assert (options.command, options.out, options.work) == (command, out, tmp_path / "out.work")
    assert list(options.passed) == [argument.format(out=out) for argument in passed]


def test_adapt_without_torch_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is begun that cannot be ended."""
    with pytest.raises(FatalError, match=r"no_such_torch missing: pip install 'mismatch-streamer\[train\]'") as caught:
        require(["json", "no_such_torch"], "train")
    assert caught.value.code == "train_not_installed"


def test_adapt_program_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    """A missing interpreter is an error with a code, and leaves the signals as they were."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(FatalError) as caught:
        train([str(tmp_path / "none")])
    assert caught.value.code == "train_not_started"
    assert signal.getsignal(signal.SIGTERM) is before


def test_adapt_program_is_given_variables_that_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says already wins."""
    monkeypatch.setenv("MINE", "0")
    monkeypatch.delenv("YOURS", raising=False)
    said = "import os, sys; sys.exit(10 * int(os.environ['MINE']) + int(os.environ['YOURS']))"
    assert train([sys.executable, "-c", said], {"MINE": "1", "YOURS": "2"}) == 2


def test_adapt_training_that_a_signal_ends_has_the_shell_s_exit_code() -> None:
    """128 + the number, as a shell reports it."""
    assert train([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 137


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_adapt_signal_reaches_training_once_and_its_exit_code_comes_back(number: signal.Signals) -> None:
    """Training decides how it ends: it may be writing its last checkpoint."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    with parent:
        assert parent.stdout.readline() == "ready\n"
        os.killpg(parent.pid, number)  # as a terminal does: to the group of the parent
        assert parent.stdout.read() == f"got {number.name}\n"
    assert parent.returncode == 3
