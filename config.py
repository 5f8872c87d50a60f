"""The settings: the only reader of the environment, read once, immutable, passed on as a value.

The environment wins over ``.env`` beside this file, which wins over a folder of secret files
(``SECRETS_DIR``: a file ``database_url`` there gives ``DATABASE_URL``). A relative path is meant
from this file's folder, as ``.env`` is, so that all processes mean the same wherever they start.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import IO, Annotated, Any, Final, Literal, Self
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

import config_values as values
from errors import SettingsError

logger = logging.getLogger(__name__)

VERSION: Final = "3.0.0"
PROJECT_DIR = Path(__file__).resolve().parent
ENV_FILE = PROJECT_DIR / ".env"
#: Where ``make run`` notes the servers and the model that it chose, in STATE_DIR, while it runs.
SERVERS_FILE: Final = "servers.json"
#: Shortest key that API_KEYS may hold; below this a key can be guessed.
MIN_API_KEY_CHARS = 16
#: Shortest WEBHOOK_SIGNING_KEY: as many bits as its signatures have.
MIN_SIGNING_KEY_CHARS: Final = 32
#: Longer than anything here is meant to last, and short enough for every clock and timer.
LONGEST_SECONDS: Final = 30 * 86_400.0
#: A lease lives through this many lost heartbeats; fewer, and a healthy worker loses its jobs.
HEARTBEATS_IN_LEASE: Final = 3
#: Shortest time that audit events are kept, where it is not for ever.
MIN_AUDIT_DAYS: Final = 30
#: In the order in which a worker takes from them.
QUEUES: Final = ("high", "normal", "retry")
#: The queue that no worker takes from, by its name and by that of the first version.
DEAD_LETTERS: Final = frozenset({"dlq", "transcription.dlq"})

Names = Annotated[tuple[str, ...], NoDecode]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode]
Port = Annotated[int, Field(ge=1, le=65535)]
Pause = Annotated[float, Field(gt=0, le=LONGEST_SECONDS)]
Wait = Annotated[float, Field(ge=0, le=LONGEST_SECONDS)]
Count = Annotated[int, Field(ge=1, le=1000)]
#: With a lower bound at each field: one here would win over it.
Megabytes = Annotated[int, Field(le=2**24)]

#: The first version's variables that mean nothing any more, and why. Setting one warns and starts.
RETIRED = {
    "CELERY_LOG_LEVEL": "use LOG_LEVEL",
    "CELERY_RESULT_BACKEND": "results are rows in PostgreSQL",
    "DASHBOARD_PORT": "use Flower and /admin/health",
    "DEBUG": "use LOG_LEVEL=DEBUG",
    "DIARIZATION_MAX_SPEAKERS": "speakers are not told apart in this version",
    "DIARIZATION_MIN_SPEAKERS": "speakers are not told apart in this version",
    "FILE_STABILITY_WINDOW": "`python cli.py watch` alone reads it, from its environment",
    "HF_TOKEN": "no model that needs a token is used",
    "PRIORITIZE_RECENT": "`python cli.py watch` alone reads it, from its environment",
    "SCAN_INTERVAL": "`python cli.py watch` alone reads it, from its environment",
    "SKIP_FILES_BEFORE_DATE": "`python cli.py watch` alone reads it, from its environment",
    "SPEAKER_PROFILES_PATH": "speakers are not told apart in this version",
    "SPEAKER_RECOGNITION": "speakers are not told apart in this version",
    "SPEAKER_RECOGNITION_THRESHOLD": "speakers are not told apart in this version",
    "TRANSCRIBE_AUDIO_FOLDER": "`python cli.py watch` alone reads it, from its environment",
    "TRANSCRIBE_AUTO_RENAME": "transcripts are fetched from /jobs/{id}/result",
    "TRANSCRIBE_OUTPUT_FOLDER": "`python cli.py watch` alone reads it, from its environment",
    "TRANSCRIBE_VIDEO_FOLDER": "`python cli.py watch` alone reads it, from its environment",
    "WHISPERX_BATCH_SIZE": "windows are decoded one at a time",
    "WHISPER_DIARIZATION": "speakers are not told apart in this version",
}
#: The first version's variables under a new name.
RENAMED = {"TRANSCRIBE_WORK_FOLDER": "STATE_DIR"}


class Settings(BaseSettings):
    """Everything that can be set. A field's name in upper case is its variable."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        env_file_encoding="utf-8",
        hide_input_in_errors=True,
    )

    # Where things are
    database_url: SecretStr | None = Field(
        None, description="PostgreSQL; unset, `make run` starts one of its own"
    )
    redis_url: SecretStr | None = Field(
        None, description="Redis or Valkey; unset, `make run` starts one of its own"
    )
    celery_broker_url: SecretStr | None = Field(
        None, description="Redis for the queues, when it is not REDIS_URL"
    )
    state_dir: Path = Field(
        Path(".local"),
        validate_default=True,
        description="Folder for uploads, models and the servers of `make run`",
    )
    upload_dir: Path | None = Field(
        None, description="Folder for uploads, shared by web and workers; STATE_DIR/uploads"
    )
    scratch_dir: Path | None = Field(
        None, description="Folder for decoded audio (230 MB an hour); STATE_DIR/scratch"
    )
    model_cache_dir: Path | None = Field(
        None, description="Folder for model files; STATE_DIR/models"
    )
    db_password: SecretStr | None = Field(
        None,
        description="Compose only: password of the database's owner; made at the first start",
    )

    # Web
    host: str = Field("127.0.0.1", description="Address that the service listens on")
    port: int = Field(8000, ge=1, le=65535, description="Port that the service listens on")
    web_concurrency: Count = Field(1, description="Processes that `python app.py` serves in")
    auth_required: bool = Field(True, description="Whether every call needs an API key")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="Keys entered at start with every scope, separated by commas"
    )
    admin_key_command: str | None = Field(
        None, description="Named in the log as what shows the first key; `cat STATE_DIR/admin.key`"
    )
    trusted_hosts: Names = Field(
        (), description="Host names that requests may be for, separated by commas; any"
    )
    trusted_proxies: Names = Field(
        ("127.0.0.1", "::1"),
        description="Addresses and networks of proxies, whose word on clients is taken;"
        " with Compose of those in front of its own",
    )
    root_path: str = Field(
        "", description="Path under which a proxy serves us, such as /stt, kept or taken off; none"
    )
    force_https: bool = Field(
        False, description="Refuse plain HTTP; redirect what has no key and only reads"
    )
    cors_origins: Names = Field(
        (), description="Origins whose pages may call this service, separated by commas; none"
    )
    docs_enabled: bool = Field(True, description="Serve the API's documentation at /docs")
    page_enabled: bool = Field(True, description="Serve the page at /")
    session_hours: float = Field(
        168.0, gt=0, le=8760, description="Who signs in on the page has to do so again after this"
    )
    max_upload_size_mb: Megabytes = Field(
        500, ge=1, description="Largest upload, in MB of 2^20 bytes"
    )
    min_free_disk_mb: Megabytes = Field(
        1024, ge=0, description="Free space that an upload must leave on the disk, in MB"
    )
    header_timeout_seconds: Pause = Field(
        10.0, description="Longest time that the head of a request may take"
    )
    body_timeout_seconds: Pause = Field(
        30.0, description="Longest time in which nothing of a body arrives"
    )
    openai_wait_seconds: float = Field(
        540.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="Longest time that /v1/audio waits for a job; OpenAI's clients wait 600",
    )
    asr_wait_seconds: float = Field(
        3540.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="Longest time that /asr waits for a job; Bazarr waits 3600",
    )
    keep_alive_seconds: Pause = Field(
        20.0, description="How long a connection is kept for a further request"
    )
    max_connections: int = Field(400, ge=1, le=100_000, description="Connections at once")
    max_connections_per_address: int = Field(
        100, ge=1, le=100_000, description="Connections at once from one address, proxies excepted"
    )
    idempotency_hours: float = Field(
        24.0, gt=0, le=720, description="How long an Idempotency-Key is remembered"
    )
    duplicate_detection: Literal["off", "finished"] = Field(
        "off",
        description="`finished`: a file that its owner had transcribed alike gives that job",
    )
    publish_budget_ms: int = Field(
        150, ge=10, le=10_000, description="Longest time that a submission waits for Redis"
    )

    # Limits; those of a key hold where it has none of its own
    rate_limit_enabled: bool = Field(True, description="Whether requests of a key are limited")
    rate_limit_requests: int = Field(
        100,
        ge=1,
        le=10**6,
        description="Requests of one key in each RATE_LIMIT_WINDOW; GET /jobs/{id} is a tenth",
    )
    rate_limit_window: int = Field(
        60, ge=1, le=86_400, description="Seconds in which RATE_LIMIT_REQUESTS are allowed"
    )
    key_audio_seconds_per_hour: float = Field(
        0, ge=0, le=10**9, description="Audio that one key may submit in an hour; 0: any amount"
    )
    key_jobs_at_once: int = Field(
        0, ge=0, le=10**9, description="Jobs of one key that wait or run; 0: any number"
    )
    key_stored_mb: Megabytes = Field(
        0, ge=0, description="Uploads of one key that are kept, in MB; 0: any amount"
    )
    key_requests_at_once: int = Field(
        100,
        ge=0,
        le=100_000,
        description="Requests of one key under way at once in one web process; 0: any number",
    )
    key_waits_at_once: int = Field(
        50,
        ge=0,
        le=100_000,
        description="Of these, such as wait for jobs or follow them; 0: any number",
    )
    max_unfinished_uploads: int = Field(
        100, ge=1, le=10**6, description="Resumable uploads of one owner that are not whole yet"
    )
    upload_expiry_hours: float = Field(
        24.0,
        gt=0,
        le=8760,
        description="A resumable upload is deleted when nothing of it came for so long",
    )
    max_queued_audio_hours: float = Field(
        0, ge=0, le=10**6, description="Audio that may wait in all queues; 0: any amount"
    )
    max_auth_failures: int = Field(
        30, ge=0, le=10**6, description="401s of one address in a minute, then 429; 0: any number"
    )

    # Audio
    max_audio_hours: float = Field(6.0, gt=0, le=48, description="Longest audio, in hours")
    decode_memory_mb: Megabytes = Field(512, ge=256, description="Memory of one decoding process")
    decode_timeout_seconds: Pause = Field(
        1800.0, description="Longest time that decoding one file may take"
    )

    # Models
    whisper_model_size: str = Field("base", description="Model for jobs that name none")
    whisper_engine: Literal["openai-whisper", "faster-whisper", "batch-whisper"] = Field(
        "openai-whisper", description="Engine for jobs that name none"
    )
    whisper_mode: Literal["auto", "exact", "fast"] = Field(
        "auto",
        description="How batch-whisper goes through audio: as Whisper does, or cut in its pauses"
        " and all parts side by side; auto is fast from two minutes on",
    )
    whisper_device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Where models run"
    )
    whisper_fp16: bool | None = Field(
        None, description="Half precision; unset: on a GPU yes, on a CPU no"
    )
    whisper_compute_type: Literal[
        "auto", "int8", "int8_float16", "int8_float32", "int8_bfloat16", "float16", "bfloat16",
        "float32",
    ] = Field("auto", description="Number format of weights; `auto` fits the device")  # fmt: skip
    whisper_threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="CPU threads of one model; 0 shares the cores among CELERY_CONCURRENCY",
    )
    model_pool_size: Count = Field(2, description="Loaded instances of one model, at most")
    model_pool_max_size: Count = Field(4, description="Loaded models in all, at most")
    model_pool_memory_mb: Megabytes = Field(
        0, ge=0, description="Memory for loaded models on each device; 0: most that there is"
    )
    model_idle_seconds: Wait = Field(900.0, description="Unused models are unloaded after")
    model_download: bool = Field(True, description="Whether missing models may be downloaded")
    model_base_url: str | None = Field(
        None, description="Mirror to download openai-whisper's models from"
    )
    model_wait_seconds: Wait = Field(
        0.0, description="How long a starting worker waits for its model to be in the cache"
    )

    # Workers
    celery_concurrency: Count = Field(2, description="Jobs at once in one worker")
    celery_queues: Names = Field(
        QUEUES, description="Queues a worker takes jobs from, always in this order"
    )
    celery_task_timeout: Pause = Field(
        3600.0, description="Shortest deadline of an attempt, in seconds"
    )
    deadline_factor: float = Field(
        20.0,
        gt=0,
        le=10_000,
        description="Deadline of an attempt, as a multiple of the audio's length",
    )
    max_retries: int = Field(3, ge=0, le=100, description="Tries after the first failed one")
    retry_base_seconds: Pause = Field(10.0, description="Pause before the first retry")
    retry_cap_seconds: Pause = Field(600.0, description="Longest pause before a retry")
    max_solo_crashes: int = Field(
        2, ge=1, le=100, description="Deaths of a job's own process after which it is poison"
    )
    max_crashes: int = Field(
        12, ge=1, le=100, description="Deaths of whole workers after which a job is poison"
    )
    drain_seconds: Wait = Field(
        25.0, description="On SIGTERM, how long running jobs may go on before handing back"
    )
    drain_force_seconds: Wait = Field(
        20.0, description="After that, how long until the worker exits whatever hangs"
    )
    stall_seconds: Pause = Field(
        900.0, description="A job without a sign of progress for so long is handed back"
    )
    preemption: bool = Field(
        True, description="Whether running jobs step aside for `high` ones when every slot is busy"
    )
    max_preemptions: int = Field(
        3, ge=0, le=100, description="How often one job steps aside, at most"
    )
    lease_seconds: Pause = Field(
        60.0, ge=1, description="Silence after which a worker's jobs are given to others"
    )
    heartbeat_seconds: Pause = Field(
        5.0, validate_default=True, description="Pause between a worker's heartbeats"
    )
    alive_file: Path | None = Field(
        None, description="File touched at every heartbeat, for health checks"
    )

    # Maintenance
    dispatch_seconds: float = Field(
        0.5, gt=0, le=60, description="Pause between the dispatcher's rounds"
    )
    redispatch_seconds: Pause = Field(
        60.0, description="A published job that nobody took is published again after"
    )
    audio_retention: str = Field(
        "7d",
        description="Uploads are deleted so long after their job's end, such as 12h, 7d or 4w;"
        " forever keeps them",
    )
    transcript_retention: str = Field(
        "forever",
        description="Whole jobs, transcript and upload, are deleted so long after their end,"
        " such as 30d",
    )
    audit_retention_days: float = Field(
        0, ge=0, le=36_500, description="Audit events are deleted after; 30 or more, 0 keeps them"
    )

    # Outgoing calls
    outgoing_allowed_networks: Networks = Field(
        (), description="Networks beside the public internet that clients may have called"
    )
    outgoing_allow_http: bool = Field(
        False, description="Whether clients may have plain http:// called, at port 80"
    )
    outgoing_ports: Annotated[tuple[Port, ...], NoDecode] = Field(
        (443,), description="Ports that clients may have called, separated by commas"
    )

    source_urls: bool = Field(
        False, description="Whether clients may name a recording's address instead of sending it"
    )
    source_hours: float = Field(
        6.0, gt=0, le=168, description="A recording that could not be fetched by then is given up"
    )
    source_retry_seconds: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="Pause before a recording that could not be fetched is tried again; the later"
        " ones double",
    )

    webhook_signing_key: SecretStr | None = Field(
        None,
        description="What the secrets of webhooks are made from; unset, STATE_DIR/webhook.key, made"
        " at the first start",
    )
    webhook_retry_seconds: Pause = Field(
        5.0, description="Pause before a failed webhook is tried again; the later ones grow with it"
    )

    # PostgreSQL
    database_service_role: str = Field(
        "transcription_service",
        min_length=1,
        description="Role that the service connects as, where another owns the tables: migrations"
        " give it what it needs",
    )
    database_pool_size: Count = Field(10, description="Connections kept open by one process")
    database_max_overflow: int = Field(
        10, ge=0, le=1000, description="Further connections under load"
    )
    database_pool_timeout_seconds: Pause = Field(
        2.0, description="How long a request waits for a connection"
    )

    # Metrics
    metrics_host: str = Field(
        "127.0.0.1", description="Address that maintenance answers Prometheus at; no public one"
    )
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Port that maintenance answers Prometheus at; 0: none"
    )

    # Logs and Flower
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="Least level that is logged"
    )
    log_format: Literal["human", "json"] = Field("human", description="Form of a log line")
    flower_port: int = Field(5555, ge=1, le=65535, description="Compose only: Flower's port")
    worker_memory: str = Field(
        "16g", description="Compose only: memory of one worker, models included"
    )
    door_network: str = Field(
        "10.213.87", description="Compose only: first three numbers of a private network to use"
    )
    domain: str | None = Field(
        None, description="Compose with docker-compose.https.yml only: the name to serve HTTPS for"
    )
    flower_password: SecretStr | None = Field(
        None, description="Compose only: password of Flower's user `admin`; made at first start"
    )
    grafana_port: int = Field(3000, ge=1, le=65535, description="Compose only: Grafana's port")
    grafana_password: SecretStr | None = Field(
        None, description="Compose only: password of Grafana's user `admin`; made at first start"
    )

    @field_validator(
        "celery_queues", "trusted_hosts", "trusted_proxies", "cors_origins", "api_keys",
        "outgoing_ports", mode="before",
    )  # fmt: skip
    @classmethod
    def _split(cls, value: object) -> object:
        return values.names(value) if isinstance(value, str) else value

    @field_validator("outgoing_allowed_networks", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(map(values.network, values.names(value)))

    @field_validator(
        "log_level", "log_format", "whisper_device", "duplicate_detection", mode="before"
    )
    @classmethod
    def _fold(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        return value.upper() if info.field_name == "log_level" else value.lower()

    @field_validator("state_dir", "upload_dir", "scratch_dir", "model_cache_dir", "alive_file")
    @classmethod
    def _anchored(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        try:
            return PROJECT_DIR / value.expanduser()
        except RuntimeError:
            raise ValueError("Input should begin with the home folder of somebody known") from None

    @field_validator("celery_queues")
    @classmethod
    def _known_queues(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        kept = tuple(name for name in value if name not in DEAD_LETTERS)
        if kept != value:
            # the first version's workers took from it; as here, the name stands in the message
            logger.warning("CELERY_QUEUES: dlq is left out, maintenance takes from it")
        return values.queues(kept, QUEUES)

    @field_validator("audio_retention", "transcript_retention")
    @classmethod
    def _durations(cls, value: str) -> str:
        values.duration(value)
        return value

    @field_validator("trusted_hosts")
    @classmethod
    def _host_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(values.host_name, value))

    @field_validator("root_path")
    @classmethod
    def _root(cls, value: str) -> str:
        return values.root_path(value)

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(values.origin, value))

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(values.proxies, value))

    @field_validator("api_keys")
    @classmethod
    def _long_keys(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value()) < MIN_API_KEY_CHARS for key in value):
            raise ValueError(f"each key should have {MIN_API_KEY_CHARS} characters or more")
        return value

    @field_validator("webhook_signing_key")
    @classmethod
    def _long_signing_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MIN_SIGNING_KEY_CHARS:
            raise ValueError(f"it should have {MIN_SIGNING_KEY_CHARS} characters or more")
        return value

    @field_validator("database_url")
    @classmethod
    def _postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        url = None if value is None else values.database_url(value.get_secret_value())
        return None if url is None else SecretStr(url)

    @field_validator("redis_url", "celery_broker_url")
    @classmethod
    def _redis(cls, value: SecretStr | None) -> SecretStr | None:
        url = None if value is None else values.redis_url(value.get_secret_value())
        return None if url is None else SecretStr(url)

    @field_validator("model_base_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("https://", "http://")):
            raise ValueError("Input should begin with https:// or http://")
        return value

    @field_validator("heartbeat_seconds")
    @classmethod
    def _often_enough(cls, value: float, info: ValidationInfo) -> float:
        lease_seconds = info.data.get("lease_seconds")
        if lease_seconds is not None and value * HEARTBEATS_IN_LEASE > lease_seconds:
            raise ValueError(f"Input should be at most a third of LEASE_SECONDS={lease_seconds:g}")
        return value

    @field_validator("audit_retention_days")
    @classmethod
    def _long_enough(cls, value: float) -> float:
        # the database lets go of no younger one, whoever asks
        if 0 < value < MIN_AUDIT_DAYS:
            raise ValueError(f"Input should be 0, or {MIN_AUDIT_DAYS} or more")
        return value

    @classmethod
    def from_env(cls, *, env_file: Path | None = ENV_FILE) -> Self:
        """Read the settings, or say in one line what is wrong with them.

        Args:
            env_file: The ``.env`` to read beside the environment; None reads none.

        Raises:
            SettingsError: A value is not allowed; names the variable, the value and what is.
        """
        written = _written(env_file)
        warn_of_unknown(written)
        warn_of_retired({*written, *(name for name, value in os.environ.items() if value)})
        folder = os.environ.get("SECRETS_DIR") or written.get("SECRETS_DIR")
        if folder and not Path(folder).is_dir():
            raise SettingsError(f"SECRETS_DIR={folder}: Input should be a folder")
        sources: dict[str, Any] = {"_env_file": env_file, "_secrets_dir": folder or None}
        try:
            return cls(**sources)
        except ValidationError as error:
            raise SettingsError(_one_line(error)) from None
        except SourceError as error:
            raise SettingsError(f"SECRETS_DIR={folder}: {_why(error.__cause__)}") from error

    def with_running_servers(self) -> Self:
        """Fill in the servers and the model that ``make run`` chose, where no others are set.

        Raises:
            SettingsError: What it noted of them cannot be read.
        """
        file = self.state_dir / SERVERS_FILE
        try:
            chosen: dict[str, str] = json.loads(file.read_text("utf-8"))
        except FileNotFoundError:
            return self
        except (OSError, ValueError) as error:
            raise SettingsError(f"{file}: {_why(error)}") from error
        known = {
            name.lower(): SecretStr(value) if name.endswith("_URL") else value
            for name, value in chosen.items()
        }
        return self.model_copy(
            update={
                name: value for name, value in known.items() if name not in self.model_fields_set
            }
        )

    def secrets(self) -> Iterator[str]:
        """Every value that no log may hold, and the passwords in the URLs among them."""
        for value in dict(self).values():
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, SecretStr):
                    text = one.get_secret_value()
                    password = urlsplit(text).password or ""
                    yield from (text, password, unquote(password))

    def require_database_url(self) -> str:
        if self.database_url is None:
            raise SettingsError("DATABASE_URL is not set; `make run` starts a server of its own")
        return self.database_url.get_secret_value()

    def require_broker_url(self) -> str:
        url = self.celery_broker_url or self.redis_url
        if url is None:
            raise SettingsError("REDIS_URL is not set; `make run` starts a server of its own")
        return url.get_secret_value()

    @property
    def uploads_path(self) -> Path:
        return self.upload_dir or self.state_dir / "uploads"

    @property
    def scratch_path(self) -> Path:
        return self.scratch_dir or self.state_dir / "scratch"

    @property
    def models_path(self) -> Path:
        return self.model_cache_dir or self.state_dir / "models"

    @property
    def idempotency_seconds(self) -> float:
        return self.idempotency_hours * 3600

    @property
    def session_seconds(self) -> float:
        return self.session_hours * 3600

    @property
    def audio_retention_seconds(self) -> float:
        return values.duration(self.audio_retention)

    @property
    def transcript_retention_seconds(self) -> float:
        return values.duration(self.transcript_retention)

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_size_mb * 2**20

    @property
    def upload_expiry_seconds(self) -> float:
        return self.upload_expiry_hours * 3600

    @property
    def min_free_bytes(self) -> int:
        return self.min_free_disk_mb * 2**20

    @property
    def max_audio_seconds(self) -> float:
        return self.max_audio_hours * 3600

    @property
    def max_attempts(self) -> int:
        return self.max_retries + 1

    def deadline_seconds(self, audio_seconds: float) -> float:
        """How long one attempt at audio of that length may take."""
        return max(self.celery_task_timeout, self.deadline_factor * audio_seconds)


# The settings are read before the logs are set up by them, when nothing but a line's message is
# shown. So these two put the name into it.


def warn_of_retired(names: Iterable[str]) -> None:
    """Log one warning for each variable of the first version that no longer does anything."""
    for name in sorted({*names} & {*RETIRED, *RENAMED}):
        advice = RETIRED.get(name) or f"it is called {RENAMED[name]} now"
        logger.warning("%s, a setting of version 2, is ignored: %s", name, advice)


def warn_of_unknown(names: Iterable[str]) -> None:
    """Log one warning for each name in ``.env`` that looks like a setting with a slip in it."""
    known = {field.upper() for field in Settings.model_fields}
    for name in sorted({name.upper() for name in names} - known - {*RETIRED, *RENAMED}):
        if meant := difflib.get_close_matches(name, known, n=1, cutoff=0.85):
            logger.warning("%s in .env is no setting: was %s meant?", name, meant[0])


def _written(env_file: Path | None) -> Mapping[str, str]:
    """What ``.env`` says; what it leaves empty does not count."""
    if env_file is None or not env_file.is_file():
        return {}
    try:
        with env_file.open(encoding="utf-8") as file:
            _require_assignments(file, env_file)
        written = dotenv_values(env_file, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{env_file}: {_why(error)}") from error
    return {name: value for name, value in written.items() if value}


def _require_assignments(file: IO[str], env_file: Path) -> None:
    """Stop at a line that python-dotenv would pass over with no more than a word in the log."""
    for binding in parse_stream(file):
        if binding.error:
            text = binding.original.string
            blank = text[: len(text) - len(text.lstrip())].count("\n")
            number = binding.original.line + blank
            # the line itself may be a secret
            raise SettingsError(f"{env_file}, line {number}: Input should be NAME=value")


def _why(error: BaseException | None) -> str:
    return str(error.strerror) if isinstance(error, OSError) else "Input should be UTF-8 text"


#: What is allowed, where pydantic's own words do not say it.
_ALLOWED: Final = {
    "bool_parsing": "Input should be true or false",
    "float_parsing": "Input should be a number",
    "int_from_float": "Input should be a whole number",
    "int_parsing": "Input should be a whole number",
    "int_parsing_size": "Input should be a whole number of fewer digits",
}


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    field = str(first["loc"][0])
    reason = _ALLOWED.get(first["type"]) or str(first["msg"]).removeprefix("Value error, ")
    if "SecretStr" in str(Settings.model_fields[field].annotation):
        return f"{field.upper()}: {reason}"
    shown = " ".join(str(first["input"]).split())
    return f"{field.upper()}={shown[:80]}: {reason}"
