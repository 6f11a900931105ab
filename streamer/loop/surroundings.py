"""What is around the loop: broker, image host, scorer and label worker, and the settings that all of them share."""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp

from engines.catalogs.rendered import jpeg
from streamer.demo.cluster import run_cluster
from streamer.demo.images import ImageHost
from streamer.demo.worker import running_worker, settings_variables
from streamer.settings import (
    EngineSettings,
    EvidenceSettings,
    FetchSettings,
    LabelSettings,
    PipelineSettings,
    ReleaseSettings,
    RetrainSettings,
    Settings,
    StateSettings,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from rich.console import Console

    from engines.catalogs.rendered import RenderedProduct
    from streamer.demo.cluster import Cluster
    from streamer.loop.season import Season

AUDIT_SHARE: Final = 0.6
_READY_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True)
class Surroundings:
    """What runs; `image_url` says where a picture is, `report` where logs go."""

    settings: Settings
    image_url: Callable[[str], str]
    report: Path

    async def command(self, *arguments: str) -> int:
        """Run a command of `streamer` with the workers' settings; what it says goes to a log."""
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("STREAMER_")}
        with (self.report / f"{arguments[0]}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "streamer.cli", *arguments),
                env=environment | _variables(self.settings),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                return await process.wait()
            finally:
                if process.returncode is None:
                    process.terminate()
                    await process.wait()


@asynccontextmanager
async def surrounded(
    season: Season, scratch: Path, report: Path, *, seed: int, console: Console
) -> AsyncGenerator[Surroundings]:
    """Run all of it while the block runs, each picture drawn; workers are ready when it begins.

    Args:
        season: whose pictures are served.
        scratch: where stores, labels and pictures go.
        report: where logs and the runs of retraining go.
        seed: of what the audit draws.
        console: is told of a broker that has to be fetched first.
    """
    pictures = scratch / "pictures"
    pictures.mkdir()
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(run_cluster(None, console))
        host = stack.enter_context(ImageHost(pictures))
        settings = _settings(cluster, host.address, scratch, report, seed)
        workers = [
            stack.enter_context(running_worker(_variables(settings), report / f"{name}.log", command=command))
            for name, command in (("scorer", "score"), ("labels", "labels"))
        ]
        await _draw_pictures(season, pictures)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_READY_TIMEOUT_S)) as session:
            for worker in workers:
                await worker.wait_until_ready(session)
        yield Surroundings(settings, host.url, report)


def _settings(cluster: Cluster, image_host: str, scratch: Path, report: Path, seed: int) -> Settings:
    return Settings(
        broker=cluster.broker,
        topics=cluster.names,
        fetch=FetchSettings(allow_hosts=(image_host,)),
        engine=EngineSettings(),
        releases=ReleaseSettings(store=str(scratch / "releases"), retry_s=1.0),
        evidence=EvidenceSettings(
            store=str(scratch / "evidence"),
            audit_share=AUDIT_SHARE,
            audit_uncertainty=1.0,
            audit_per_hour=1e6,
            audit_salt=str(seed),
        ),
        labels=LabelSettings(group=f"{cluster.broker.group}-labeler", dataset=str(scratch / "labels")),
        retrain=RetrainSettings(work=(report / "runs").absolute(), min_labels=1),
        pipeline=PipelineSettings(explained_share=0.0),  # what alerts name is the demo's subject
        state=StateSettings(directory=scratch / "state"),
    )


def _variables(settings: Settings) -> dict[str, str]:
    return settings_variables({name: getattr(settings, name) for name in Settings.model_fields if name != "telemetry"})


async def _draw_pictures(season: Season, folder: Path) -> None:
    """Draw every picture; Pillow works without holding the GIL."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(os.cpu_count(), "pictures") as pool:
        drawing = [
            loop.run_in_executor(pool, _draw_picture, folder / name, product)
            for name, product in season.pictures.items()
        ]
        await asyncio.gather(*drawing)


def _draw_picture(path: Path, product: RenderedProduct) -> None:
    path.write_bytes(jpeg(product))
