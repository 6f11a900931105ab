"""One run in a process of its own, which tells its parent on stdout how it goes: a line of JSON for each thing told.

python -m tests.chaos.alone '{"fault": "kill", "seed": 1, "size": {…}, "directory": "…"}'
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import uvloop

from tests.chaos.orders import Order, Told
from tests.chaos.place import place
from tests.chaos.run import run

if TYPE_CHECKING:
    from tests.chaos.results import Result

TELL_EVERY_S = 0.5


def _tell(told: Told) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
    sys.stdout.flush()


class _Teller:
    """Tells each stage, and its progress now and then."""

    def __init__(self) -> None:
        self._stage, self._told = "", 0.0

    def __call__(self, stage: str, share: float) -> None:
        now = time.monotonic()
        if stage != self._stage or now - self._told > TELL_EVERY_S:
            self._stage, self._told = stage, now
            _tell(Told(stage=stage, share=share))


async def _run(order: Order) -> Result:
    root, kafka = Path(order.directory, "run"), Path(order.directory, "kafka")
    for made in (root, kafka):
        made.mkdir()
    async with place(kafka, background=order.background) as here:
        return await run(here, root, order.fault, order.seed, order.size, _Teller())


def main() -> None:
    """Make the run that the command line orders."""
    order = msgspec.json.decode(sys.argv[1], type=Order)
    faulthandler.enable()  # its parent ends it by SIGABRT when it falls silent: where it hangs stands in the log then
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that the broker is away is what is tested
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(_run(order))
    _tell(Told(stage="done", share=1.0, result=result))


if __name__ == "__main__":
    main()
