"""What one engine does on a GPU, in figures: pairs/s, seconds until it is warm, what it leaves of the interpreter."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from engines.contract import Batch
from engines.errors import EngineUnavailable
from engines.inference import infer_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from engines.contract import Engine, Manifest
    from engines.runtime.loader import Place

SECONDS: Final = 5.0
"""How long each batch size is measured."""

_COLD_START: Final = """
import sys
from pathlib import Path
from engines.runtime import loader
release, runtime, gpu = sys.argv[1:]
loader.load(Path(release), place=loader.Place(runtime=runtime, gpu=int(gpu)))
print("warm", flush=True)
"""


def cold_start(release: Path, place: Place) -> float:
    """Return the seconds from the start of a process to a warm engine in it: its imports and CUDA's own start count.

    The release's files are in the system's cache, as on a node that has run it before.

    Raises:
        EngineUnavailable: the engine does not load; the message has the last line of what the process said.
    """
    command = [sys.executable, "-c", _COLD_START, str(release), place.runtime, str(place.gpu)]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process:
            assert process.stdout is not None
            warm = any(line.strip() == "warm" for line in process.stdout)
            taken = time.perf_counter() - started
        said.seek(0)
        if not warm:
            raise EngineUnavailable(f"no engine in a new process: {[*said.read().splitlines(), ''][-2:][0]}")
    return taken


def random_batch(manifest: Manifest, size: int, seed: int) -> Batch:
    """Return noise beside random ids: what takes the time of any other pair."""
    generator = np.random.default_rng(seed)
    tokens = manifest.text.max_tokens
    return Batch(
        pixel_values=generator.integers(0, 256, (size, 3, manifest.image.height, manifest.image.width), dtype=np.uint8),
        input_ids=generator.integers(1, 100, (size, tokens), dtype=np.int32),
        attention_mask=(np.arange(tokens) < generator.integers(2, tokens + 1, (size, 1))).astype(np.int32),
    )


def throughput(engine: Engine, sizes: Iterable[int]) -> dict[str, float]:
    """Return pairs/s for each batch size, with as many batches at once as the engine runs best."""
    found: dict[str, float] = {}
    for size in sizes:
        batch = random_batch(engine.manifest, size, seed=size)
        done, started = 0, time.perf_counter()
        while (taken := time.perf_counter() - started) < SECONDS:
            done += sum(len(logits) for logits in infer_all(engine, [batch] * 20))
        found[str(size)] = round(done / taken, 1)
    return found


def compiled_throughput(model: Any, manifest: Manifest, sizes: Iterable[int]) -> dict[str, float]:  # noqa: ANN401 - a module
    """Return pairs/s of torch.compile in float16, copies from the host included.

    Raises:
        EngineUnavailable: this torch has no CUDA.
    """
    if not torch.cuda.is_available():
        raise EngineUnavailable("this torch sees no GPU: install one that is built for its CUDA")
    compiled: Any = torch.compile(model.to("cuda"))
    found: dict[str, float] = {}
    with torch.no_grad(), torch.autocast("cuda", torch.float16):
        for size in sizes:
            batch = random_batch(manifest, size, seed=size)
            host = [torch.from_numpy(array).pin_memory() for array in (batch.pixel_values, batch.input_ids)]
            host.append(torch.from_numpy(batch.attention_mask).pin_memory())
            for _ in range(3):
                compiled(*(tensor.to("cuda", non_blocking=True) for tensor in host)).cpu()
            done, started = 0, time.perf_counter()
            while (taken := time.perf_counter() - started) < SECONDS:
                compiled(*(tensor.to("cuda", non_blocking=True) for tensor in host)).cpu()
                done += size
            found[str(size)] = round(done / taken, 1)
    return found


def interpreter_share(engine: Engine, *, seconds: float = 2.0) -> float:
    """Return how fast another thread counts while batches run, of what it does alone; 1: they hold nothing."""
    batch = random_batch(engine.manifest, engine.manifest.max_batch, seed=0)
    alone = _count_while(lambda: time.sleep(seconds))

    def infer() -> None:
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            engine.infer(batch)

    return round(_count_while(infer) / alone, 3)


def _count_while(work: Callable[[], object]) -> float:
    """Return what a thread counts in a second while `work` runs in this one."""
    counted, ended = [0], threading.Event()

    def count() -> None:
        while not ended.is_set():
            counted[0] += 1

    counter = threading.Thread(target=count)
    started = time.perf_counter()
    counter.start()
    work()
    ended.set()
    counter.join()
    return counted[0] / (time.perf_counter() - started)
