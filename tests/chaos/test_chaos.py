"""Every promise holds under each fault and all at once: ten minutes of what `make chaos` does for hours."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.place import ground
from tests.chaos.run import Size, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chaos.place import Ground

SIZE = Size(events=8_000)  # published in 20 s
SEED = int(os.environ.get("CHAOS_SEED", "1"))

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def chaos_ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A Kafka of its own, which runs may stop."""
    with ground(tmp_path_factory.mktemp("kafka")) as found:
        yield found


@pytest.mark.parametrize("fault", FAULTS)
async def test_workers_under_a_fault_keep_every_promise(chaos_ground: Ground, tmp_path: Path, fault: Fault) -> None:
    """One outcome for each event, every alert as in a sequential run, no commit ahead, no lag, no hand needed."""
    async with chaos_ground.place() as place:
        if fault == "clock" and place.clock is None:
            pytest.skip("a clock that jumps needs a C compiler, `cc`")
        result = await run(place, tmp_path, fault, SEED, SIZE)
    print(result)
    assert result.problems() == []
