"""A report of `pip install --report` → constraints, one package a line: `make constraints`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

OURS = "mismatch-streamer"


def constraints(report: str) -> list[str]:
    """Return `name==version` of every package but our own; what a version is built for (`+cpu`) is left out."""
    installed = [one["metadata"] for one in json.loads(report)["install"]]
    names = {one["name"].lower().replace("_", "-"): one["version"].partition("+")[0] for one in installed}
    return [f"{name}=={version}" for name, version in sorted(names.items()) if name != OURS]


if __name__ == "__main__":
    said = "# What the images install, but for the GPU's own packages; made by `make constraints`, tested as it stands."
    sys.stdout.write("\n".join([said, *constraints(Path(sys.argv[1]).read_text(encoding="utf-8")), ""]))
