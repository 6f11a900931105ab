"""What strangers may send gets what it may get, class by class; and bytes that nobody has thought of, by fuzzing."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hostile import Trial, refuse_address, score_event, try_urls
from hostile_addresses import addresses
from hostile_cases import OK, case
from hostile_events import records, update
from hostile_pictures import KINDS, encoded, noise, pictures, scan_bomb

from engines.runtime import loader
from streamer.decoding import BlockingDecoders, DecoderPool

if TYPE_CHECKING:
    from hostile_events import Record

ROOT = Path(__file__).parents[2]
FUZZED_S = 6  # each of three
SEEDS = {
    "parse": [b"12345678" + update(), b"{}"],
    "url": [b"http://a.example:80/b?c#d\n//[::1]/x", b"https://u:p@h.example/%41\n../e"],
    "decode": [encoded(noise(12, 12), kind) for kind in KINDS],
}


def wrong(trial: Trial) -> dict[str, list[str]]:
    """Return the cases that got what they may not, and those that took too long."""
    found = {name: [*tried.wrong, *tried.hangs] for name, tried in trial.classes.items()}
    return {name: cases for name, cases in found.items() if cases}


def decoding(*, cpu_s: float) -> BlockingDecoders:
    """Return a decoder as a worker has it, with that limit."""
    engine = loader.load(threads=1)
    engine.close()
    limits: dict[str, Any] = {"max_bytes": 20 * 2**20, "max_pixels": 50_000_000, "memory_bytes": 2**30, "cpu_s": cpu_s}
    return BlockingDecoders(DecoderPool(engine.manifest.image, size=1, **limits))


def test_hostile_pictures_give_pixels_or_a_typed_rejection() -> None:
    """Damaged, lying, exhausting and disguised pictures, decoded as a worker decodes them, none of them for long."""
    trial = Trial()
    with decoding(cpu_s=1.0) as decoders:
        for picture in pictures():
            trial.run("picture", picture, decoders.decode)
    assert {name: cases for name, cases in wrong(trial).items() if name != "picture: bomb"} == {}
    assert trial.classes["picture: bomb"].wrong == []


def test_hostile_events_are_updates_or_a_typed_rejection() -> None:
    """Bytes, nesting, numbers, fields, keys and texts of every kind."""
    engine = loader.load(threads=1)
    engine.close()
    tokenizer = loader.load_tokenizer()

    def score(record: Record) -> None:
        score_event(record, engine.manifest, tokenizer)

    trial = Trial()
    for record in records():
        trial.run("event", record, score)
    assert wrong(trial) == {}


def test_hostile_addresses_are_refused_in_every_form() -> None:
    """Each range of the registries, each IPv4 address inside IPv6; their public neighbours pass."""
    trial = Trial()
    for address in addresses():
        trial.run("address", address, refuse_address)
    assert wrong(trial) == {}


def test_hostile_urls_bring_no_connection() -> None:
    """Odd spellings, schemes, brackets, control characters and ports, asked for as a worker asks."""
    trial = Trial()
    asyncio.run(try_urls(trial))
    assert wrong(trial) == {}


def test_trial_counts_what_is_not_as_it_must_be() -> None:
    """A rejection by another code and an exception that is none of ours are both wrong."""
    trial = Trial()
    trial.run("x", case("k", "one", b"", OK), json.loads)
    trial.run("x", case("k", "two", b"{}", "malformed_json"), json.loads)
    assert trial.classes["x: k"].wrong == ["one: crash: JSONDecodeError", f"two: {OK}"]


def test_trial_counts_by_the_clock_whatever_a_case_got() -> None:
    """A picture that is ended at its limit has taken its time all the same; its CPU time stands beside it."""
    trial = Trial()
    slow = case("k", "slow", b"", "image_decode_timeout")
    trial.note("x", slow, "image_decode_timeout", 2.1, 1.5)
    trial.note("x", slow, "image_decode_timeout", 1.9, 1.6)
    tried = trial.classes["x: k"]
    assert tried.hangs == ["slow: image_decode_timeout after 2.1 s, 1.5 s of CPU"]
    assert (tried.slowest_s, tried.most_cpu_s) == (2.1, 1.6)


def test_trial_tells_the_cpu_time_of_decoders() -> None:
    """A picture costs time in a process below, not in this one."""
    trial = Trial()
    with decoding(cpu_s=0.2) as decoders:
        bomb = case("bomb", "scans", scan_bomb(1000, 20_000), "image_decode_timeout")
        trial.run("picture", bomb, decoders.decode)
    assert trial.classes["picture: bomb"].wrong == []
    assert 0.15 < trial.classes["picture: bomb"].most_cpu_s < 1


def test_trial_eats_folders_of_files(tmp_path: Path) -> None:
    """JSON where the name says so, else pictures; the exit code and the last line say how it went."""
    (tmp_path / "deep").mkdir()
    for number in range(30):
        (tmp_path / "deep" / f"{number}.json").write_bytes(b"[" * number)
        (tmp_path / f"{number}.png").write_bytes(encoded(noise(20, 20, number), "PNG")[: 20 * number])
    command = [sys.executable, str(ROOT / "benchmarks" / "hostile.py"), "--only-files", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["cases"], summary["crashes"], summary["hangs"], summary["wrong"]) == (60, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this machine")
@pytest.mark.parametrize("target", SEEDS)
def test_fuzzed_bytes_are_taken_or_refused(target: str, tmp_path: Path) -> None:
    """Seconds of bytes, grown by coverage from real ones: no exception but the refusals, no hang, no growth."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[target]):
        (corpus / str(number)).write_bytes(seed)
    options = [f"-max_total_time={FUZZED_S}", "-seed=1", "-timeout=5", "-rss_limit_mb=0", "-max_len=4096"]
    command = [sys.executable, str(ROOT / "tests" / "fuzz" / "target.py"), target, *options, str(corpus)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs is not None
    assert int(runs[1]) > 100
