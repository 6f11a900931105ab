"""The topics of the stream and the way to the broker: who connects, connects with `client_kwargs`.

Every Kafka client of the project (scorer, publisher, doctor, tests) takes its security from here, so that one setting
reaches them all. Topics are created here and nowhere else; nothing ever changes or deletes one that exists.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidConfigurationError,
    KafkaConnectionError,
    KafkaError,
    TopicAlreadyExistsError,
    for_code,
)
from aiokafka.helpers import create_ssl_context

from streamer.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    from streamer.settings import BrokerSettings, TopicSettings

CONNECT_TIMEOUT_S = 10.0  # for people at a terminal: a healthy broker answers in milliseconds, a far one in a second

POLL_S = 0.02

DAY_MS = 86_400_000
MAX_DEAD_LETTER_BYTES = 2 * 2**20
"""A dead letter carries its event in base64, 4/3 of at most 1 MiB (the broker's default), and the words around it."""


STAMPED_BY_THE_BROKER = {"message.timestamp.type": "LogAppendTime"}
"""For what workers write: Kafka refuses a record whose time is an hour ahead of its own, and a worker whose clock has
jumped would stand still. Events carry their own times."""

UNPACKED_BY_THE_BROKER = {"compression.type": "uncompressed"}
"""For what others write: the broker then counts unpacked bytes against max.message.bytes, and a worker never unpacks.
Producers may pack as they like. See docs/adr/0027."""

_SAFE_COPIES = 3
CHANGELOG = STAMPED_BY_THE_BROKER | {"max.compaction.lag.ms": str(30 * DAY_MS)}
"""Of the alert agent's state, which is kept for ever: the title of a deleted product goes as soon as its alerts do."""


def changelog(copies: int) -> dict[str, str]:
    """Return the configuration of the state's changelog, of which the broker keeps so many copies."""
    return CHANGELOG | _safe(copies)


def _safe(copies: int) -> dict[str, str]:
    """Return what lets acks=all survive the loss of one broker of three."""
    return {"min.insync.replicas": "2"} if copies >= _SAFE_COPIES else {}


@dataclass(frozen=True)
class TopicSpec:
    """One topic as it should be; `role` says what it is for."""

    name: str
    role: str
    partitions: int
    replication: int
    config: dict[str, str]


@dataclass(frozen=True)
class TopicState:
    """One topic as the broker has it."""

    name: str
    partitions: int
    replication: int


@dataclass
class Creation:
    """What `create` did: the names that are new, and what people should know about the others."""

    created: list[str] = field(default_factory=list)
    existing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def specs(topics: TopicSettings) -> tuple[TopicSpec, ...]:
    """Return every topic: the five of the flow, then those of the loop that its labels close.

    Those of the flow are kept by time, never compacted: each record has its own outcome; compaction would drop updates
    (and open gaps in the offsets) before they have had theirs. The catalogue system stays the source of truth: to score
    everything again, publish the feed again. Scores are a ledger for a week of questions; people work on alerts and
    dead letters, so these stay a month, as do the questions to reviewers and their answers: the data set keeps those.
    Announcements of releases are few and ordered among each other: one partition, compacted, kept for ever.
    """
    return (
        _spec(topics, topics.updates, "in: product updates", days=7),
        _spec(topics, topics.scores, "out: outcome of each update", days=7, ours=True),
        _spec(topics, topics.alerts, "out: mismatch alerts", days=30, ours=True),
        _spec(
            topics, topics.dead_letters, "out: rejected updates", days=30, ours=True, max_bytes=MAX_DEAD_LETTER_BYTES
        ),
        _spec(topics, topics.redecisions, "among workers: alerts to decide anew", days=1, ours=True),
        _spec(topics, topics.reviews, "out: products that people are asked about", days=30, ours=True),
        _spec(topics, topics.shadow_scores, "out: what a challenger says", days=7, ours=True),
        _spec(topics, topics.labels, "in: what people say", days=30),
        _announcements(topics),
    )


def stream_specs(topics: TopicSettings) -> tuple[TopicSpec, ...]:
    """Return the five topics without which no scorer works."""
    return specs(topics)[:5]


def _announcements(topics: TopicSettings) -> TopicSpec:
    spec = _spec(topics, topics.releases, "in: which engine release runs", days=0)
    config = {name: value for name, value in spec.config.items() if name != "retention.ms"}
    return replace(spec, partitions=1, config=config | {"cleanup.policy": "compact"})


def _spec(
    topics: TopicSettings, name: str, role: str, *, days: int, ours: bool = False, max_bytes: int | None = None
) -> TopicSpec:
    config = {"cleanup.policy": "delete", "retention.ms": str(days * DAY_MS)}
    config |= STAMPED_BY_THE_BROKER if ours else UNPACKED_BY_THE_BROKER
    config |= _safe(topics.replication)
    if max_bytes is not None:
        config["max.message.bytes"] = str(max_bytes)
    return TopicSpec(name, role, topics.partitions, topics.replication, config)


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
        context: ssl.SSLContext = create_ssl_context(cafile=broker.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise FatalError(
            "settings_invalid", f"STREAMER_BROKER__CA_FILE: {broker.ca_file} is not a readable PEM bundle: {error}"
        ) from error
    return context


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


@contextlib.contextmanager
def connecting(broker: BrokerSettings) -> Generator[None]:
    """Translate a client's failure to reach the broker, with the reason that aiokafka only logs.

    Raises:
        FatalError: broker_unreachable or broker_unauthorized, saying what to look at.
    """
    reasons = _Reasons()
    logger = logging.getLogger("aiokafka")
    logger.addHandler(reasons)
    try:
        yield
    except (KafkaConnectionError, TimeoutError) as error:
        raise _unreachable(broker, reasons.last or str(error) or "no answer") from error
    finally:
        logger.removeHandler(reasons)


class _Reasons(logging.Handler):
    """Keeps the client's last complaint, which its exception does not carry."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.last = record.getMessage()


def _unreachable(broker: BrokerSettings, reason: str) -> FatalError:
    if "SaslAuthenticationFailed" in reason:
        return FatalError(
            "broker_unauthorized",
            f"{broker.bootstrap} refused the credentials ({reason}): STREAMER_BROKER__USERNAME, "
            f"STREAMER_BROKER__PASSWORD and STREAMER_BROKER__SASL_MECHANISM must be what the broker expects",
        )
    return FatalError(
        "broker_unreachable",
        f"no Kafka answers at {broker.bootstrap} ({reason}). Is it running, and does it advertise an address that "
        f"this machine reaches? Set STREAMER_BROKER__BOOTSTRAP or --bootstrap HOST:PORT; security is "
        f"{broker.security_protocol} (STREAMER_BROKER__SECURITY_PROTOCOL)",
    )


@contextlib.asynccontextmanager
async def admin(broker: BrokerSettings, *, timeout_s: float = CONNECT_TIMEOUT_S) -> AsyncGenerator[AIOKafkaAdminClient]:
    """Yield a connected admin client.

    Raises:
        FatalError: broker_unreachable, broker_unauthorized, settings_invalid, or broker_refused for any other error of
            the broker.
    """
    client = AIOKafkaAdminClient(**client_kwargs(broker), request_timeout_ms=int(timeout_s * 1000))
    try:
        with connecting(broker):
            await asyncio.wait_for(client.start(), timeout_s)
            yield client
    except KafkaError as error:
        raise FatalError("broker_refused", f"{broker.bootstrap} answered {error}") from error
    finally:
        await client.close()


async def describe(client: AIOKafkaAdminClient) -> dict[str, TopicState]:
    """Return every topic by name. Asks for all of them: asking for one by name makes some brokers create it."""
    described = await client.describe_topics()
    return {topic["topic"]: _state(topic["topic"], topic["partitions"]) for topic in described}


async def settings_of(client: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str | None]]:
    """Return the settings of these topics, by topic and name; of one that does not exist, or may not be read, none."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    responses: list[Any] = await client.describe_configs(asked) if asked else []
    return {
        resource: {entry[0]: entry[1] for entry in entries}
        for response in responses
        for _, _, _, resource, entries in response.resources
    }


def _state(name: str, partitions: Sequence[dict[str, Any]]) -> TopicState:
    return TopicState(name, len(partitions), min((len(p["replicas"]) for p in partitions), default=0))


async def create(broker: BrokerSettings, wanted: Sequence[TopicSpec]) -> Creation:
    """Create the topics that do not exist, and compare those that do; what is created can be used at once.

    Raises:
        FatalError: topic_not_created with the broker's words, or what `admin` raises.
    """
    done = Creation()
    async with admin(broker) as client:
        existing = await describe(client)
        for spec in wanted:
            if spec.name in existing:
                done.existing.append(spec.name)
                done.notes += differences(spec, existing[spec.name])
            else:
                await _create_one(client, spec, done)
        await _await_visible(client, set(done.created))
    return done


async def _await_visible(client: AIOKafkaAdminClient, names: set[str]) -> None:
    """Return once the broker's metadata shows the topics: a controller answers before its brokers have heard."""
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        while not names <= (await describe(client)).keys():  # noqa: ASYNC110 - the broker calls nobody
            await asyncio.sleep(POLL_S)


def differences(spec: TopicSpec, state: TopicState) -> list[str]:
    """Return in words where a topic differs from what the settings ask for."""
    notes: list[str] = []
    if state.partitions != spec.partitions:
        notes.append(
            f"{spec.name} has {state.partitions} partitions, the settings say {spec.partitions}: left as it is "
            f"(more partitions move products to others; set STREAMER_TOPICS__PARTITIONS={state.partitions} to agree)"
        )
    if state.replication != spec.replication:
        notes.append(f"{spec.name} has {state.replication} copies, the settings say {spec.replication}: left as it is")
    return notes


async def _create_one(client: AIOKafkaAdminClient, spec: TopicSpec, done: Creation) -> None:
    error, message = await _request(client, spec, spec.config)
    if error is InvalidConfigurationError:
        done.notes.append(f"{spec.name}: this broker refuses {spec.config} ({message}); created with its own defaults")
        error, message = await _request(client, spec, {})
    if error is TopicAlreadyExistsError:  # another worker was faster
        done.existing.append(spec.name)
    elif error is None:
        done.created.append(spec.name)
    else:
        raise FatalError("topic_not_created", f"{spec.name}: {message or error.__name__}")


async def _request(
    client: AIOKafkaAdminClient, spec: TopicSpec, config: dict[str, str]
) -> tuple[type[KafkaError] | None, str]:
    topic = NewTopic(spec.name, spec.partitions, spec.replication, topic_configs=config)
    response: Any = await client.create_topics([topic])
    code, message = response.topic_errors[0][1:3]
    return (for_code(code) if code else None), str(message or "")
