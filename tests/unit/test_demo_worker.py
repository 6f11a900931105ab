"""The environment of the demo's worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr

from streamer.demo.worker import settings_variables
from streamer.settings import BrokerSettings, FetchSettings, Settings

if TYPE_CHECKING:
    import pytest


def test_settings_variables_are_read_back_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the demo writes into the worker's environment, the worker's settings read: lists and secrets too."""
    broker = BrokerSettings(bootstrap="127.0.0.1:1", group="g", username="u", password=SecretStr("p"))
    fetch = FetchSettings(allow_hosts=("127.0.0.1:8080",))
    for name, value in settings_variables({"broker": broker, "fetch": fetch}).items():
        monkeypatch.setenv(name, value)
    read = Settings()
    assert (read.broker, read.fetch) == (broker, fetch)


def test_settings_variables_leave_out_what_is_not_set() -> None:
    """An unset value has no spelling in the environment."""
    assert "STREAMER_BROKER__USERNAME" not in settings_variables({"broker": BrokerSettings()})
