"""The settings: the only reader of the environment, read once, immutable, passed on as a value.

The environment wins over ``.env`` beside this file, which wins over a folder of secret files
(``SECRETS_DIR``: a file ``database_url`` there gives ``DATABASE_URL``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from errors import SettingsError

logger = logging.getLogger(__name__)

VERSION = "3.0.0"
PROJECT_DIR = Path(__file__).resolve().parent
ENV_FILE = PROJECT_DIR / ".env"
#: Shortest key that API_KEYS may hold; below this a key can be guessed.
MIN_API_KEY_CHARS = 16

Names = Annotated[tuple[str, ...], NoDecode]

#: The first version's variables that mean nothing any more, and why. Setting one warns and starts.
RETIRED = {
    "CELERY_RESULT_BACKEND": "results are rows in PostgreSQL",
    "DASHBOARD_PORT": "use Flower and /admin/health",
    "DEBUG": "use LOG_LEVEL=DEBUG",
    "DIARIZATION_MAX_SPEAKERS": "speakers are not told apart in this version",
    "DIARIZATION_MIN_SPEAKERS": "speakers are not told apart in this version",
    "FILE_STABILITY_WINDOW": "there is no watched folder; POST files to /transcribe/",
    "HF_TOKEN": "no model that needs a token is used",
    "PRIORITIZE_RECENT": "jobs run in the order of their priority and age",
    "SCAN_INTERVAL": "there is no watched folder; POST files to /transcribe/",
    "SKIP_FILES_BEFORE_DATE": "there is no watched folder; POST files to /transcribe/",
    "SPEAKER_PROFILES_PATH": "speakers are not told apart in this version",
    "SPEAKER_RECOGNITION": "speakers are not told apart in this version",
    "SPEAKER_RECOGNITION_THRESHOLD": "speakers are not told apart in this version",
    "TRANSCRIBE_AUDIO_FOLDER": "there is no watched folder; POST files to /transcribe/",
    "TRANSCRIBE_AUTO_RENAME": "transcripts are fetched from /jobs/{id}/result",
    "TRANSCRIBE_OUTPUT_FOLDER": "transcripts are fetched from /jobs/{id}/result",
    "TRANSCRIBE_VIDEO_FOLDER": "there is no watched folder; POST files to /transcribe/",
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
        Path(".local"), description="Folder for uploads, models and the servers of `make run`"
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
        None, description="Compose only: PostgreSQL's password; made at the first start"
    )

    # Web
    host: str = Field("127.0.0.1", description="Address that the web process listens on")
    port: int = Field(8000, ge=1, le=65535, description="Port that the web process listens on")
    auth_required: bool = Field(True, description="Whether every call needs an API key")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="Keys entered at start with every scope, separated by commas"
    )
    trusted_hosts: Names = Field(
        (), description="Host names that requests may be for, separated by commas; any"
    )
    force_https: bool = Field(False, description="Redirect plain HTTP to HTTPS")
    docs_enabled: bool = Field(True, description="Serve the API's documentation at /docs")
    max_upload_size_mb: int = Field(500, ge=1, description="Largest upload, in MB of 2^20 bytes")
    min_free_disk_mb: int = Field(
        1024, ge=0, description="Free space that an upload must leave on the disk, in MB"
    )
    publish_budget_ms: int = Field(
        150, ge=10, description="Longest time that a submission waits for Redis"
    )

    # Audio
    max_audio_hours: float = Field(6.0, gt=0, le=48, description="Longest audio, in hours")
    decode_memory_mb: int = Field(2048, ge=256, description="Memory of one decoding process")
    decode_timeout_seconds: float = Field(
        1800.0, gt=0, description="Longest time that decoding one file may take"
    )

    # Models
    whisper_model_size: str = Field("base", description="Model for jobs that name none")
    whisper_engine: Literal["openai-whisper", "faster-whisper"] = Field(
        "openai-whisper", description="Engine for jobs that name none"
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
        0, ge=0, description="CPU threads of one model; 0 shares the cores among CELERY_CONCURRENCY"
    )
    model_pool_size: int = Field(2, ge=1, description="Loaded instances of one model, at most")
    model_pool_max_size: int = Field(4, ge=1, description="Loaded models in all, at most")
    model_pool_memory_mb: int = Field(
        0, ge=0, description="Memory for loaded models; 0: most of what the machine has"
    )
    model_idle_seconds: float = Field(900.0, ge=0, description="Unused models are unloaded after")
    model_download: bool = Field(True, description="Whether missing models may be downloaded")
    model_base_url: str | None = Field(
        None, description="Mirror to download openai-whisper's models from"
    )
    model_wait_seconds: float = Field(
        0.0, ge=0, description="How long a starting worker waits for its model to be in the cache"
    )

    # Workers
    celery_concurrency: int = Field(2, ge=1, le=256, description="Jobs at once in one worker")
    celery_queues: Names = Field(
        ("high", "normal", "retry"), description="Queues a worker takes jobs from"
    )
    celery_task_timeout: float = Field(
        3600.0, gt=0, description="Shortest deadline of an attempt, in seconds"
    )
    deadline_factor: float = Field(
        20.0, gt=0, description="Deadline of an attempt, as a multiple of the audio's length"
    )
    max_retries: int = Field(3, ge=0, le=100, description="Tries after the first failed one")
    retry_base_seconds: float = Field(10.0, gt=0, description="Pause before the first retry")
    retry_cap_seconds: float = Field(600.0, gt=0, description="Longest pause before a retry")
    max_crashes: int = Field(3, ge=1, description="Worker deaths after which a job is poison")
    drain_seconds: float = Field(
        25.0, ge=0, description="On SIGTERM, how long running jobs may go on before handing back"
    )
    drain_force_seconds: float = Field(
        20.0, ge=0, description="After that, how long until the worker exits whatever hangs"
    )
    stall_seconds: float = Field(
        900.0, gt=0, description="A job without a sign of progress for so long is handed back"
    )
    lease_seconds: float = Field(
        60.0, gt=0, description="Silence after which a worker's jobs are given to others"
    )
    heartbeat_seconds: float = Field(5.0, gt=0, description="Pause between a worker's heartbeats")
    alive_file: Path | None = Field(
        None, description="File touched at every heartbeat, for health checks"
    )

    # Maintenance
    dispatch_seconds: float = Field(0.5, gt=0, description="Pause between the dispatcher's rounds")
    redispatch_seconds: float = Field(
        60.0, gt=0, description="A published job that nobody took is published again after"
    )
    upload_retention_hours: float = Field(
        168.0, ge=0, description="Uploads of ended jobs are deleted after; 0 keeps them"
    )

    # PostgreSQL
    database_pool_size: int = Field(10, ge=1, description="Connections kept open by one process")
    database_max_overflow: int = Field(10, ge=0, description="Further connections under load")
    database_pool_timeout_seconds: float = Field(
        2.0, gt=0, description="How long a request waits for a connection"
    )

    # Logs and Flower
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="Least level that is logged"
    )
    log_format: Literal["human", "json"] = Field("human", description="Form of a log line")
    flower_port: int = Field(5555, ge=1, le=65535, description="Compose only: Flower's port")
    flower_password: SecretStr | None = Field(
        None, description="Compose only: password of Flower's user `admin`; made at first start"
    )

    @field_validator("celery_queues", "trusted_hosts", "api_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(item.strip() for item in value.split(",") if item.strip())

    @field_validator("log_level", "log_format", "whisper_device", mode="before")
    @classmethod
    def _fold(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        return value.upper() if info.field_name == "log_level" else value.lower()

    @field_validator("celery_queues")
    @classmethod
    def _known_queues(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # the first version called them transcription.high and so on
        names = tuple(name.removeprefix("transcription.") for name in value)
        allowed = ("high", "normal", "retry")
        if not names or any(name not in allowed for name in names):
            raise ValueError(f"Input should be one or more of {', '.join(allowed)}")
        return names

    @field_validator("api_keys")
    @classmethod
    def _long_keys(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value()) < MIN_API_KEY_CHARS for key in value):
            raise ValueError(f"each key should have {MIN_API_KEY_CHARS} characters or more")
        return value

    @field_validator("database_url")
    @classmethod
    def _psycopg2(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        scheme, separator, rest = value.get_secret_value().partition("://")
        # SQLAlchemy 2.1 takes plain postgresql:// for psycopg 3, which is not installed.
        if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg2"}:
            raise ValueError("Input should begin with postgresql://")
        return SecretStr(f"postgresql+psycopg2://{rest}")

    @classmethod
    def from_env(
        cls, *, environ: Mapping[str, str] | None = None, env_file: Path | None = ENV_FILE
    ) -> Self:
        """Read the settings, or say in one line what is wrong with them.

        Args:
            environ: Only used to look for retired names; values come from ``os.environ``.
            env_file: The ``.env`` to read beside the environment; None reads none.

        Raises:
            SettingsError: A value is not allowed; names the variable, the value and what is.
        """
        environ = os.environ if environ is None else environ
        warn_retired(environ, env_file)
        sources: dict[str, Any] = {"_env_file": env_file}
        if secrets_dir := environ.get("SECRETS_DIR"):
            sources["_secrets_dir"] = secrets_dir
        try:
            return cls(**sources)
        except ValidationError as error:
            raise SettingsError(_one_line(error)) from None

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
        return (self.upload_dir or self.state_dir / "uploads").expanduser().absolute()

    @property
    def scratch_path(self) -> Path:
        return (self.scratch_dir or self.state_dir / "scratch").expanduser().absolute()

    @property
    def models_path(self) -> Path:
        return (self.model_cache_dir or self.state_dir / "models").expanduser().absolute()

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_size_mb * 2**20

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


def warn_retired(environ: Mapping[str, str], env_file: Path | None) -> None:
    """Log one warning for each variable of the first version that no longer does anything."""
    names = {*(name for name, value in environ.items() if value), *_names_in(env_file)}
    for name in sorted(names & {*RETIRED, *RENAMED}):
        advice = RETIRED.get(name) or f"it is called {RENAMED[name]} now"
        logger.warning("a setting of version 2 is ignored", extra={"setting": name, "why": advice})


def _names_in(env_file: Path | None) -> set[str]:
    if env_file is None or not env_file.is_file():
        return set()
    lines = env_file.read_text("utf-8").splitlines()
    pairs = (line.removeprefix("export ").partition("=") for line in map(str.strip, lines))
    return {name.strip() for name, _, value in pairs if value and not name.startswith("#")}


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    field = str(first["loc"][0])
    secret = "SecretStr" in str(Settings.model_fields[field].annotation)
    shown = field.upper() if secret else f"{field.upper()}={first['input']}"
    reason = str(first["msg"]).removeprefix("Value error, ")
    return f"{shown}: {reason}"
