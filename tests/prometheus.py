"""A real Prometheus for tests, its server and promtool: `make prometheus` puts both into the environment."""

from __future__ import annotations

import asyncio
import math
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from streamer.demo.broker import LOOPBACK, free_port, log_tail, spawn

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    import aiohttp

SCRAPE_INTERVAL_S = 1
PATIENCE_S = 60.0
HOW_TO_GIVE_PROMETHEUS = "no {program}: `make prometheus`, where apt-get is, or Prometheus on the PATH"


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`, the environment's before another; skip the test without one."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(HOW_TO_GIVE_PROMETHEUS.format(program=name))
    return found


def promtool(*arguments: str | os.PathLike[str], given: bytes = b"", cwd: Path | None = None) -> str:
    """Return what promtool prints.

    Raises:
        AssertionError: it has found something wrong.
    """
    command = [program("promtool"), *arguments]
    done = subprocess.run(command, input=given, cwd=cwd, check=False, capture_output=True, timeout=120)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


class Prometheus:
    """A running server. What a query is answered is a list of (labels, value)."""

    def __init__(self, process: subprocess.Popen[bytes], log: Any, url: str, session: aiohttp.ClientSession) -> None:  # noqa: ANN401 - a file
        self._process = process
        self._log = log
        self._session = session
        self.url = url

    async def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return what the query is answered now."""
        data = await self._get("query", query=expression)
        return [(series["metric"], float(series["value"][1])) for series in data["result"]]

    async def answers(self, expression: str) -> bool:
        """Return whether a query has an answer with a number in it."""
        return any(math.isfinite(value) for _, value in await self.query(expression))

    async def rules(self) -> list[dict[str, Any]]:
        """Return the alert rules as the server has evaluated them."""
        return [rule for group in (await self._get("rules"))["groups"] for rule in group["rules"]]

    async def until_answered(self, *expressions: str) -> None:
        """Return when each has been answered with a number.

        Raises:
            TimeoutError: some have not, which it names.
        """
        left = set(expressions)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while left := {each for each in left if not await self.answers(each)}:  # noqa: ASYNC110 - it is asked
                    await asyncio.sleep(SCRAPE_INTERVAL_S / 4)
        except TimeoutError as error:
            raise TimeoutError(f"no answer to {sorted(left)}") from error

    async def until_started(self) -> None:
        """Return when it answers."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                assert self._process.poll() is None, log_tail(self._log)
                try:
                    async with self._session.get(f"{self.url}/-/ready") as response:
                        if response.ok:
                            return
                except OSError:
                    pass
                await asyncio.sleep(0.05)

    async def _get(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON
        async with self._session.get(f"{self.url}/api/v1/{path}", params=parameters) as response:
            answer = await response.json()
        assert answer["status"] == "success", answer
        return answer["data"]


@contextmanager
def running_prometheus(
    jobs: Mapping[str, str], rules: Mapping[str, Any], folder: Path, session: aiohttp.ClientSession
) -> Iterator[Prometheus]:
    """Run a server while the block runs.

    Args:
        jobs: HOST:PORT to scrape, by the job's name.
        rules: as a rule file has them.
        folder: for its configuration and its data.
        session: to ask it with.
    """
    (folder / "rules.yml").write_text(yaml.safe_dump(dict(rules)))
    config = {
        "global": {"scrape_interval": f"{SCRAPE_INTERVAL_S}s", "evaluation_interval": f"{SCRAPE_INTERVAL_S}s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [at]}]} for job, at in jobs.items()],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"{LOOPBACK}:{free_port()}"
    command = [program("prometheus"), f"--web.listen-address={address}", "--log.level=warn"]
    command += [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("w+b") as log:
        process = spawn(command, log=log)
        try:
            yield Prometheus(process, log, f"http://{address}", session)
        finally:
            process.terminate()
            process.wait()
