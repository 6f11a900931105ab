"""Keeps workers running as Kubernetes keeps a StatefulSet: restarts what exits or fails its liveness, and nothing else.

A slot is a pod: its directory outlives the processes that run in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Self

import aiohttp
import msgspec

from streamer.demo.broker import LOOPBACK, free_port, spawn
from streamer.demo.worker import settings_variables
from streamer.settings import Settings, StateSettings, TelemetrySettings
from tests.chaos.images import ROOT
from tests.chaos.results import Exit
from tests.priority import set_niceness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chaos.orders import EngineFaults
    from tests.chaos.pace import Pace

POLL_S = 0.05
BACKOFF_S, LONGEST_BACKOFF_S, CALM_AFTER_S = 0.2, 5.0, 10.0
PROBE_EVERY_S, PROBE_TIMEOUT_S, UNHEALTHY_S = 2.0, 2.0, 20.0
STARTUP_S = 60.0
"""For a worker to listen: a start takes 2 s."""
NICENESS = 10
GRACE_S = 30.0
"""After SIGTERM, before SIGKILL: longer than the drain that the workers are allowed."""


@dataclass
class _Slot:
    number: int
    directory: Path
    log: subprocess.Popen[bytes]
    port: int = field(default_factory=free_port)
    wanted: bool = True
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    starts: int = 0
    told: bool = False
    terminated: float = 0.0
    backoff_s: float = BACKOFF_S
    healthy: float = 0.0
    probed: float = 0.0
    full: bool = False

    @property
    def clock(self) -> Path:
        return self.directory / "clock"


class Supervisor:
    """Runs workers in slots 0, 1, …; an async context manager that leaves none behind.

    Args:
        settings: of the workers; each slot has a state directory and a health port of its own.
        root: for state and logs.
        engine: what befalls the engine; each process draws from its own seed.
        clock: the library that makes a worker's clock jump; None: clocks are left alone.
        pace: the run's time, in which it waits.
        background: whether workers stand back behind other work.
    """

    def __init__(
        self,
        settings: Settings,
        root: Path,
        *,
        engine: EngineFaults,
        clock: Path | None,
        pace: Pace,
        background: bool = False,
    ) -> None:
        self._settings, self._root, self._engine, self._clock = settings, root, engine, clock
        self._pace, self._background = pace, background
        self._slots: list[_Slot] = []
        self._probes: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None]
        self._http: aiohttp.ClientSession
        self.exits: list[Exit] = []
        self.liveness_kills = 0

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S))
        self._task = asyncio.create_task(self._supervise())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = {self._task, *self._probes}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for slot in self._slots:
            if slot.process is not None:
                slot.process.kill()
                slot.process.wait()
            slot.log.communicate()
        await self._http.close()

    def scale(self, workers: int) -> None:
        """Run that many workers: start those that are missing, tell the others to stop."""
        while len(self._slots) < workers:
            number = len(self._slots)
            directory = self._root / f"worker-{number}"
            directory.mkdir()
            (directory / "clock").write_bytes(struct.pack("q", 0))
            self._slots.append(_Slot(number, directory, _log_to(self._root / f"worker-{number}.log")))
        for slot in self._slots:
            slot.wanted = slot.number < workers
            if not slot.wanted:
                self.signal(slot.number, signal.SIGTERM)

    def signal(self, number: int, what: signal.Signals) -> bool:
        """Send the signal that ends it to the slot's process; return whether one ran."""
        slot = self._slot(number)
        if slot.process is None or slot.process.poll() is not None:
            return False
        slot.told = True
        slot.terminated = self._pace.now()
        slot.process.send_signal(what)
        return True

    async def young(self, number: int, age_s: float) -> None:
        """Return when the process that takes the place of the one that runs now is that old, by the wall clock."""
        slot = self._slot(number)
        starts = slot.starts
        while slot.starts == starts or slot.process is None:  # noqa: ASYNC110 - a process calls nobody
            await asyncio.sleep(POLL_S / 5)
        await asyncio.sleep(age_s)

    @contextlib.contextmanager
    def paused(self, number: int) -> Iterator[None]:
        """Let the slot's process stand still for the length of the block."""
        process = self._slot(number).process
        if process is not None:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            if process is not None:
                process.send_signal(signal.SIGCONT)

    def _slot(self, number: int) -> _Slot:
        return self._slots[number % len(self._slots)]

    @contextlib.contextmanager
    def full_disk(self, number: int) -> Iterator[None]:
        """Let no file of the slot's processes grow for the length of the block."""
        slot = self._slot(number)
        slot.full = True
        _limit_files(slot)
        try:
            yield
        finally:
            slot.full = False
            _limit_files(slot)

    @contextlib.contextmanager
    def clock_off_by(self, number: int, seconds: int) -> Iterator[None]:
        """Let the wall clock of the slot's processes jump at the start of the block, and back at its end."""
        clock = self._slot(number).clock
        _set_clock(clock, seconds)
        try:
            yield
        finally:
            _set_clock(clock, 0)

    async def stop(self) -> None:
        """Tell all workers to stop, and return when they have, at most GRACE_S later."""
        self.scale(0)
        while any(slot.process is not None for slot in self._slots):  # noqa: ASYNC110 - a process calls nobody
            await asyncio.sleep(POLL_S)

    async def _supervise(self) -> None:
        while True:
            for slot in self._slots:
                self._look_after(slot)
            await asyncio.sleep(POLL_S)

    def _look_after(self, slot: _Slot) -> None:
        now = self._pace.now()
        if slot.process is None:
            if slot.wanted and now >= slot.started:
                self._start(slot)
            return
        code = slot.process.poll()
        if code is not None:
            self.exits.append(Exit(slot.number, code, slot.told, now - slot.started))
            calm = slot.told or now - slot.started > CALM_AFTER_S
            slot.backoff_s = BACKOFF_S if calm else min(LONGEST_BACKOFF_S, 2 * slot.backoff_s)
            slot.process, slot.started = None, now + (0.0 if slot.told else slot.backoff_s)
        elif slot.told and now - slot.terminated > GRACE_S:
            slot.process.kill()
        elif now - max(slot.probed, slot.started) > PROBE_EVERY_S:
            slot.probed = now
            probe = asyncio.create_task(self._probe(slot, slot.process))  # one that stands still keeps nobody waiting
            self._probes.add(probe)
            probe.add_done_callback(self._probes.discard)

    async def _probe(self, slot: _Slot, process: subprocess.Popen[bytes]) -> None:
        """Ask the process whether it is alive, and end it when it has not been for too long."""
        try:
            async with self._http.get(f"http://{LOOPBACK}:{slot.port}/healthz") as response:
                alive = response.status == HTTPStatus.OK
        except aiohttp.ClientConnectorError:
            alive = self._pace.now() - slot.started < STARTUP_S  # it may not listen yet
        except (aiohttp.ClientError, TimeoutError):
            alive = False
        now = self._pace.now()
        if alive:
            slot.healthy = now
        elif slot.process is process and now - max(slot.healthy, slot.started) > UNHEALTHY_S:
            self.liveness_kills += 1
            process.kill()

    def _start(self, slot: _Slot) -> None:
        sections = {name: getattr(self._settings, name) for name in Settings.model_fields}
        sections["state"] = StateSettings(store=self._settings.state.store, directory=slot.directory / "state")
        sections["telemetry"] = TelemetrySettings(port=slot.port)
        engine = msgspec.structs.replace(self._engine, seed=hash((self._engine.seed, slot.number, slot.starts)))
        variables = settings_variables(sections) | {"CHAOS_ENGINE": msgspec.json.encode(engine).decode()}
        if self._clock is not None:
            variables |= {"LD_PRELOAD": str(self._clock), "CHAOS_CLOCK": str(slot.clock)}
        variables["PYTHONPATH"] = str(ROOT)
        assert slot.log.stdin is not None
        slot.process = spawn(
            [sys.executable, "-m", "tests.chaos.worker"], log=slot.log.stdin, env=os.environ | variables
        )
        if self._background:
            set_niceness(slot.process.pid, NICENESS)
        slot.started, slot.told = self._pace.now(), False
        slot.starts += 1
        if slot.full:
            _limit_files(slot)


def _log_to(path: Path) -> subprocess.Popen[bytes]:
    """Return a process that writes what it reads to the file.

    A container logs through a pipe, too, and so a full disk does not silence a worker.
    """
    with path.open("ab") as file:
        return subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)


def _limit_files(slot: _Slot) -> None:
    """Set how large a file of the process may become.

    It is what a full disk looks like from within, but for the error: EFBIG for ENOSPC.
    """
    if slot.process is not None and slot.process.poll() is None:
        limit = 0 if slot.full else resource.RLIM_INFINITY
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(slot.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def _set_clock(clock: Path, seconds: int) -> None:
    with clock.open("r+b") as file:  # in place: processes have it mapped
        file.write(struct.pack("q", seconds * 10**9))
