"""The topics of the stream and the way to the broker: who connects, connects with `client_kwargs`.

Every Kafka client of the project (scorer, publisher, doctor, tests) takes its security from here, so that one setting
reaches them all.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from aiokafka.helpers import create_ssl_context

from streamer.errors import FatalError

if TYPE_CHECKING:
    from streamer.settings import BrokerSettings


def client_kwargs(broker: BrokerSettings) -> dict[str, Any]:
    """Return what every aiokafka client takes to reach this broker: addresses and security.

    Raises:
        FatalError: settings_invalid, when SASL lacks its username or password, or the CA file cannot be read.
    """
    kwargs: dict[str, Any] = {"bootstrap_servers": broker.bootstrap, "security_protocol": broker.security_protocol}
    if broker.security_protocol in ("SSL", "SASL_SSL"):
        kwargs["ssl_context"] = _ssl_context(broker)
    if broker.security_protocol.startswith("SASL"):
        kwargs |= _sasl_kwargs(broker)
    return kwargs


def _ssl_context(broker: BrokerSettings) -> ssl.SSLContext:
    try:
        return create_ssl_context(cafile=broker.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise FatalError(
            "settings_invalid", f"STREAMER_BROKER__CA_FILE: {broker.ca_file} is not a readable PEM bundle: {error}"
        ) from error


def _sasl_kwargs(broker: BrokerSettings) -> dict[str, Any]:
    if not broker.username or broker.password is None:
        raise FatalError(
            "settings_invalid",
            f"{broker.security_protocol} needs STREAMER_BROKER__USERNAME and STREAMER_BROKER__PASSWORD",
        )
    return {
        "sasl_mechanism": broker.sasl_mechanism,
        "sasl_plain_username": broker.username,
        "sasl_plain_password": broker.password.get_secret_value(),
    }
