"""Every setting of the workers: defaults, units and bounds. Only composition roots and the CLI read them.

From the environment with prefix `STREAMER_` and `__` between levels (`STREAMER_FETCH__TIMEOUT_S=5`), or from a `.env`
file in the working directory; `streamer settings` prints them with secrets masked.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from streamer import events
from streamer.errors import FatalError
from streamer.shadow_events import SHADOW_SCORES


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BrokerSettings(_Section):
    """How to reach Kafka, and how fast a dead worker is noticed."""

    bootstrap: str = Field(default="127.0.0.1:9092", description="HOST:PORT[,HOST:PORT…]")
    group: str = Field(
        default="mismatch-scorer", description="consumer group; also the prefix of the state's changelog topic"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str | None = None
    password: SecretStr | None = None
    ca_file: Path | None = Field(default=None, description="PEM bundle that signs the brokers; the system's when unset")
    session_timeout_s: float = Field(
        default=15.0, gt=0, description="silence after which the group gives partitions away"
    )
    heartbeat_interval_s: float = Field(default=3.0, gt=0)
    fetch_max_wait_ms: int = Field(default=500, ge=1, description="how long a broker may hold a fetch without news")
    commit_interval_s: float = Field(default=1.0, gt=0, description="how often offsets are committed")


class TopicSettings(_Section):
    """Topic names; `streamer topics create` creates them with these counts."""

    updates: str = events.PRODUCT_UPDATES
    scores: str = events.PRODUCT_SCORES
    alerts: str = events.MISMATCH_ALERTS
    dead_letters: str = events.DEAD_LETTERS
    reviews: str = events.REVIEW_REQUESTS
    labels: str = events.CONFIRMED_LABELS
    releases: str = events.ENGINE_RELEASES
    redecisions: str = events.ALERT_REDECISIONS
    shadow_scores: str = SHADOW_SCORES
    partitions: int = Field(default=12, ge=1, le=10_000)
    replication: int = Field(default=1, ge=1, description="use 3 where there are three brokers")


class FetchSettings(_Section):
    """Limits on what the image fetcher will do for one URL."""

    timeout_s: float = Field(
        default=10.0, gt=0, description="from the first connection attempt to the last byte, one try"
    )
    connect_timeout_s: float = Field(default=3.0, gt=0)
    attempts: int = Field(default=3, ge=1, le=10, description="tries in all for transient failures")
    backoff_s: float = Field(default=0.5, ge=0, description="before the second try; doubles, with full jitter")
    max_image_bytes: int = Field(default=20 * 2**20, ge=1024)
    max_held_bytes: int = Field(
        default=256 * 2**20,
        ge=1024,
        description="of all pictures between their first byte and their decoding; those of one site take half at most",
    )
    slow_after_s: float = Field(default=3.0, gt=0, description="of a body; from then on min_bytes_per_s counts")
    min_bytes_per_s: int = Field(default=4096, ge=1)
    max_redirects: int = Field(default=3, ge=0, le=10)
    breaker_failures: int = Field(
        default=10, ge=1, description="tries in a row that fail before a host is left alone, its events rejected"
    )
    breaker_pause_s: float = Field(default=5.0, gt=0, description="then one try probes; doubles up to a minute")
    concurrency: int = Field(default=64, ge=1, description="connections in all")
    concurrency_per_host: int = Field(default=32, ge=1, description="and to all names of one registered domain")
    allow_hosts: tuple[str, ...] = Field(
        default=(), description="HOST:PORT whose private address is allowed (a shop's own CDN)"
    )
    user_agent: str = "mismatch-streamer/1 (+catalogue image check)"


class EngineSettings(_Section):
    """Which model runs, and on how much of the machine."""

    release: Path | None = Field(
        default=None, description="release directory; the one that ships in the package when unset"
    )
    runtime: Literal["auto", "tensorrt", "onnx-tensorrt", "onnx-cuda", "cpu"] = Field(
        default="auto",
        description="auto: the first of tensorrt, onnx-cuda and cpu that runs here; with tensorrt a worker without a "
        "plan does not start, and says which command builds it; onnx-tensorrt builds at every first start",
    )
    gpu: int = Field(default=0, ge=0, description="which one, where there are several")
    plans: Path | None = Field(
        default=None, description="directory of TensorRT plans (`streamer compile`); RELEASE/plans when unset"
    )
    threads: int = Field(default=0, ge=0, description="CPU threads of one inference; 0: one per core")
    max_batch: int | None = Field(
        default=None, ge=1, description="cap under the engine's own: its manifest's, on a GPU its plan's largest batch"
    )
    deadline_s: float = Field(
        default=60.0, gt=0, description="for one batch; a worker whose engine takes longer stops, to be started anew"
    )


class ReleaseSettings(_Section):
    """Where published engine releases are; with a store, workers run what `streamer releases promote` announces."""

    store: str | None = Field(
        default=None,
        description="folder or URL (s3://bucket/releases with s3fs installed) that workers fetch announced releases "
        "from; unset: they run STREAMER_ENGINE__RELEASE until they are restarted",
    )
    retry_s: float = Field(default=10.0, gt=0, description="before a store that did not answer is asked again")


class EvidenceSettings(_Section):
    """What workers keep for those who judge alerts, and what else they ask people about."""

    store: str | None = Field(
        default=None,
        description="folder or URL where pictures and texts of alerts are kept, for the label worker to join verdicts "
        "with; unset: nothing is kept, and labels find nothing",
    )
    threads: int = Field(default=8, ge=1, description="that write to it at a time")
    audit_share: float = Field(
        default=0.001,
        ge=0,
        le=1,
        description="of the products that did not alert, how many people are asked about; without it nobody knows how "
        "many are wrong, and no retrained engine is promoted",
    )
    audit_uncertainty: float = Field(
        default=20.0, ge=0, description="how many times likelier a product just below its threshold is drawn, beside 1"
    )
    audit_per_hour: float = Field(
        default=20.0, gt=0, description="draws of one worker in an hour at most, on average: chances shrink to keep it"
    )
    audit_salt: str = Field(default="", description="another one draws other products")


class LabelSettings(_Section):
    """The label worker: verdicts of people into a data set."""

    group: str = Field(default="mismatch-labeler", description="consumer group")
    dataset: str = Field(
        default="label-dataset",
        description="folder or URL of the data set: a Delta table, pictures, and which products were erased",
    )
    max_batch: int = Field(default=500, ge=1, description="labels that are written together at most")
    webhook_host: str = "127.0.0.1"
    webhook_port: int = Field(
        default=0, ge=0, le=65535, description="where Label Studio posts annotations, /label-studio; 0 turns it off"
    )
    webhook_secret: SecretStr | None = Field(
        default=None, description="that its header `Authorization: Bearer …` must have; needed with a port"
    )


class RetrainSettings(_Section):
    """When an engine is retrained, and where."""

    min_labels: int = Field(
        default=200, ge=1, description="newly judged items after which `streamer retrain --if-needed` has work to do"
    )
    work: Path = Field(default=Path("retraining"), description="directory of runs; one that was killed goes on there")
    catalog: Path | None = Field(
        default=None, description="folder (`streamer collect`) of the catalogue that the engine was adapted to"
    )


class DriftSettings(_Section):
    """The drift watcher: from where on products, scores or alerts are others than when the release began to judge."""

    window: int = Field(
        default=20_000, ge=10, description="products of a release's reference, the first ones, and of what is compared"
    )
    least: int = Field(default=2_000, ge=10, description="products without which nothing is compared")
    distance: float = Field(
        default=0.2, gt=0, le=1, description="Kolmogorov-Smirnov distance of a value's distribution that is drift"
    )
    factor: float = Field(default=2.0, ge=1, description="times its reference share that a share must pass, and …")
    margin: float = Field(default=0.02, ge=0, description="… so much more (or less), to be drift")
    patience_s: float = Field(
        default=3600.0, ge=0, description="that something must have drifted before a retraining is asked for"
    )
    check_every_s: float = Field(default=60.0, gt=0)
    lookback_s: float = Field(
        default=86_400.0, gt=0, description="how far a watcher that starts reads back, to fill what it compares"
    )


class PipelineSettings(_Section):
    """How much work is held at once. When a bound is reached, consumption stops until there is room."""

    max_in_flight: int = Field(
        default=512,
        ge=1,
        description="events between consumption and acknowledgement; fewer where the engine could not finish them "
        "well within drain_timeout_s",
    )
    max_pixels: int = Field(
        default=50_000_000, ge=4096, description="declared width x height of one picture, before decoding"
    )
    decoders: int = Field(default=2, ge=1, description="processes that decode pictures, one at a time each")
    decode_memory_mib: int = Field(
        default=1024, ge=64, description="what one picture may allocate; 50 megapixels with alpha take up to 760"
    )
    decode_cpu_s: float = Field(
        default=1.5, gt=0, description="CPU time that one picture may take to decode; 25 megapixels take up to 0.9"
    )
    score_cache_entries: int = Field(default=200_000, ge=0, description="about 1 kB each; 0 turns `unchanged` off")
    explained_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="of the scored products, how many alerts name the contradicted field at most, in the long run: "
        "each costs about 6 inferences; 0 turns it off",
    )
    heat_map_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="of the scored products, how many explained alerts also say where in the picture at most, in the "
        "long run: each costs 74 inferences, one after the other; 0 turns it off",
    )
    drain_timeout_s: float = Field(default=25.0, gt=0, description="on SIGTERM; keep it under the pod's grace period")


class TelemetrySettings(_Section):
    """Logs on stderr, metrics and health over HTTP."""

    host: str = "127.0.0.1"
    port: int = Field(default=9102, ge=0, le=65535, description="/metrics, /healthz, /readyz; 0 turns them off")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    tracing: bool = Field(
        default=False,
        description="traces of what becomes of each update, by OpenTelemetry: where to and how many is said by its own "
        "variables, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, …",
    )


class StateSettings(_Section):
    """Where the alert agent keeps its table; it can always be rebuilt from the changelog topic."""

    store: Literal["memory", "rocksdb"] = "memory"
    directory: Path = Field(
        default=Path("state"),
        description="one per worker: of Faust, of releases while they are loaded, and with rocksdb of the table",
    )


class Settings(BaseSettings):
    """All sections; `Settings()` reads the environment."""

    model_config = SettingsConfigDict(
        env_prefix="STREAMER_", env_nested_delimiter="__", env_file=".env", frozen=True, extra="ignore"
    )

    broker: BrokerSettings = BrokerSettings()
    topics: TopicSettings = TopicSettings()
    fetch: FetchSettings = FetchSettings()
    engine: EngineSettings = EngineSettings()
    releases: ReleaseSettings = ReleaseSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    labels: LabelSettings = LabelSettings()
    retrain: RetrainSettings = RetrainSettings()
    drift: DriftSettings = DriftSettings()
    pipeline: PipelineSettings = PipelineSettings()
    state: StateSettings = StateSettings()
    telemetry: TelemetrySettings = TelemetrySettings()


def _refuse_misspelt_sections() -> None:
    """Refuse a variable of ours that no section would read; a misspelt limit would silently not be one."""
    names = {**dotenv_values(".env"), **os.environ}
    known = {name.upper() for name in Settings.model_fields}
    ours = sorted(name for name in names if name.upper().startswith("STREAMER_"))
    wrong = [name for name in ours if name.upper().removeprefix("STREAMER_").split("__")[0] not in known]
    if wrong:
        sections = ", ".join(sorted(known))
        raise FatalError("settings_invalid", f"no setting is called {', '.join(wrong)}; sections are {sections}")


def load(**overrides: Any) -> Settings:  # noqa: ANN401 - sections as pydantic takes them
    """Return the settings of this process, `overrides` before the environment.

    Raises:
        FatalError: settings_invalid, naming each wrong variable.
    """
    _refuse_misspelt_sections()
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = [
            f"STREAMER_{'__'.join(str(part).upper() for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise FatalError("settings_invalid", "settings are wrong:\n  " + "\n  ".join(lines)) from error
    except SettingsError as error:  # names the section only
        raise FatalError("settings_invalid", f'{error}: lists are JSON, ["HOST:PORT", "HOST:PORT"]') from error
