"""Where settings come from, what they accept, and what is said of the rest."""

import inspect
import json
import logging
import os
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
import redis
from kombu import Connection
from pydantic import SecretStr, ValidationError
from sqlalchemy import make_url
from starlette.testclient import TestClient

import config
from app import create_app
from config import ENV_FILE, PROJECT_DIR, QUEUES, RENAMED, RETIRED, SERVERS_FILE, Settings
from config_values import TLS_OPTIONS
from errors import AddressRefused, SettingsError
from outgoing import Outgoing

EXAMPLE = PROJECT_DIR / ".env.example"
SECRET = "hunter2-hunter2-hunter2"
PASSWORD_URL = f"postgresql://alice:{SECRET}@db/transcription"

#: Every variable of the first version's .env.example, code and papers, and what became of it.
FIRST_VERSION = {
    "API_KEYS": "kept",
    "CELERY_BROKER_URL": "kept",
    "CELERY_CONCURRENCY": "kept",
    "CELERY_LOG_LEVEL": "retired",
    "CELERY_QUEUES": "kept",
    "CELERY_RESULT_BACKEND": "retired",
    "CELERY_TASK_TIMEOUT": "kept",
    "CORS_ORIGINS": "kept",
    "DASHBOARD_PORT": "retired",
    "DATABASE_URL": "kept",
    "DB_PASSWORD": "kept",
    "DEBUG": "retired",
    "DIARIZATION_MAX_SPEAKERS": "retired",
    "DIARIZATION_MIN_SPEAKERS": "retired",
    "FILE_STABILITY_WINDOW": "retired",
    "FORCE_HTTPS": "kept",
    "HF_TOKEN": "retired",
    "LOG_FORMAT": "kept",
    "LOG_LEVEL": "kept",
    "MAX_RETRIES": "kept",
    "MAX_UPLOAD_SIZE_MB": "kept",
    "MODEL_POOL_MAX_SIZE": "kept",
    "MODEL_POOL_SIZE": "kept",
    "PRIORITIZE_RECENT": "retired",
    "RATE_LIMIT_ENABLED": "kept",
    "RATE_LIMIT_REQUESTS": "kept",
    "RATE_LIMIT_WINDOW": "kept",
    "REDIS_URL": "kept",
    "SCAN_INTERVAL": "retired",
    "SKIP_FILES_BEFORE_DATE": "retired",
    "SPEAKER_PROFILES_PATH": "retired",
    "SPEAKER_RECOGNITION": "retired",
    "SPEAKER_RECOGNITION_THRESHOLD": "retired",
    "TRANSCRIBE_AUDIO_FOLDER": "retired",
    "TRANSCRIBE_AUTO_RENAME": "retired",
    "TRANSCRIBE_OUTPUT_FOLDER": "retired",
    "TRANSCRIBE_VIDEO_FOLDER": "retired",
    "TRANSCRIBE_WORK_FOLDER": "renamed",
    "TRUSTED_HOSTS": "kept",
    "WHISPERX_BATCH_SIZE": "retired",
    "WHISPER_COMPUTE_TYPE": "kept",
    "WHISPER_DEVICE": "kept",
    "WHISPER_DIARIZATION": "retired",
    "WHISPER_FP16": "kept",
    "WHISPER_MODEL_SIZE": "kept",
}

Read = Callable[..., Settings]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Read settings from an environment of these variables alone."""
    known = {*(name.upper() for name in Settings.model_fields), *RETIRED, *RENAMED, "SECRETS_DIR"}
    for name in os.environ.keys() & known:
        monkeypatch.delenv(name)

    def settings(env_file: Path | None = None, **variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return Settings.from_env(env_file=env_file)

    return settings


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / ".env"


# .env.example


def groups() -> dict[str, list[str]]:
    """The fields under the comments that head them in config.py."""
    found: list[tuple[str, list[str]]] = []
    for line in inspect.getsource(Settings).splitlines():
        if heading := re.fullmatch(r"    # (.+)", line):
            found.append((heading[1], []))
        elif found and (field := re.match(r"    (\w+): ", line)):
            found[-1][1].append(field[1])
    return dict(found)


def written(value: object) -> str:
    """A default as one writes it into .env; nothing where nothing is set."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def render() -> str:
    """What .env.example should be: python -c 'from tests.test_config import *; print(render())'."""
    lines = [
        "# Every setting with its default. Copy this file to .env, and take the # away before what",
        "# you change. make, web, worker and Compose read the same .env; the environment wins over",
        "# it, and both win over a folder of secret files, one a variable, that SECRETS_DIR names.",
    ]
    for heading, names in groups().items():
        lines += ["", "", f"### {heading}"]
        for name in names:
            field = Settings.model_fields[name]
            lines += ["", f"# {field.description}", f"# {name.upper()}={written(field.default)}"]
    return "\n".join(lines)


def test_the_example_lists_every_setting_as_the_code_has_it() -> None:
    assert EXAMPLE.read_text("utf-8") == render() + "\n"


def test_every_setting_stands_in_a_group_and_is_described() -> None:
    assert sum(groups().values(), []) == list(Settings.model_fields)  # noqa: RUF017 - a few names
    assert all(field.description for field in Settings.model_fields.values())


def test_the_example_with_every_line_in_force_changes_nothing(read: Read, env_file: Path) -> None:
    lines = EXAMPLE.read_text("utf-8").splitlines()
    assignments = [line.removeprefix("# ") for line in lines if re.match(r"# [A-Z0-9_]+=", line)]
    env_file.write_text("\n".join(assignments), "utf-8")

    assert len(assignments) == len(Settings.model_fields)
    assert read(env_file) == read()


# Who comes from the first version


@pytest.mark.parametrize(("name", "fate"), FIRST_VERSION.items())
def test_every_variable_of_the_first_version_is_kept_renamed_or_retired(
    name: str, fate: str
) -> None:
    fates = {
        "kept": name.lower() in Settings.model_fields,
        "renamed": name in RENAMED,
        "retired": name in RETIRED,
    }

    assert [found for found, holds in fates.items() if holds] == [fate]


def test_nothing_else_is_called_a_variable_of_the_first_version() -> None:
    assert {*RETIRED, *RENAMED} <= FIRST_VERSION.keys()


def test_a_renamed_variable_has_its_new_name_among_the_settings() -> None:
    assert {new.lower() for new in RENAMED.values()} <= Settings.model_fields.keys()


@pytest.mark.parametrize("name", sorted({*RETIRED, *RENAMED}))
def test_a_retired_variable_warns_and_starts(
    name: str, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    read(**{name: "something"})

    (warning,) = caplog.messages
    assert name in warning
    assert (RETIRED.get(name) or RENAMED[name]) in warning


def test_a_retired_variable_in_the_file_warns_too(
    read: Read, env_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    env_file.write_text("export SCAN_INTERVAL=30\n#DEBUG=true\nHF_TOKEN=\n", "utf-8")
    read(env_file)

    assert [message.split(",")[0] for message in caplog.messages] == ["SCAN_INTERVAL"]


def test_a_warning_says_the_name_even_before_logs_are_set_up(
    read: Read, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    read(SCAN_INTERVAL="30")

    assert "SCAN_INTERVAL" in capsys.readouterr().err


def test_the_first_versions_example_still_starts_the_service(read: Read, env_file: Path) -> None:
    env_file.write_text(
        "WHISPER_MODEL_SIZE=large\n"
        "WHISPER_FP16=false\n"
        "TRANSCRIBE_VIDEO_FOLDER=~/Movies\n"
        "TRANSCRIBE_WORK_FOLDER=./work\n"
        "SCAN_INTERVAL=30\n"
        "MAX_RETRIES=3\n"
        "SKIP_FILES_BEFORE_DATE=2025-12-01\n"
        "WHISPER_COMPUTE_TYPE=auto\n"
        "WHISPERX_BATCH_SIZE=0\n"
        "WHISPER_DIARIZATION=false\n"
        "HF_TOKEN=\n"
        "MAX_UPLOAD_SIZE_MB=500\n",
        "utf-8",
    )
    settings = read(env_file)

    assert (settings.whisper_model_size, settings.max_retries) == ("large", 3)
    assert settings.whisper_fp16 is False


def test_a_slip_in_a_name_is_pointed_out(
    read: Read, env_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    env_file.write_text("MODEL_POL_SIZE=3\nTORCH_INDEX=https://example.org\n", "utf-8")
    read(env_file)

    assert caplog.messages == ["MODEL_POL_SIZE in .env is no setting: was MODEL_POOL_SIZE meant?"]


# Where values come from


def test_the_environment_wins_over_the_file_and_the_file_over_secrets(
    read: Read, env_file: Path, tmp_path: Path
) -> None:
    for number, name in enumerate(("port", "flower_port", "max_retries"), start=1):
        (tmp_path / name).write_text(f"{number}\n", "utf-8")
    env_file.write_text("PORT=20\nFLOWER_PORT=21\n", "utf-8")

    settings = read(env_file, SECRETS_DIR=str(tmp_path), PORT="300")

    assert (settings.port, settings.flower_port, settings.max_retries) == (300, 21, 3)


def test_the_folder_of_secrets_may_be_named_in_the_file(
    read: Read, env_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "database_url").write_text(f"{PASSWORD_URL}\n", "utf-8")
    env_file.write_text(f"SECRETS_DIR={tmp_path}\n", "utf-8")

    assert SECRET in read(env_file).require_database_url()


def test_an_empty_variable_is_as_good_as_none(read: Read) -> None:
    assert read(PORT="", DATABASE_URL="", CELERY_QUEUES="") == read()


def test_the_file_that_is_read_by_default_lies_beside_the_code() -> None:
    assert Path(config.__file__).with_name(".env") == ENV_FILE


def test_the_servers_of_make_run_are_where_no_others_are_set(read: Read, tmp_path: Path) -> None:
    urls = {"DATABASE_URL": PASSWORD_URL, "REDIS_URL": "redis://its"}
    (tmp_path / SERVERS_FILE).write_text(json.dumps(urls), "utf-8")
    settings = read(STATE_DIR=str(tmp_path), REDIS_URL="redis://mine").with_running_servers()

    assert settings.require_database_url() == PASSWORD_URL
    assert settings.require_broker_url() == "redis://mine"


def test_the_model_of_make_run_is_the_one_where_no_other_is_set(read: Read, tmp_path: Path) -> None:
    chosen = {"WHISPER_MODEL_SIZE": "demo"}
    (tmp_path / SERVERS_FILE).write_text(json.dumps(chosen), "utf-8")
    found = read(STATE_DIR=str(tmp_path)).with_running_servers()
    mine = read(STATE_DIR=str(tmp_path), WHISPER_MODEL_SIZE="tiny").with_running_servers()

    assert (found.whisper_model_size, mine.whisper_model_size) == ("demo", "tiny")


def test_without_make_run_no_servers_are_filled_in(read: Read, tmp_path: Path) -> None:
    settings = read(STATE_DIR=str(tmp_path))

    assert settings.with_running_servers() == settings


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_note_of_servers_that_cannot_be_read_is_named(
    content: bytes, read: Read, tmp_path: Path
) -> None:
    (tmp_path / SERVERS_FILE).write_bytes(content)
    with pytest.raises(SettingsError, match=f"^{tmp_path / SERVERS_FILE}: "):
        read(STATE_DIR=str(tmp_path)).with_running_servers()


def test_settings_cannot_be_changed(read: Read) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read().port = 1


# Values


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_each_spelling_of_postgresql_is_taken_for_psycopg2(scheme: str, read: Read) -> None:
    url = read(DATABASE_URL=f"{scheme}://u:p%40ss@h:5/d?sslmode=require").require_database_url()

    assert url == "postgresql+psycopg2://u:p%40ss@h:5/d?sslmode=require"
    assert make_url(url).password == "p@ss"


def test_the_broker_is_redis_unless_another_is_named(read: Read) -> None:
    assert read(REDIS_URL="redis://a").require_broker_url() == "redis://a"
    assert read(CELERY_BROKER_URL="redis://b/1").require_broker_url() == "redis://b/1"


@pytest.mark.parametrize("query", ["", "?ssl_ca_certs=/ca.pem"])
def test_a_certificate_is_checked_by_both_clients_of_redis(query: str, read: Read) -> None:
    url = read(REDIS_URL=f"rediss://:pw@h:1/2{query}").require_broker_url()

    kombus = Connection(url).ssl
    assert isinstance(kombus, dict)
    assert kombus["ssl_cert_reqs"] == ssl.CERT_REQUIRED
    arguments = redis.Redis.from_url(url).connection_pool.connection_kwargs
    assert redis.SSLConnection(**arguments).cert_reqs == ssl.CERT_REQUIRED


@pytest.mark.parametrize("word", ["none", "optional", "required"])
@pytest.mark.parametrize("spelt", [str, lambda word: f"CERT_{word.upper()}"])
def test_both_clients_of_redis_take_every_spelling_of_whom_to_trust(
    word: str, spelt: Callable[[str], str], read: Read
) -> None:
    url = read(REDIS_URL=f"rediss://h/0?ssl_cert_reqs={spelt(word)}").require_broker_url()

    kombus = Connection(url).ssl
    assert isinstance(kombus, dict)
    arguments = redis.Redis.from_url(url).connection_pool.connection_kwargs
    asked = ssl.VerifyMode[f"CERT_{word.upper()}"]
    assert (kombus["ssl_cert_reqs"], redis.SSLConnection(**arguments).cert_reqs) == (asked, asked)


def test_both_clients_of_redis_take_every_option_of_tls(read: Read) -> None:
    query = dict.fromkeys(TLS_OPTIONS, "/a b")
    query |= {"ssl_cert_reqs": "optional", "ssl_check_hostname": "false"}
    url = read(REDIS_URL=f"rediss://h/0?{urlencode(query)}").require_broker_url()

    kombus = Connection(url).ssl
    assert isinstance(kombus, dict)
    ours = redis.Redis.from_url(url).connection_pool.connection_kwargs
    assert kombus["ssl_ca_certs"] == ours["ssl_ca_certs"] == "/a b"
    for arguments in (kombus, ours):
        connection = redis.SSLConnection(**arguments)
        assert (connection.check_hostname, connection.cert_reqs) == (False, ssl.CERT_OPTIONAL)


def test_who_waives_the_certificate_is_obeyed(read: Read) -> None:
    url = "rediss://h/0?ssl_cert_reqs=none"

    assert read(REDIS_URL=url).require_broker_url() == url


@pytest.mark.parametrize(
    ("given", "queues"),
    [
        ("retry,normal,high", QUEUES),
        ("normal, normal", ("normal",)),
        ("transcription.high,transcription.retry", ("high", "retry")),
    ],
)
def test_queues_are_taken_in_the_order_of_their_urgency(
    given: str, queues: tuple[str, ...], read: Read
) -> None:
    assert read(CELERY_QUEUES=given).celery_queues == queues


def test_the_first_versions_own_queues_are_taken_without_its_dead_letters(
    read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    old = [f"transcription.{name}" for name in (*QUEUES, "dlq")]

    assert read(CELERY_QUEUES=",".join(old)).celery_queues == QUEUES
    assert caplog.messages == ["CELERY_QUEUES: dlq is left out, maintenance takes from it"]


@pytest.mark.parametrize(
    ("given", "hosts"),
    [
        ("example.com, *.Example.com", ("example.com", "*.example.com")),
        ("*", ("*",)),
        ("localhost,192.0.2.1", ("localhost", "192.0.2.1")),
        ("::1,[2001:DB8:0::1]", ("[::1]", "[2001:db8::1]")),
        ("stt_web,xn--bcher-kva.example", ("stt_web", "xn--bcher-kva.example")),
    ],
)
def test_host_names_are_as_they_stand_in_requests(
    given: str, hosts: tuple[str, ...], read: Read
) -> None:
    assert read(TRUSTED_HOSTS=given).trusted_hosts == hosts


def test_networks_and_ports_are_taken_as_the_client_for_calls_takes_them(read: Read) -> None:
    settings = read(OUTGOING_ALLOWED_NETWORKS="10.0.0.0/8, ::1", OUTGOING_PORTS="443, 8443")
    client = Outgoing(
        allow=settings.outgoing_allowed_networks,
        allow_http=settings.outgoing_allow_http,
        ports=settings.outgoing_ports,
    )

    assert client.check("https://10.1.2.3:8443/") == "https://10.1.2.3:8443/"
    assert client.check("https://[::1]/") == "https://[::1]/"
    with pytest.raises(AddressRefused):
        client.check("https://[::2]/")


@pytest.mark.parametrize(
    ("given", "origins"),
    [
        ("https://App.example.com/", ("https://app.example.com",)),
        ("https://a.b:443, http://a.b:80", ("https://a.b", "http://a.b")),
        ("http://localhost:3000,http://[::1]:80", ("http://localhost:3000", "http://[::1]")),
    ],
)
def test_origins_are_as_browsers_write_them(
    given: str, origins: tuple[str, ...], read: Read
) -> None:
    assert read(CORS_ORIGINS=given).cors_origins == origins


@pytest.mark.parametrize(
    "value",
    ["*", "null", "app.example.com", "https://*.example.com", "https://a.b/path", "ftp://a.b",
     "https://user@a.b", "https://"],
)  # fmt: skip
def test_what_is_no_origin_is_refused(value: str, read: Read) -> None:
    with pytest.raises(SettingsError, match="Input should be origins such as https://"):
        read(CORS_ORIGINS=value)


@pytest.mark.parametrize("value", ["*", "0.0.0.0/0", "::/0", "proxy.example.com", "10.0.0.1/8"])
def test_not_everybody_can_be_a_proxy(value: str, read: Read) -> None:
    with pytest.raises(SettingsError, match="Input should be networks such as"):
        read(TRUSTED_PROXIES=value)


def test_no_proxy_may_be_trusted_at_all(read: Read) -> None:
    assert read(TRUSTED_PROXIES=",").trusted_proxies == ()


def test_a_relative_path_is_meant_from_the_project_wherever_one_stands(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read(UPLOAD_DIR="up", SCRATCH_DIR="/scratch", MODEL_CACHE_DIR="~/models")

    assert settings.state_dir == PROJECT_DIR / ".local"
    assert settings.uploads_path == PROJECT_DIR / "up"
    assert settings.scratch_path == Path("/scratch")
    assert settings.models_path == Path.home() / "models"


def test_folders_lie_in_the_state_folder_unless_they_are_named(read: Read) -> None:
    settings = read(STATE_DIR="/state")
    paths = (settings.uploads_path, settings.scratch_path, settings.models_path)

    assert paths == (Path("/state/uploads"), Path("/state/scratch"), Path("/state/models"))


@pytest.mark.parametrize(("audio_seconds", "seconds"), [(10.0, 600.0), (3600.0, 7200.0)])
def test_a_deadline_grows_with_the_audio_from_the_shortest(
    audio_seconds: float, seconds: float, read: Read
) -> None:
    settings = read(CELERY_TASK_TIMEOUT="600", DEADLINE_FACTOR="2")

    assert settings.deadline_seconds(audio_seconds) == seconds


def test_retries_come_after_the_first_attempt(read: Read) -> None:
    assert read(MAX_RETRIES="0").max_attempts == 1


def test_case_does_not_matter_where_it_means_nothing(read: Read) -> None:
    settings = read(LOG_LEVEL="debug", LOG_FORMAT="JSON", WHISPER_DEVICE="CPU")

    assert settings.log_level == "DEBUG"
    assert (settings.log_format, settings.whisper_device) == ("json", "cpu")


# What stops the start

HOSTS = (
    "Input should be names such as example.com, *.example.com or 192.0.2.1,"
    " without scheme, port and path"
)
NETWORKS = (
    "Input should be networks such as 10.0.0.0/8 or fd00::/8, without bits beyond the prefix,"
    " or single addresses"
)
HUGE = "9" * 5000
REFUSED = [
    ("PORT", "http", "PORT=http: Input should be a whole number"),
    ("PORT", "0", "PORT=0: Input should be greater than or equal to 1"),
    ("PORT", "65536", "PORT=65536: Input should be less than or equal to 65535"),
    ("PORT", "8 \n9", "PORT=8 9: Input should be a whole number"),
    ("CELERY_CONCURRENCY", "1.5", "CELERY_CONCURRENCY=1.5: Input should be a whole number"),
    (
        "MAX_UPLOAD_SIZE_MB",
        HUGE,
        f"MAX_UPLOAD_SIZE_MB={HUGE[:80]}: Input should be a whole number of fewer digits",
    ),
    ("MAX_RETRIES", "-1", "MAX_RETRIES=-1: Input should be greater than or equal to 0"),
    ("MAX_AUDIO_HOURS", "six", "MAX_AUDIO_HOURS=six: Input should be a number"),
    ("MAX_AUDIO_HOURS", "nan", "MAX_AUDIO_HOURS=nan: Input should be less than or equal to 48"),
    (
        "CELERY_TASK_TIMEOUT",
        "inf",
        "CELERY_TASK_TIMEOUT=inf: Input should be less than or equal to 2592000",
    ),
    ("FORCE_HTTPS", "perhaps", "FORCE_HTTPS=perhaps: Input should be true or false"),
    ("WHISPER_FP16", "half", "WHISPER_FP16=half: Input should be true or false"),
    (
        "WHISPER_DEVICE",
        "tpu",
        "WHISPER_DEVICE=tpu: Input should be 'auto', 'cpu', 'cuda' or 'mps'",
    ),
    (
        "WHISPER_ENGINE",
        "whisperx",
        (
            "WHISPER_ENGINE=whisperx: Input should be 'openai-whisper', 'faster-whisper' or"
            " 'batch-whisper'"
        ),
    ),
    ("LOG_FORMAT", "xml", "LOG_FORMAT=xml: Input should be 'human' or 'json'"),
    (
        "CELERY_QUEUES",
        "high,low",
        "CELERY_QUEUES=high,low: Input should be one or more of high, normal, retry",
    ),
    (
        "CELERY_QUEUES",
        "dlq",
        "CELERY_QUEUES=dlq: Input should be one or more of high, normal, retry",
    ),
    ("CELERY_QUEUES", ",", "CELERY_QUEUES=,: Input should be one or more of high, normal, retry"),
    (
        "OUTGOING_ALLOWED_NETWORKS",
        "10.0.0.0/8,intranet",
        "OUTGOING_ALLOWED_NETWORKS=10.0.0.0/8,intranet: " + NETWORKS,
    ),
    (
        "OUTGOING_ALLOWED_NETWORKS",
        "10.0.0.1/8",
        "OUTGOING_ALLOWED_NETWORKS=10.0.0.1/8: " + NETWORKS,
    ),
    (
        "OUTGOING_PORTS",
        "443,https",
        "OUTGOING_PORTS=https: Input should be a whole number",
    ),
    ("OUTGOING_PORTS", "0", "OUTGOING_PORTS=0: Input should be greater than or equal to 1"),
    (
        "HEARTBEAT_SECONDS",
        "21",
        "HEARTBEAT_SECONDS=21: Input should be at most a third of LEASE_SECONDS=60",
    ),
    (
        "LEASE_SECONDS",
        "10",
        "HEARTBEAT_SECONDS=5.0: Input should be at most a third of LEASE_SECONDS=10",
    ),
    (
        "STATE_DIR",
        "~nobody-here/x",
        "STATE_DIR=~nobody-here/x: Input should begin with the home folder of somebody known",
    ),
    (
        "MODEL_BASE_URL",
        "ftp://mirror",
        "MODEL_BASE_URL=ftp://mirror: Input should begin with https:// or http://",
    ),
    ("API_KEYS", "short", "API_KEYS: each key should have 16 characters or more"),
]


@pytest.mark.parametrize(("name", "value", "line"), REFUSED)
def test_one_line_names_variable_value_and_what_is_allowed(
    name: str, value: str, line: str, read: Read
) -> None:
    with pytest.raises(SettingsError) as caught:
        read(**{name: value})

    assert caught.value.message == line


def test_a_bad_value_in_the_file_is_refused_alike(read: Read, env_file: Path) -> None:
    env_file.write_text("PORT=http\n", "utf-8")
    with pytest.raises(SettingsError, match=r"^PORT=http: Input should be a whole number$"):
        read(env_file)


def test_a_bad_value_in_a_secret_file_is_refused_alike(read: Read, tmp_path: Path) -> None:
    (tmp_path / "port").write_text("http", "utf-8")
    with pytest.raises(SettingsError, match=r"^PORT=http: Input should be a whole number$"):
        read(SECRETS_DIR=str(tmp_path))


@pytest.mark.parametrize(
    "host",
    [
        "ex*ample.com",
        "*example.com",
        "*.*.example.com",
        "https://example.com",
        "example.com:8000",
        "example.com/",
        "example..com",
        "-example.com",
        "bücher.example",
        "[::1]:8000",
        f"{'a.' * 130}com",
    ],
)
def test_what_is_no_host_name_is_refused(host: str, read: Read) -> None:
    with pytest.raises(SettingsError) as caught:
        read(TRUSTED_HOSTS=f"example.com,{host}")

    assert caught.value.message.endswith(f": {HOSTS}")


@pytest.mark.parametrize("host", ["example.com", "*.example.com", "192.0.2.1", "[::1]", "*"])
def test_every_host_name_that_is_taken_lets_a_request_for_it_in(host: str, read: Read) -> None:
    app = create_app(read(TRUSTED_HOSTS=host, DATABASE_URL=PASSWORD_URL, REDIS_URL="redis://h"))
    asked = host.replace("*", "www")
    client = TestClient(app, base_url=f"http://{asked}:8000")

    assert client.get("/openapi.json").status_code == 200


NUMBERS = [
    name
    for name, field in Settings.model_fields.items()
    if type(field.default) in {int, float}  # a bool is no number here
]


@pytest.mark.parametrize("value", ["nan", "inf", "-1", HUGE, "many"])
@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_is_without_bounds(name: str, value: str, read: Read) -> None:
    with pytest.raises(
        SettingsError, match=f"^[A-Z_]+={value[:40]}[^\n]*: Input should be [^\n]+$"
    ):
        read(**{name.upper(): value})


#: The least that each takes, and what is just below.
LEAST = {
    "webhook_retry_seconds": (0.001, 0),
    "source_hours": (0.001, 0),
    "source_retry_seconds": (0.001, 0),
    "port": (1, 0),
    "metrics_port": (0, -1),
    "session_hours": (0.001, 0),
    "web_concurrency": (1, 0),
    "max_upload_size_mb": (1, 0),
    "min_free_disk_mb": (0, -1),
    "header_timeout_seconds": (0.001, 0),
    "body_timeout_seconds": (0.001, 0),
    "openai_wait_seconds": (0, -1),
    "asr_wait_seconds": (0, -1),
    "keep_alive_seconds": (0.001, 0),
    "max_connections": (1, 0),
    "max_connections_per_address": (1, 0),
    "idempotency_hours": (0.001, 0),
    "publish_budget_ms": (10, 9),
    "rate_limit_requests": (1, 0),
    "rate_limit_window": (1, 0),
    "key_audio_seconds_per_hour": (0, -1),
    "key_jobs_at_once": (0, -1),
    "key_stored_mb": (0, -1),
    "key_requests_at_once": (0, -1),
    "max_unfinished_uploads": (1, 0),
    "upload_expiry_hours": (0.001, 0),
    "key_waits_at_once": (0, -1),
    "max_queued_audio_hours": (0, -1),
    "max_auth_failures": (0, -1),
    "max_audio_hours": (0.001, 0),
    "decode_memory_mb": (256, 255),
    "decode_timeout_seconds": (0.001, 0),
    "whisper_threads": (0, -1),
    "model_pool_size": (1, 0),
    "model_pool_max_size": (1, 0),
    "model_pool_memory_mb": (0, -1),
    "model_idle_seconds": (0, -0.001),
    "model_wait_seconds": (0, -0.001),
    "celery_concurrency": (1, 0),
    "celery_task_timeout": (0.001, 0),
    "deadline_factor": (0.001, 0),
    "max_retries": (0, -1),
    "retry_base_seconds": (0.001, 0),
    "retry_cap_seconds": (0.001, 0),
    "max_solo_crashes": (1, 0),
    "max_crashes": (1, 0),
    "drain_seconds": (0, -0.001),
    "drain_force_seconds": (0, -0.001),
    "stall_seconds": (0.001, 0),
    "max_preemptions": (0, -1),
    "lease_seconds": (1, 0.999),
    "heartbeat_seconds": (0.001, 0),
    "dispatch_seconds": (0.001, 0),
    "redispatch_seconds": (0.001, 0),
    "audit_retention_days": (0, -0.001),
    "database_pool_size": (1, 0),
    "database_max_overflow": (0, -1),
    "database_pool_timeout_seconds": (0.001, 0),
    "flower_port": (1, 0),
    "grafana_port": (1, 0),
}


def test_the_least_of_every_number_is_known() -> None:
    assert LEAST.keys() == {*NUMBERS}


@pytest.mark.parametrize("name", LEAST)
def test_a_number_is_taken_from_its_least_on_and_not_below(name: str, read: Read) -> None:
    least, below = LEAST[name]
    beside = {"HEARTBEAT_SECONDS": "0.1"} if name == "lease_seconds" else {}

    assert getattr(read(**{name.upper(): str(least)}, **beside), name) == least
    with pytest.raises(SettingsError, match=f"^{name.upper()}={below}: Input should be greater"):
        read(**{name.upper(): str(below)}, **beside)


BAD_URLS = [
    ("DATABASE_URL", f"mysql://alice:{SECRET}@db/transcription"),
    ("DATABASE_URL", f"postgresql+psycopg://alice:{SECRET}@db/transcription"),
    ("DATABASE_URL", f"postgresql://alice:{SECRET}@db:port/transcription"),
    ("DATABASE_URL", SECRET),
    ("DATABASE_URL", f"postgresql://alice:{SECRET}@db/transcription?sslmod=require"),
    ("DATABASE_URL", f"postgresql://alice:{SECRET}@/transcription?host=a:1&host=b:x"),
    ("REDIS_URL", f"http://:{SECRET}@redis"),
    ("REDIS_URL", f"unix:///{SECRET}.sock"),
    ("REDIS_URL", f"redis+socket:///{SECRET}.sock"),
    ("REDIS_URL", f"sentinel://:{SECRET}@redis"),
    ("REDIS_URL", f"redis://:{SECRET}@redis:port/0"),
    ("REDIS_URL", f"redis://:{SECRET}@redis:0/0"),
    ("REDIS_URL", f"redis://:{SECRET}@redis/transcription"),
    ("REDIS_URL", f"redis://:{SECRET}@[redis/0"),
    ("REDIS_URL", f"redis://:{SECRET}@redis?db=3"),
    ("REDIS_URL", f"redis://:{SECRET}@redis?ssl_cert_reqs=none"),
    ("REDIS_URL", f"rediss://:{SECRET}@redis?ssl_cert_reqs=bogus"),
    ("REDIS_URL", f"rediss://:{SECRET}@redis?ssl_check_hostname=no"),
    ("REDIS_URL", f"rediss://:{SECRET}@redis?ssl_versions=all"),
    ("REDIS_URL", f"redis://:x#{SECRET}@redis"),
    ("CELERY_BROKER_URL", f"amqp://:{SECRET}@rabbit"),
    ("API_KEYS", SECRET[:15]),
]


@pytest.mark.parametrize(("name", "value"), BAD_URLS)
def test_a_bad_secret_is_refused_without_being_shown(name: str, value: str, read: Read) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: [^\n]+$") as caught:
        read(**{name: value})

    assert value[:15] not in caught.value.message
    assert SECRET not in caught.value.message
    assert caught.value.__suppress_context__


def test_a_slip_in_an_option_of_postgresql_is_named(read: Read) -> None:
    with pytest.raises(SettingsError) as caught:
        read(DATABASE_URL=f"{PASSWORD_URL}?sslmode=require&sslrootcer=/ca.pem")

    assert caught.value.message == (
        "DATABASE_URL: Input should have options of libpq, such as sslmode=require,"
        " and not sslrootcer"
    )


def test_no_way_of_showing_settings_shows_a_secret(read: Read) -> None:
    settings = read(
        DATABASE_URL=PASSWORD_URL,
        REDIS_URL=f"redis://:{SECRET}@redis",
        CELERY_BROKER_URL=f"redis://:{SECRET}@redis/1",
        API_KEYS=f"{SECRET},{SECRET}",
        DB_PASSWORD=SECRET,
        FLOWER_PASSWORD=SECRET,
    )

    assert SECRET not in f"{settings} {settings!r} {settings.model_dump_json()}"
    assert [key.get_secret_value() for key in settings.api_keys] == [SECRET, SECRET]


def test_what_is_called_a_password_key_or_url_with_one_is_a_secret() -> None:
    secret = {
        name for name, field in Settings.model_fields.items() if SecretStr.__name__ in str(field)
    }

    assert secret == {
        "database_url",
        "redis_url",
        "celery_broker_url",
        "api_keys",
        "db_password",
        "flower_password",
        "grafana_password",
        "webhook_signing_key",
    }


def test_a_file_that_is_not_text_stops_the_start(read: Read, env_file: Path) -> None:
    env_file.write_bytes(b"PORT=\xff")
    with pytest.raises(SettingsError, match=r"\.env: Input should be UTF-8 text$"):
        read(env_file)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("PORT 9001\n", 1),
        (f"PORT=9001\n\n# a comment\n\n\nAPI_KEYS {SECRET}\nHOST=::\n", 6),
        (f'PORT=9001\r\n\r\nAPI_KEYS="{SECRET}\r\n', 3),
    ],
)
def test_a_line_that_sets_nothing_stops_the_start(
    text: str, line: int, read: Read, env_file: Path
) -> None:
    env_file.write_bytes(text.encode())
    with pytest.raises(SettingsError) as caught:
        read(env_file)

    assert caught.value.message == f"{env_file}, line {line}: Input should be NAME=value"


def test_a_secret_file_that_is_not_text_stops_the_start(read: Read, tmp_path: Path) -> None:
    (tmp_path / "port").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=f"^SECRETS_DIR={tmp_path}: Input should be UTF-8 text"):
        read(SECRETS_DIR=str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_secret_file_that_may_not_be_read_stops_the_start(read: Read, tmp_path: Path) -> None:
    (tmp_path / "port").touch(mode=0o000)
    with pytest.raises(SettingsError, match=r"Permission denied$"):
        read(SECRETS_DIR=str(tmp_path))


@pytest.mark.parametrize("folder", ["/nowhere/at/all", __file__])
def test_a_folder_of_secrets_that_is_none_stops_the_start(folder: str, read: Read) -> None:
    with pytest.raises(SettingsError, match=f"^SECRETS_DIR={folder}: Input should be a folder$"):
        read(SECRETS_DIR=folder)


def test_what_a_process_cannot_do_without_is_named(read: Read) -> None:
    with pytest.raises(SettingsError, match=r"^DATABASE_URL is not set"):
        read().require_database_url()
    with pytest.raises(SettingsError, match=r"^REDIS_URL is not set"):
        read().require_broker_url()


def test_every_secret_is_known_to_the_logs() -> None:
    settings = Settings.model_validate(
        {
            "database_url": "postgresql://me:p%40ssword@db/x",
            "redis_url": "redis://:r3dis-pass@redis/0",
            "api_keys": "an operators own key",
            "flower_password": "flower-pass",
        }
    )

    assert {"p%40ssword", "p@ssword", "r3dis-pass", "an operators own key", "flower-pass"} <= set(
        settings.secrets()
    )
