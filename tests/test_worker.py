"""What a worker process makes of its settings and of a job's words."""

import pytest

from config import Settings
from errors import UnknownModel
from worker import model_key


@pytest.mark.parametrize(
    ("engine", "model"), [("whisper-next", "demo"), ("openai-whisper", "grand")]
)
def test_what_only_a_newer_version_knows_is_taken_for_nothing_else(engine: str, model: str) -> None:
    settings = Settings(_env_file=None)  # type: ignore[call-arg]

    with pytest.raises(UnknownModel):
        model_key(settings, engine, model)
