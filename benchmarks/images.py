"""What each image installs, how large that is, and whether its entry point runs: without an engine for containers.

    python benchmarks/images.py                     all but the GPU's, whose packages come from another index
    python benchmarks/images.py labeler trainer     some

Follows the Dockerfile: a copy of what is committed and `.dockerignore` lets through; an empty environment; the `pip`
steps of its build stage; then the entry point with the default command and with `--version`, in an empty directory,
with no variable of this shell. Without a broker a worker has to end with exit code 2 and say what it missed. Prints one
JSON object for each image.

Unproven by it: the base image and what is in it, COPY between the stages, the image's user, a file system that is
read-only, and everything of the GPU's image.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
LARGEST = 6
MIB = 1e6


def instruction(dockerfile: str, name: str) -> str:
    """Return the last instruction of this name, without the name."""
    lines = re.sub(r"\\\n\s*", "", dockerfile)
    found: list[str] = re.findall(rf"^{name} (.*)$", lines, flags=re.MULTILINE)
    return found[-1]


def copy_of_source(folder: Path) -> None:
    """Write what is committed, of the paths that `.dockerignore` lets through."""
    lines = (ROOT / ".dockerignore").read_text().split()
    taken = [line.removeprefix("!") for line in lines if line.startswith("!")]
    archive = subprocess.run(["git", "archive", "HEAD", *taken], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "--extract", "--directory", folder], input=archive, check=True)


def install(dockerfile: str, app: Path, source: Path) -> str:
    """Run the build stage's `pip` steps in an empty environment; return them."""
    steps: list[str] = re.findall(r"^RUN (/app/bin/pip install .*)$", dockerfile, flags=re.MULTILINE)
    (step,) = steps
    subprocess.run([sys.executable, "-m", "venv", app], check=True)
    command = step.replace("/app/bin/", f"{app}/bin/").replace("pip install", "pip install --quiet")
    subprocess.run(command, shell=True, cwd=source, check=True, env=_environment(app))  # noqa: S602 - a file of ours
    return step


def run(app: Path, arguments: list[str], folder: Path) -> tuple[int, str]:
    """Run the entry point; return its exit code and the last line that it wrote."""
    done = subprocess.run(
        [app / "bin/streamer", *arguments],
        cwd=folder,
        env=_environment(app),
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()[-1]


def sizes(app: Path) -> dict[str, int]:
    """Return megabytes of the environment, and of its largest packages."""
    (packages,) = app.glob("lib/python*/site-packages")
    found = {entry.name: _size(entry) for entry in packages.iterdir()}
    largest = sorted(found, key=lambda name: -found[name])[:LARGEST]
    return {"all": round(_size(app) / MIB)} | {name: round(found[name] / MIB) for name in largest}


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file() and not each.is_symlink()]
    return sum(file.stat().st_size for file in files)


def _environment(app: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    return kept | {"PATH": f"{app}/bin:/usr/bin:/bin", "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}  # noqa: S108


def examine(image: str) -> dict[str, Any]:
    """Return what the image installs and does."""
    dockerfile = (DOCKER / f"{image}.Dockerfile").read_text()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source, app, empty = folder / "source", folder / "app", folder / "empty"
        source.mkdir()
        empty.mkdir()
        copy_of_source(source)
        step = install(dockerfile, app, source)
        entry = json.loads(instruction(dockerfile, "ENTRYPOINT"))
        assert entry == ["streamer"], entry
        command = json.loads(instruction(dockerfile, "CMD"))
        return {
            "image": image,
            "step": step,
            "megabytes": sizes(app),
            "version": run(app, ["--version"], empty),
            shlex.join(command): run(app, command, empty),
            "torch": (next(app.glob("lib/python*/site-packages")) / "torch").exists(),
        }


def main() -> None:
    """Examine the images that are named, or all."""
    others = [path.name.removesuffix(".Dockerfile") for path in sorted(DOCKER.glob("*.Dockerfile"))]
    for image in sys.argv[1:] or [name for name in others if "gpu" not in name]:
        print(json.dumps(examine(image)), flush=True)


if __name__ == "__main__":
    main()
