"""`streamer.application`: what of Faust must stay turned off."""

from __future__ import annotations

from streamer import application
from streamer.settings import Settings


async def test_app_keeps_no_standby_replicas() -> None:
    """A standby skips records and remembers that it has read them (ADR 2): it must never be promoted."""
    app = application.create(Settings())
    # A consumer makes the loop of its thread before it is started.
    app.ordered._thread.thread_loop.close()  # pyright: ignore[reportPrivateUsage]
    assert app.conf.table_standby_replicas == 0
