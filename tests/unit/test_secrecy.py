"""`streamer.secrecy`: a process of the same user reads neither the environment nor the memory of a worker."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NOBODY = 65534
PROGRAM = """
import ctypes, os, sys
from streamer.secrecy import keep_to_itself

if os.getuid() == 0:  # root reads everything
    os.setgid({nobody})
    os.setuid({nobody})
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # a change of user has closed it

def read_by_another():
    pid = os.getpid()
    if (child := os.fork()) == 0:
        opened = []
        for name in ("environ", "mem"):
            try:
                os.close(os.open(f"/proc/{{pid}}/{{name}}", os.O_RDONLY))
                opened.append(name)
            except PermissionError:
                pass
        os._exit(len(opened))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

before = read_by_another()
keep_to_itself()
print(before, read_by_another())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there is no such call")
def test_process_that_keeps_to_itself_is_read_by_nobody() -> None:
    """What could be opened before, and where the broker's password stands, cannot be afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(nobody=NOBODY)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    before, after = map(int, done.stdout.split() or ["-1", "-1"])
    assert done.returncode == 0, done.stderr
    assert before >= 1, "the environment could be read"
    assert after == 0
