"""Pictures decoded in processes of their own: the same pixels, and whatever a picture does, the next one is decoded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hostile_pictures import KINDS, encoded, noise, scan_bomb
from PIL import Image

from engines.contract import ImageSpec
from engines.errors import ImageRefused
from engines.image import decode
from streamer.decoding import DecoderPool
from streamer.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEC = ImageSpec(height=32, width=24)
LIMITS: dict[str, Any] = {
    "size": 1,
    "max_bytes": 20 * 2**20,
    "max_pixels": 50_000_000,
    "memory_bytes": 2**30,
    "cpu_s": 5.0,
}
GOOD = encoded(noise(64, 48), "PNG")


@contextmanager
def pool(**changes: Any) -> Iterator[DecoderPool]:  # noqa: ANN401 - limits as the pool takes them
    """Yield a running pool."""
    with DecoderPool(SPEC, **{**LIMITS, **changes}) as running:
        yield running


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecoderPool]:
    """Yield a pool that the tests share which do not harm it."""
    with pool() as running:
        yield running


def refusal(decoders: DecoderPool, data: bytes) -> str:
    """Return the code with which the bytes are refused."""
    with pytest.raises(ImageRefused) as caught:
        decoders.decode(data)
    return caught.value.code


def children(pid: int) -> list[int]:
    """Return the processes that this one has started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def running(pid: int) -> bool:
    """Tell whether the process is there, and no zombie that waits for whoever inherits it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def nursery() -> int:
    """Return the pool's nursery, the youngest child of this process."""
    return max(children(os.getpid()), key=lambda pid: int(Path(f"/proc/{pid}/stat").read_text().split()[21]))


def await_decoder() -> int:
    """Return the decoder below the nursery, when it is there."""
    while not (found := children(nursery())):
        time.sleep(0.005)
    return found[0]


@pytest.mark.parametrize("kind", KINDS)
def test_decode_in_a_process_gives_the_same_pixels(decoders: DecoderPool, kind: str) -> None:
    """Where a picture is decoded changes nothing."""
    data = encoded(noise(64, 48), kind)
    pixels = decoders.decode(data)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert np.array_equal(pixels, decode(data, SPEC, max_pixels=10**8))


def test_decode_in_a_process_refuses_with_the_same_code(decoders: DecoderPool) -> None:
    """Refusals cross the boundary with their code, and none of the next picture's pixels are lost to them."""
    assert refusal(decoders, b"") == "image_truncated"
    assert refusal(decoders, GOOD[:100]) == "image_truncated"
    assert refusal(decoders, b"<html>") == "image_unsupported"
    assert refusal(decoders, b"\xff\xd8\xff" + bytes(20 * 2**20)) == "image_too_large"
    assert decoders.decode(GOOD).shape == (3, 32, 24)


def test_decode_from_many_threads_answers_each_its_own(decoders: DecoderPool) -> None:
    """Callers wait for a decoder and get their own picture."""
    wrong: list[int] = []

    def check(red: int) -> None:
        data = encoded(Image.new("RGB", (48, 64), (red, 0, 0)), "PNG")
        answers = [decoders.decode(data)[0, 16, 12] for _ in range(5)]
        wrong.extend(answer for answer in answers if answer != red)

    threads = [threading.Thread(target=check, args=(red,)) for red in range(40, 48)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_decode_that_takes_too_long_is_ended() -> None:
    """A progressive JPEG of a few hundred kilobytes that would decode for minutes costs its CPU limit and no more."""
    with pool(cpu_s=0.2) as decoders:
        assert refusal(decoders, scan_bomb(6000, 20_000)) == "image_decode_timeout"
        assert decoders.decode(GOOD).shape == (3, 32, 24)


def test_decode_that_needs_too_much_memory_is_refused() -> None:
    """An allocation beyond the limit rejects that one picture."""
    with pool(memory_bytes=32 * 2**20) as decoders:
        assert refusal(decoders, encoded(Image.new("L", (9000, 5000)), "PNG", compress_level=1)) == "image_too_large"
        assert decoders.decode(GOOD).shape == (3, 32, 24)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_decode_whose_decoder_dies_is_refused(number: signal.Signals) -> None:
    """A crash takes the picture in work, which is told, and the next one finds another decoder."""
    with pool(cpu_s=30) as decoders:
        decoders.decode(GOOD)
        decoder = await_decoder()
        codes: list[str] = []
        thread = threading.Thread(target=lambda: codes.append(refusal(decoders, scan_bomb(6000, 20_000))))
        thread.start()
        cpu = Path(f"/proc/{decoder}/stat")
        before = int(cpu.read_text().split()[13])
        while int(cpu.read_text().split()[13]) < before + 5:  # it is at work
            time.sleep(0.005)
        os.kill(decoder, number)
        thread.join()
        assert codes == ["image_decoder_crashed"]
        assert decoders.decode(GOOD).shape == (3, 32, 24)


def test_decode_after_an_idle_decoder_died_is_not_disturbed() -> None:
    """Nobody is told of a death that cost no picture."""
    with pool() as decoders:
        decoders.decode(GOOD)
        os.kill(await_decoder(), signal.SIGKILL)
        assert decoders.decode(GOOD).shape == (3, 32, 24)
        assert refusal(decoders, b"<html>") == "image_unsupported"


def test_decode_after_the_nursery_died_starts_another() -> None:
    """Not even the process that keeps the decoders is one that must not die."""
    with pool(size=2) as decoders:
        decoders.decode(GOOD)
        first = nursery()
        os.killpg(first, signal.SIGKILL)
        assert decoders.decode(GOOD).shape == (3, 32, 24)
        assert decoders.decode(GOOD).shape == (3, 32, 24)
        assert nursery() != first


def test_decode_where_no_decoder_can_live_is_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which decoders cannot run has a worker that stops, not one that rejects every picture."""
    monkeypatch.setattr(
        "streamer.decoding.environment", lambda variables: {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/"}
    )
    with pool() as decoders, pytest.raises(FatalError) as caught:
        decoders.decode(GOOD)
    assert caught.value.code == "decoder_unusable"


def test_decoder_knows_no_secret_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password of the broker is not in the environment of the process that strangers' pictures may take over."""
    monkeypatch.setenv("STREAMER_BROKER__PASSWORD", "sesame")
    with pool() as decoders:
        decoders.decode(GOOD)
        for pid in (nursery(), await_decoder()):
            assert b"sesame" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_pool_at_its_end_leaves_no_process() -> None:
    """Decoders end with the pool, also in the middle of a picture."""
    with pool() as decoders:
        decoders.decode(GOOD)
        started = [nursery(), await_decoder()]
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]


def test_pool_of_a_killed_worker_leaves_no_process() -> None:
    """Decoders see that nobody wants them any more, without being told."""
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; from tests.unit.test_decoding import *\n"
        "with pool() as decoders:\n"
        "    decoders.decode(GOOD)\n"
        "    print(nursery(), await_decoder(), flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        started = [int(pid) for pid in worker.stdout.readline().split()]
        worker.kill()
    assert len(started) == 2
    while any(running(pid) for pid in started):
        time.sleep(0.005)


def test_decode_after_the_pool_has_been_left_starts_nothing() -> None:
    """A thread that is still at a picture when the worker leaves must not bring a nursery into the world."""
    with pool() as decoders:
        decoders.decode(GOOD)
        before = children(os.getpid())
    with pytest.raises(FatalError) as caught:
        decoders.decode(GOOD)
    assert caught.value.code == "decoder_unusable"
    assert len(children(os.getpid())) == len(before) - 1


def test_pool_without_descriptors_left_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """And keeps none of those that it had got so far."""

    def none_left(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("streamer.decoding._memory", none_left)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FatalError) as caught, pool():
        pass
    assert caught.value.code == "decoder_unusable"
    assert len(list(Path("/proc/self/fd").iterdir())) == before
