"""CPU seconds of processes below, also while some of them end."""

from __future__ import annotations

import os
import subprocess
import sys

from cpu_time import children_of, cpu_s, descendants


def test_time_of_a_process_that_has_ended_is_its_parents() -> None:
    """A child that burns and is gone counts for nothing itself, and for this process once it was waited for."""
    burn = "import time\nwhile time.process_time() < 0.35: pass\nprint(flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    before = cpu_s([os.getpid()])
    child.stdout.readline()
    assert child.pid in descendants()
    assert cpu_s([child.pid]) >= 0.3
    child.communicate(b"\n", timeout=60)
    assert (children_of(child.pid), cpu_s([child.pid])) == ([], 0)
    assert child.pid not in descendants()
    assert cpu_s([os.getpid()]) - before >= 0.3
