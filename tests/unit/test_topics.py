"""Topics and the way to the broker: security from settings in one place, advice when nothing answers."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING

import pytest
from aiokafka.errors import KafkaConnectionError
from pydantic import SecretStr

from streamer.errors import FatalError
from streamer.settings import BrokerSettings, TopicSettings
from streamer.topics import (
    CHANGELOG,
    TopicState,
    admin,
    changelog,
    client_kwargs,
    connecting,
    create,
    describe,
    differences,
    specs,
    stream_specs,
)

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.demo.broker import EmbeddedBroker

NOBODY = BrokerSettings(bootstrap="127.0.0.1:1")  # tcpmux: no one listens there


def test_client_kwargs_plaintext_is_an_address_and_nothing_else() -> None:
    """Without security no client gets a credential or a context."""
    assert client_kwargs(BrokerSettings(bootstrap="a:1,b:2")) == {
        "bootstrap_servers": "a:1,b:2",
        "security_protocol": "PLAINTEXT",
    }


def test_client_kwargs_sasl_ssl_carries_credentials_and_verifies_the_broker() -> None:
    """The password leaves its SecretStr here only; certificates are checked, names too."""
    broker = BrokerSettings(security_protocol="SASL_SSL", username="scorer", password=SecretStr("sesame"))
    kwargs = client_kwargs(broker)
    assert kwargs["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (kwargs["sasl_plain_username"], kwargs["sasl_plain_password"]) == ("scorer", "sesame")
    assert kwargs["ssl_context"].verify_mode is ssl.CERT_REQUIRED
    assert kwargs["ssl_context"].check_hostname


@pytest.mark.parametrize("given", [{}, {"username": "scorer"}, {"password": SecretStr("sesame")}])
def test_client_kwargs_sasl_without_credentials_names_the_settings(given: dict[str, str]) -> None:
    """Half a credential is a setting to correct, not a refusal of the broker to decipher."""
    broker = BrokerSettings.model_validate({"security_protocol": "SASL_PLAINTEXT"} | given)
    with pytest.raises(FatalError, match="STREAMER_BROKER__PASSWORD") as caught:
        client_kwargs(broker)
    assert caught.value.code == "settings_invalid"


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_client_kwargs_unreadable_ca_file_names_the_setting(tmp_path: Path, content: str | None) -> None:
    """A CA file that is missing or no PEM bundle is a setting to correct."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(FatalError, match="STREAMER_BROKER__CA_FILE"):
        client_kwargs(BrokerSettings(security_protocol="SSL", ca_file=path))


def test_specs_keep_people_s_topics_longer_and_dead_letters_larger() -> None:
    """Alerts and dead letters wait for people; a dead letter is larger than the event it carries."""
    updates, scores, alerts, dead_letters, redecisions = stream_specs(TopicSettings())
    flow = (updates, scores, alerts, dead_letters, redecisions)
    assert [int(spec.config["retention.ms"]) // 86_400_000 for spec in flow] == [7, 7, 30, 30, 1]
    assert int(dead_letters.config["max.message.bytes"]) > 2**20 * 4 / 3
    assert all(spec.config["cleanup.policy"] == "delete" for spec in flow)
    by_the_broker = [spec.config.get("message.timestamp.type") for spec in flow]
    assert by_the_broker == [None, *["LogAppendTime"] * 4]


def test_specs_have_the_broker_unpack_what_others_write() -> None:
    """A limit on a record's size then means its size; workers pack nothing."""
    unpacked = [spec.name for spec in specs(TopicSettings()) if spec.config.get("compression.type") == "uncompressed"]
    assert unpacked == ["product-updates", "confirmed-labels", "engine-releases"]


def test_specs_keep_the_last_announcement_of_each_release_in_one_order() -> None:
    """Which release runs is the last record's to say, however old it is."""
    releases = specs(TopicSettings(partitions=12))[-1]
    assert (releases.partitions, releases.config["cleanup.policy"]) == (1, "compact")
    assert "retention.ms" not in releases.config


@pytest.mark.parametrize(("replication", "in_sync"), [(1, None), (2, None), (3, "2")])
def test_specs_with_three_copies_need_two_in_sync(replication: int, in_sync: str | None) -> None:
    """With three brokers the loss of one neither stops the stream nor loses what was acknowledged."""
    for spec in specs(TopicSettings(replication=replication)):
        assert spec.config.get("min.insync.replicas") == in_sync


def test_differences_are_said_in_words() -> None:
    """Each count that is not the settings' own is named, with the setting that would agree."""
    spec = specs(TopicSettings(partitions=12, replication=3))[0]
    assert differences(spec, TopicState(spec.name, 12, 3)) == []
    partitions, copies = differences(spec, TopicState(spec.name, 4, 1))
    assert "STREAMER_TOPICS__PARTITIONS=4" in partitions
    assert "1 copies" in copies


async def test_admin_when_nobody_answers_says_what_to_look_at() -> None:
    """The reason that the client only logs is in the error, with the setting to change."""
    with pytest.raises(FatalError, match=r"Connect call failed.*STREAMER_BROKER__BOOTSTRAP") as caught:
        async with admin(NOBODY):
            pass
    assert caught.value.code == "broker_unreachable"


@pytest.mark.parametrize(
    ("complaint", "code"),
    [
        (
            'Unable connect to "kafka:9092": [Error 58] SaslAuthenticationFailed: Invalid password',
            "broker_unauthorized",
        ),
        ('Unable connect to "kafka:9092": [Errno 111] Connect call failed', "broker_unreachable"),
    ],
)
def test_connecting_tells_refused_credentials_from_silence(complaint: str, code: str) -> None:
    """The client raises the same for both, and logs the difference."""

    def connect() -> None:
        with connecting(NOBODY):
            logging.getLogger("aiokafka.client").error(complaint)
            raise KafkaConnectionError("Unable to bootstrap")

    with pytest.raises(FatalError) as caught:
        connect()
    assert caught.value.code == code
    assert complaint in str(caught.value)


async def test_create_twice_creates_once_and_compares(tansu: EmbeddedBroker) -> None:
    """Creating is idempotent; topics that exist are compared, never changed."""
    broker = BrokerSettings(bootstrap=tansu.bootstrap)
    names = [spec.name for spec in specs(TopicSettings())]
    first = await create(broker, specs(TopicSettings(partitions=3)))
    assert (first.created, first.existing, first.notes) == (names, [], [])
    second = await create(broker, specs(TopicSettings(partitions=5)))
    assert (second.created, second.existing) == ([], names)
    assert len(second.notes) == len(names) - 1
    assert all("has 3 partitions, the settings say 5" in note for note in second.notes)
    async with admin(broker) as client:
        existing = await describe(client)
    assert {name: existing[name].partitions for name in names} == dict.fromkeys(names, 3) | {"engine-releases": 1}


def test_changelog_of_the_state_is_as_safe_as_the_scores() -> None:
    """Three copies, of which two must have a record before it counts; with fewer, one may be all."""
    assert changelog(3) == CHANGELOG | {"min.insync.replicas": "2"}
    assert changelog(1) == CHANGELOG
