"""The command line: it teaches, it answers at once, and an error is one line and an exit code."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from streamer import __version__, topics
from streamer.cli import main
from streamer.erasures import Erasures
from streamer.settings import Settings, TopicSettings
from tests.brokers import read_all

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.demo.broker import EmbeddedBroker

COMMANDS = (
    *("demo", "score", "publish", "collect", "adapt", "compile", "doctor", "settings", "topics create", "topics list"),
    "drift",
    *("dead-letters list", "dead-letters show", "dead-letters replay"),
    *(
        "releases list",
        "releases show",
        "releases promote",
        "releases rollback",
        "releases shadow",
        "releases compare",
        "labels",
        "labels erase",
        "labels restore",
        "labels stats",
    ),
)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no line be broken by the width of a terminal, and no .env file speak."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


def code_of(*arguments: str) -> int:
    """Run a command line and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_an_example_and_its_settings(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Who knows the command's name needs nothing else."""
    assert code_of(*command.split(), "--help") == 0
    shown = capsys.readouterr().out
    assert f"Example: streamer {command}" in shown
    assert "Settings: " in shown or "play no part" in shown


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The first screen shows the way."""
    assert code_of("--help") == 0
    shown = capsys.readouterr().out
    assert all(command.split()[0] in shown for command in COMMANDS)


def test_help_imports_nothing_that_is_slow() -> None:
    """`--help` answers at once: no Kafka client, no runtime, no settings are loaded for it."""
    slow = {"aiokafka", "faust", "onnxruntime", "numpy", "pydantic_settings", "PIL", "torch"}
    script = (
        "import sys; from streamer import cli\n"
        "try: cli.main(['publish', '--help'])\n"
        "except SystemExit: pass\n"
        f"print(sorted({slow} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    """One number for the package and its command."""
    assert code_of("--version") == 0
    assert capsys.readouterr().out == f"streamer {__version__}\n"


def test_error_is_one_line_on_stderr_and_exit_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback: the code for programs, the words for people."""
    assert code_of("topics", "list", "--bootstrap", "127.0.0.1:1") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("broker_unreachable: no Kafka answers at 127.0.0.1:1 ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("STREAMER_TOPICS__PARTITIONS", "many", "STREAMER_TOPICS__PARTITIONS"),
        ("STREAMER_TOPICS__PARTITION", "3", "STREAMER_TOPICS__PARTITION"),
        ("STREAMER_FETCH__ALLOW_HOSTS", "cdn.internal:80", 'lists are JSON, ["HOST:PORT"'),
    ],
)
def test_settings_that_are_wrong_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str, named: str
) -> None:
    """The variable to correct, or how it is written, is in the message."""
    monkeypatch.setenv(variable, value)
    assert code_of("settings") == 2
    assert named in capsys.readouterr().err


def test_settings_are_listed_with_secrets_masked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every setting is there; a password is never shown."""
    monkeypatch.setenv("STREAMER_BROKER__PASSWORD", "sesame")
    monkeypatch.setenv("STREAMER_FETCH__ALLOW_HOSTS", '["cdn.internal:80"]')
    assert code_of("settings") == 0
    shown = capsys.readouterr().out
    assert "sesame" not in shown
    assert "********" in shown
    assert '["cdn.internal:80"]' in shown
    for section, field in Settings.model_fields.items():
        for name in getattr(field.annotation, "model_fields", {}):
            assert f"STREAMER_{section}__{name}".upper() in shown


def test_settings_template_changes_nothing_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The template is valid as it is, and valid with any of its lines uncommented that has a value."""
    monkeypatch.setenv("STREAMER_BROKER__PASSWORD", "sesame")
    assert code_of("settings", "--env") == 0
    template = capsys.readouterr().out
    assert "sesame" not in template
    monkeypatch.delenv("STREAMER_BROKER__PASSWORD")
    (tmp_path / ".env").write_text(template, encoding="utf-8")
    assert Settings() == Settings.model_construct()
    lines = [line.removeprefix("# ") for line in template.splitlines()]
    given = [line for line in lines if line.startswith("STREAMER_") and not line.endswith("=")]
    (tmp_path / ".env").write_text("\n".join(given), encoding="utf-8")
    assert Settings() == Settings.model_construct()


def test_publish_dry_run_counts_and_exits_with_one_for_bad_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad rows are told by line, and the exit code says that there were some."""
    feed = tmp_path / "feed.jsonl"
    feed.write_text('{"id":"1"}\n{"id":\n', encoding="utf-8")
    assert code_of("publish", str(feed), "--dry-run") == 1
    shown = capsys.readouterr().err
    assert "line 2 malformed_json" in shown
    assert "2 rows: 1 good, 1 bad; nothing was sent" in shown


def test_publish_without_topic_says_which_command_creates_it(
    tmp_path: Path, tansu: EmbeddedBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped topic is not created by writing to it."""
    feed = tmp_path / "feed.jsonl"
    feed.write_text('{"id":"1"}\n', encoding="utf-8")
    assert code_of("publish", str(feed), "--bootstrap", tansu.bootstrap, "--topic", "typo") == 2
    assert capsys.readouterr().err.startswith("topic_missing: ")
    assert code_of("topics", "list", "--bootstrap", tansu.bootstrap) == 0
    assert "typo" not in capsys.readouterr().out


def test_publish_twice_says_that_it_is_done(
    tmp_path: Path, tansu: EmbeddedBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Create, publish, and publish again: the second time sends nothing."""
    feed = tmp_path / "feed.csv"
    feed.write_text("id,title\n1,Mug\n2,Lamp\n", encoding="utf-8")
    assert code_of("topics", "create", "--partitions", "2", "--bootstrap", tansu.bootstrap) == 0
    assert capsys.readouterr().out.count("created") == len(topics.specs(TopicSettings()))
    assert code_of("publish", str(feed), "--bootstrap", tansu.bootstrap) == 0
    assert "published 2 rows" in capsys.readouterr().err
    assert code_of("publish", str(feed), "--bootstrap", tansu.bootstrap) == 0
    assert "already published: all 2 rows" in capsys.readouterr().err


def test_erasure_is_of_what_people_said_unless_it_is_everywhere(
    tansu: EmbeddedBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """The deletion comes first; a topic that is not there keeps both from being written."""
    names = TopicSettings()
    assert code_of("labels", "erase", "a", "--everywhere", "--bootstrap", tansu.bootstrap) == 2
    assert "topics_missing" in capsys.readouterr().err
    assert code_of("topics", "create", "--partitions", "1", "--bootstrap", tansu.bootstrap) == 0
    assert code_of("labels", "erase", "a", "--bootstrap", tansu.bootstrap) == 0
    assert asyncio.run(read_all(tansu.bootstrap, names.updates)) == []
    assert code_of("labels", "erase", "b", "--everywhere", "--bootstrap", tansu.bootstrap) == 0
    (deleted,) = asyncio.run(read_all(tansu.bootstrap, names.updates))
    asked = asyncio.run(read_all(tansu.bootstrap, names.labels))
    assert (deleted.key, deleted.value) == (b"b", None)
    assert [(one.key, one.value) for one in asked] == [(b"a", None), (b"b", None)]
    assert deleted.timestamp <= asked[1].timestamp


def test_restored_product_is_taken_off_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And a second time there is nothing to do."""
    Erasures(str(tmp_path / "labels")).add("a")
    for said in ("restored", "it is not on the list"):
        assert code_of("labels", "restore", "a", "--dataset", str(tmp_path / "labels")) == 0
        assert said in capsys.readouterr().out
    assert Erasures(str(tmp_path / "labels")).all() == frozenset()


def test_doctor_as_json_is_one_object_and_fails_without_a_broker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program reads the same findings, and the exit code."""
    assert code_of("doctor", "--json", "--bootstrap", "127.0.0.1:1", "--release", str(tmp_path)) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    failed = [finding["check"] for finding in report["findings"] if finding["status"] == "fail"]
    assert failed == ["release", "broker"]
    assert all(finding["advice"] for finding in report["findings"] if finding["status"] == "fail")
