"""What a scoring worker allows its events, by its settings."""

from __future__ import annotations

from streamer.scorer import stalled_after_s
from streamer.settings import FetchSettings, PipelineSettings, Settings


def test_partition_may_stand_still_as_long_as_the_slowest_event_may_take() -> None:
    """512 events of hosts that say nothing take up to 240 s, by a run of the fetcher on a clock of its own."""
    assert stalled_after_s(Settings()) > 240
    patient = Settings(fetch=FetchSettings(timeout_s=20.0))
    assert stalled_after_s(patient) - stalled_after_s(Settings()) == 3 * 8 * 10  # tries, turns at a place, seconds
    narrow = Settings(pipeline=PipelineSettings(max_in_flight=64))
    assert stalled_after_s(narrow) < stalled_after_s(Settings()) / 5
