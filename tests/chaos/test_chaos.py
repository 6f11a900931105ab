"""Every promise holds under each fault and all at once: ten minutes of what `make chaos` does for hours."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.place import place
from tests.chaos.run import run
from tests.chaos.size import Size

if TYPE_CHECKING:
    from pathlib import Path

SIZE = Size(events=8_000)  # published in 8 s
SEED = int(os.environ.get("CHAOS_SEED", "9"))
"""Of the longest outages: the first one of each fault outlasts a session."""

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize("fault", FAULTS)
async def test_workers_under_a_fault_keep_every_promise(tmp_path: Path, fault: Fault) -> None:
    """One outcome for each event, every alert as in a sequential run, no commit ahead, no lag, no hand needed."""
    root, kafka = tmp_path / "run", tmp_path / "kafka"
    for made in (root, kafka):
        made.mkdir()
    async with place(kafka) as here:
        if fault == "clock" and here.clock is None:
            pytest.skip("a clock that jumps needs a C compiler, `cc`")
        result = await run(here, root, fault, SEED, SIZE)
    print(result)
    assert result.problems() == []
