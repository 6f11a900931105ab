"""Pictures decoded in processes of their own: the same pixels, and whatever a picture does, the next one is decoded."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hostile_pictures import KINDS, encoded, noise, scan_bomb
from PIL import Image

from engines.contract import ImageSpec
from engines.errors import ImageRefused
from engines.image import decode
from streamer import nursery as keeping
from streamer.decoder import ANSWER, MAX_REFUSAL_BYTES
from streamer.decoding import SLOTS_PER_DECODER, BlockingDecoders, DecoderPool
from streamer.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SPEC = ImageSpec(height=32, width=24)
LIMITS: dict[str, Any] = {
    "size": 1,
    "max_bytes": 20 * 2**20,
    "max_pixels": 50_000_000,
    "memory_bytes": 2**30,
    "cpu_s": 5.0,
}
GOOD = encoded(noise(64, 48), "PNG")
SLOW = scan_bomb(6000, 20_000)
POLL_S = 0.005
SOON_S = 20.0  # on a busy machine; what is lost would be missed much later


@asynccontextmanager
async def pool(**changes: Any) -> AsyncIterator[DecoderPool]:  # noqa: ANN401 - limits as the pool takes them
    """Yield a running pool."""
    async with DecoderPool(SPEC, **{**LIMITS, **changes}) as running:
        yield running


async def refusal(decoders: DecoderPool, data: bytes) -> str:
    """Return the code with which the bytes are refused."""
    with pytest.raises(ImageRefused) as caught:
        await decoders.decode(data)
    return caught.value.code


async def decodes(decoders: DecoderPool) -> bool:
    """Tell whether a good picture is decoded."""
    return (await decoders.decode(GOOD)).shape == (3, 32, 24)


def red(value: int) -> bytes:
    """Return a picture that is red by so much."""
    return encoded(Image.new("RGB", (48, 64), (value, 0, 0)), "PNG")


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


async def until(happens: Callable[[], object]) -> None:
    """Return when it is so."""
    while not happens():  # noqa: ASYNC110 - a process calls nobody
        await asyncio.sleep(POLL_S)


async def await_decoder() -> int:
    """Return the decoder below the nursery, when it is there."""
    await until(lambda: children(nursery()))
    return children(nursery())[0]


async def await_work(decoder: int) -> None:
    """Return when the decoder has worked for some time longer."""
    before = cpu_ticks(decoder)
    await until(lambda: cpu_ticks(decoder) >= before + 5)


def cpu_ticks(pid: int) -> int:
    """Return for how long the process has worked."""
    return int(Path(f"/proc/{pid}/stat").read_text().split()[13])


def environment_of(pid: int) -> bytes:
    """Return what the process has in its environment."""
    return Path(f"/proc/{pid}/environ").read_bytes()


def open_files() -> int:
    """Return how many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def end_nursery(waiting: asyncio.Task[str]) -> None:
    """Kill the nursery; return when another is there, or nobody waits for one."""
    killed = nursery()
    os.kill(killed, signal.SIGKILL)
    await until(lambda: waiting.done() or nursery() != killed)


async def test_decode_in_a_process_gives_the_same_pixels() -> None:
    """Where a picture is decoded changes nothing."""
    async with pool() as decoders:
        for kind in KINDS:
            data = encoded(noise(64, 48), kind)
            pixels = await decoders.decode(data)
            assert pixels.dtype == np.uint8
            assert pixels.flags.writeable
            assert np.array_equal(pixels, decode(data, SPEC, max_pixels=10**8)), kind


async def test_decode_in_a_process_refuses_with_the_same_code() -> None:
    """Refusals cross the boundary with their code, and none of the next picture's pixels are lost to them."""
    async with pool() as decoders:
        assert await refusal(decoders, b"") == "image_truncated"
        assert await refusal(decoders, GOOD[:100]) == "image_truncated"
        assert await refusal(decoders, b"<html>") == "image_unsupported"
        assert await refusal(decoders, b"\xff\xd8\xff" + bytes(20 * 2**20)) == "image_too_large"
        assert await decodes(decoders)


async def test_decode_of_many_pictures_at_once_answers_each_its_own() -> None:
    """More than there are slots: each waits for its turn, and refusals among them are told to whom they concern."""
    pictures = [b"<html>" if value % 5 == 0 else red(value) for value in range(200)]
    async with pool(size=2) as decoders:
        answers = await asyncio.gather(*map(decoders.decode, pictures), return_exceptions=True)
    shown = [answer if isinstance(answer, ImageRefused) else answer[0, 16, 12] for answer in answers]  # type: ignore[index]
    assert all(isinstance(answer, ImageRefused) for answer in shown[::5])
    assert [answer for answer in shown if not isinstance(answer, ImageRefused)] == [n for n in range(200) if n % 5]


async def test_decode_that_nobody_waits_for_any_more_harms_no_other() -> None:
    """Updates are superseded while their pictures wait, or are in work."""
    async with pool() as decoders:
        given_up = [asyncio.create_task(decoders.decode(red(value))) for value in range(3 * SLOTS_PER_DECODER)]
        await asyncio.sleep(0)
        for task in given_up:
            task.cancel()
        assert (await decoders.decode(red(77)))[0, 16, 12] == 77
        await asyncio.gather(*given_up, return_exceptions=True)


async def test_decode_that_takes_too_long_is_ended() -> None:
    """A progressive JPEG of a few hundred kilobytes that would decode for minutes costs its CPU limit and no more."""
    async with pool(cpu_s=0.2) as decoders:
        assert await refusal(decoders, SLOW) == "image_decode_timeout"
        assert await decodes(decoders)


async def test_decode_that_needs_too_much_memory_is_refused() -> None:
    """An allocation beyond the limit rejects that one picture."""
    large = encoded(Image.new("L", (9000, 5000)), "PNG", compress_level=1)
    async with pool(memory_bytes=32 * 2**20) as decoders:
        assert await refusal(decoders, large) == "image_too_large"
        assert await decodes(decoders)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
async def test_decode_whose_decoder_dies_is_refused(number: signal.Signals) -> None:
    """A crash takes the picture in work, which is told; those that wait behind it find another decoder."""
    async with pool(cpu_s=30) as decoders:
        await decoders.decode(GOOD)
        decoder = await await_decoder()
        fatal = asyncio.create_task(refusal(decoders, SLOW))
        behind = [asyncio.create_task(decodes(decoders)) for _ in range(2 * SLOTS_PER_DECODER)]
        await await_work(decoder)
        os.kill(decoder, number)
        assert await fatal == "image_decoder_crashed"
        assert all(await asyncio.gather(*behind))


async def test_decode_after_an_idle_decoder_died_is_not_disturbed() -> None:
    """Nobody is told of a death that cost no picture; one that comes at the same moment is decoded, and at once."""
    async with pool() as decoders:
        await decoders.decode(GOOD)
        for _ in range(10):
            os.kill(await await_decoder(), signal.SIGKILL)
            async with asyncio.timeout(SOON_S):
                assert await decodes(decoders)
        assert await refusal(decoders, b"<html>") == "image_unsupported"


async def test_decode_after_the_nursery_died_starts_another() -> None:
    """Not even the process that keeps the decoders is one that must not die; its decoders end with it."""
    async with pool(size=2) as decoders:
        await decoders.decode(GOOD)
        first, orphan = nursery(), await await_decoder()
        os.kill(first, signal.SIGKILL)
        await until(lambda: not running(orphan))
        assert await decodes(decoders)
        assert nursery() != first


async def test_decode_while_the_nursery_dies_is_tried_again() -> None:
    """Whoever waits gets an answer of the next one."""
    async with pool() as decoders:
        await decoders.decode(GOOD)
        os.kill(nursery(), signal.SIGSTOP)
        os.kill(await await_decoder(), signal.SIGSTOP)
        waiting = [asyncio.create_task(decodes(decoders)) for _ in range(2 * SLOTS_PER_DECODER)]
        await asyncio.sleep(0)
        os.kill(nursery(), signal.SIGKILL)
        assert all(await asyncio.gather(*waiting))


async def test_decode_that_ends_two_nurseries_is_refused() -> None:
    """A picture that takes over its decoder and kills what it can reach rejects itself, and nothing else."""
    async with pool(size=2) as decoders:
        fatal = asyncio.create_task(refusal(decoders, SLOW))
        for _ in range(2):
            assert await decodes(decoders)
            await end_nursery(fatal)
        assert await fatal == "image_decoder_crashed"
        assert await decodes(decoders)


async def test_decode_by_decoders_that_fall_silent_is_tried_again() -> None:
    """A decoder that neither answers nor ends, against all limits, is given up with its nursery."""
    async with pool(cpu_s=0.05) as decoders:
        await decoders.decode(GOOD)
        silent = await await_decoder()
        os.kill(silent, signal.SIGSTOP)
        assert await decodes(decoders)
        assert not running(silent)


async def test_decoder_that_writes_what_none_writes_is_ended() -> None:
    """Nothing that a decoder says is followed further than the pixels of its own picture."""
    async with pool() as decoders:
        await decoders.decode(GOOD)
        first = nursery()
        with _answers_of(first).open("wb", buffering=0) as answers:
            answers.write(ANSWER.pack(10**6, 2) + b"{}")  # about a picture that nobody has given it
            assert await decodes(decoders)
            assert nursery() == first
            answers.write(ANSWER.pack(1, MAX_REFUSAL_BYTES + 1))
        await until(lambda: not running(first))
        assert await decodes(decoders)


async def test_decode_where_no_decoder_can_live_is_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which decoders cannot run has a worker that stops, not one that rejects every picture."""
    monkeypatch.setattr(keeping, "environment", lambda variables: {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/"})
    async with pool() as decoders:
        for _ in range(2):
            with pytest.raises(FatalError) as caught:
                await decoders.decode(GOOD)
            assert caught.value.code == "decoder_unusable"


async def test_decoder_knows_no_secret_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password of the broker is not in the environment of the process that strangers' pictures may take over."""
    monkeypatch.setenv("STREAMER_BROKER__PASSWORD", "sesame")
    async with pool() as decoders:
        await decoders.decode(GOOD)
        for pid in (nursery(), await await_decoder()):
            assert b"sesame" not in environment_of(pid)


def test_blocking_decode_after_decoders_died_between_two_pictures_starts_others() -> None:
    """Nobody listens to them meanwhile: the next picture finds it out, whichever thread asks."""
    with BlockingDecoders(DecoderPool(SPEC, **LIMITS)) as decoders, ThreadPoolExecutor(1) as another:
        decoders.decode(GOOD)
        killed = nursery()
        os.killpg(killed, signal.SIGKILL)
        assert another.submit(decoders.decode, GOOD).result().shape == (3, 32, 24)
        assert nursery() != killed
        with pytest.raises(ImageRefused):
            decoders.decode(b"<html>")


async def test_large_pictures_leave_no_memory_behind() -> None:
    """Neither in the slots nor in the decoder: what a picture of twenty megabytes took goes back to the kernel."""
    large = encoded(Image.new("RGB", (2500, 2000), (9, 9, 9)), "PNG", compress_level=0)
    async with pool(size=2) as decoders:
        await asyncio.gather(*(decoders.decode(GOOD) for _ in range(20)))
        pids = [os.getpid(), await await_decoder()]
        before = [_anonymous_and_shared(pid) for pid in pids]
        await asyncio.gather(*(decoders.decode(large) for _ in range(12)))
        grown = [_anonymous_and_shared(pid) - was for pid, was in zip(pids, before, strict=True)]
    assert max(grown) < 16 * 2**20


async def test_pool_at_its_end_leaves_no_process() -> None:
    """Decoders end with the pool, also in the middle of a picture; whoever waits for it is told."""
    async with pool() as decoders:
        await decoders.decode(GOOD)
        started = [nursery(), await await_decoder()]
        waiting = asyncio.create_task(decoders.decode(SLOW))
        await await_work(started[1])
    with pytest.raises(FatalError):
        await waiting
    await until(lambda: not any(map(running, started)))


def test_pool_of_a_killed_worker_leaves_no_process() -> None:
    """Decoders see that nobody wants them any more, without being told."""
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; from tests.unit.test_decoding import *\n"
        "async def main():\n"
        "    async with pool() as decoders:\n"
        "        await decoders.decode(GOOD)\n"
        "        print(nursery(), await await_decoder(), flush=True); sys.stdin.read()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        started = [int(pid) for pid in worker.stdout.readline().split()]
        worker.kill()
    assert len(started) == 2
    while any(map(running, started)):
        time.sleep(POLL_S)


async def test_decode_after_the_pool_has_been_left_starts_nothing() -> None:
    """A task that comes to its picture when the worker leaves must not bring a nursery into the world."""
    async with pool() as decoders:
        await decoders.decode(GOOD)
        before = children(os.getpid())
    with pytest.raises(FatalError) as caught:
        await decoders.decode(GOOD)
    assert caught.value.code == "decoder_unusable"
    assert len(children(os.getpid())) == len(before) - 1


async def test_pool_without_descriptors_left_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """And keeps none of those that it had got so far."""

    def none_left(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(keeping, "_memory", none_left)
    before = open_files()
    with pytest.raises(FatalError) as caught:
        async with pool():
            pass
    assert caught.value.code == "decoder_unusable"
    assert open_files() == before


def _answers_of(pid: int) -> Path:
    """Return the nursery's end of the pipe that answers come through: the first that is written to."""
    fds = sorted(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir() if "pipe:" in str(path.readlink()))
    flags = {fd: Path(f"/proc/{pid}/fdinfo/{fd}").read_text().split("flags:")[1].split()[0] for fd in fds}
    return Path(f"/proc/{pid}/fd/{next(fd for fd in fds if int(flags[fd], 8) & os.O_WRONLY)}")


def _anonymous_and_shared(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))) * 1024
