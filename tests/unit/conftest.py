"""Fixtures of several unit tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from streamer.settings import PipelineSettings
from tests.pipeline_bench import Bench, build

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Yield a pipeline with room for eight events."""
    async for built in build(PipelineSettings(max_in_flight=8)):
        yield built
