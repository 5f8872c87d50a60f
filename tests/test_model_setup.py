"""What the settings and a job's words mean for models on this machine."""

import pytest

from config import Settings
from errors import UnknownModel
from model_setup import model_key, share_cores


@pytest.mark.parametrize(
    ("engine", "model"), [("whisper-next", "demo"), ("openai-whisper", "grand")]
)
def test_what_only_a_newer_version_knows_is_taken_for_nothing_else(engine: str, model: str) -> None:
    settings = Settings(_env_file=None)  # type: ignore[call-arg]

    with pytest.raises(UnknownModel):
        model_key(settings, engine, model)


@pytest.mark.parametrize(
    ("engine", "threads", "shared"),
    [("faster-whisper", 0, (2, 4)), ("faster-whisper", 3, (3, 4)), ("batch-whisper", 0, (1, 8)),
     ("batch-whisper", 4, (4, 2)), ("batch-whisper", 16, (16, 1))],
)  # fmt: skip
def test_cores_are_shared_among_jobs_or_among_batches(
    monkeypatch: pytest.MonkeyPatch, engine: str, threads: int, shared: tuple[int, int]
) -> None:
    monkeypatch.setattr("machine.cpu_count", lambda: 8)
    settings = Settings(_env_file=None, celery_concurrency=4, whisper_threads=threads)  # type: ignore[call-arg]

    assert share_cores(settings, engine) == shared
