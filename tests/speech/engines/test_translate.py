"""Speech in another language comes out in English, whichever engine."""

from pathlib import Path

import pytest

from speech.engines import ModelKey, ModelStore, load
from speech.engines.catalogue import FASTER_WHISPER, OPENAI_WHISPER
from speech.transcript import TranscribeOptions
from tests.recordings import sample
from tests.speech.engines.recordings import recording

pytestmark = pytest.mark.model

ENGLISH = {
    "es": dict(
        zip(
            ["cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"],
            ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
            strict=True,
        )
    ),
    "de": dict(
        zip(
            ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"],
            ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
            strict=True,
        )
    ),
}


@pytest.mark.parametrize("engine", [OPENAI_WHISPER, FASTER_WHISPER])
@pytest.mark.parametrize("language", ENGLISH)
def test_what_was_said_is_translated(engine: str, language: str, tmp_path: Path) -> None:
    key = ModelKey(engine, "demo", "cpu", "float32")
    model = load(key, store=ModelStore(tmp_path, download_allowed=False), threads=1)
    options = TranscribeOptions(language=language, translate=True)
    found = list(model.transcribe(recording(f"digits-{language}.wav"), options))
    model.close()

    text = "".join(segment.text for window in found for segment in window.segments)
    said = sample(f"digits-{language}.wav").text.split()
    assert text.split() == [ENGLISH[language][word] for word in said]
