"""What a client may say of its submission."""

import json

import pytest

from api import submission
from api.submission import Defaults, Wishes
from config import Settings
from errors import InvalidRequest, NotAllowed, SettingsError, UnknownModel
from models import Priority

NO_SECONDS = ("-1", "nan", "inf", "1e3", "1:30", "86401", "1.0000001", "\uff11", "9" * 400)
DEFAULTS = Defaults(engine_name="openai-whisper", model_name="base")


def read(
    form: dict[str, str] | None = None,
    query: dict[str, str] | None = None,
    *,
    may_use_high: bool = True,
) -> Wishes:
    return submission.read(query or {}, form or {}, DEFAULTS, may_use_high=may_use_high)


def refusal(**form: str) -> dict[str, str]:
    """The one error that a form is refused for."""
    with pytest.raises((InvalidRequest, UnknownModel)) as caught:
        read(form)
    (error,) = caught.value.data["errors"]
    assert isinstance(error, dict)
    return error


def model(name: str) -> Settings:
    return Settings.model_construct(whisper_model_size=name, whisper_engine="openai-whisper")


def test_saying_nothing_is_enough():
    assert read() == Wishes(engine_name="openai-whisper", model_name="base")


@pytest.mark.parametrize("name", ["tiny", "base", "small", "medium", "large-v3", "demo"])
def test_a_model_is_asked_for_by_name(name):
    assert read({"model_size": name}).model_name == name


@pytest.mark.parametrize(("alias", "name"), [("large", "large-v3"), ("turbo", "large-v3-turbo")])
def test_an_alias_is_the_model_it_means(alias, name):
    assert read({"model_size": alias}).model_name == name


@pytest.mark.parametrize("name", ["../../x", "gpt", "/models/base", "base\n", "x" * 10_000])
def test_a_model_that_is_not_there_is_refused(name):
    if name.strip() == "base":
        assert read({"model_size": name}).model_name == "base"
    else:
        assert refusal(model_size=name)["code"] == "unknown_model"


def test_the_names_of_models_are_told():
    assert "turbo" in refusal(model_size="gpt")["message"]


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("en", "en"),
        ("EN", "en"),
        ("german", "de"),
        ("en-GB", "en"),
        ("pt_BR", "pt"),
        ("haw", "haw"),
    ],
)
def test_a_language_is_asked_for_by_code_or_name(sent, meant):
    assert read({"language": sent}).language == meant


@pytest.mark.parametrize("sent", ["auto", "AUTO", "", "  "])
def test_a_language_can_be_left_to_the_model(sent):
    assert read({"language": sent}).language is None


@pytest.mark.parametrize("sent", ["xx", "klingon", "e", "../en", "en'; DROP TABLE jobs;--"])
def test_a_language_that_is_not_there_is_refused(sent):
    assert refusal(language=sent)["code"] == "unknown_language"


def test_a_language_that_the_model_does_not_know_is_refused():
    assert refusal(language="de", model_size="tiny.en")["pointer"] == "#/language"


@pytest.mark.parametrize("sent", ["true", "1", "yes", "TRUE"])
def test_words_can_be_timed(sent):
    assert read({"word_timestamps": sent}).word_timestamps


def test_a_part_of_a_track_can_be_asked_for():
    wishes = read({"track": "2", "start_seconds": "61.5", "end_seconds": "90"})

    assert (wishes.track, wishes.start_seconds, wishes.end_seconds) == (2, 61.5, 90.0)
    assert wishes.most_seconds == 28.5


@pytest.mark.parametrize(
    ("form", "version"),
    [({}, 1), ({"start_seconds": "0"}, 1), ({"track": "1"}, 2), ({"end_seconds": "3"}, 2)],
)
def test_only_workers_that_know_parts_are_given_some(form, version):
    assert read(form).version == version


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        *(
            ("track", sent)
            for sent in ("0", "33", "-1", "1.0", "eng", "\u0663", "1e1", "100000000")
        ),
        *((name, sent) for name in ("start_seconds", "end_seconds") for sent in NO_SECONDS),
    ],
)
def test_what_is_no_part_is_refused(name, sent):
    error = refusal(**{name: sent})

    assert (error["pointer"], error["code"]) == (f"#/{name}", "number_expected")


@pytest.mark.parametrize("start", ["10", "10.5"])
def test_a_part_ends_after_it_begins(start):
    assert refusal(start_seconds=start, end_seconds="10")["code"] == "out_of_range"


@pytest.mark.parametrize("sent", ["2", "maybe", "truee"])
def test_what_is_neither_yes_nor_no_is_refused(sent):
    assert refusal(word_timestamps=sent)["pointer"] == "#/word_timestamps"


def test_speech_can_be_translated():
    assert read({"task": "translate"}).translate


def test_a_model_that_cannot_translate_says_so():
    assert refusal(task="translate", model_size="turbo")["code"] == "cannot_translate"


@pytest.mark.parametrize("field", ["task", "priority", "engine"])
def test_another_choice_than_there_is_is_refused(field):
    assert refusal(**{field: "other"})["code"] == "unknown_value"


def test_priority_is_normal_by_default():
    assert read().priority is Priority.NORMAL


def test_priority_high_is_for_keys_that_may():
    assert read({"priority": "high"}).priority is Priority.HIGH


def test_priority_high_is_refused_to_keys_that_may_not():
    with pytest.raises(NotAllowed):
        read({"priority": "high"}, may_use_high=False)


def test_a_long_prompt_is_refused():
    assert refusal(initial_prompt="x" * 4001)["code"] == "too_long"


def test_metadata_is_an_object():
    assert read({"metadata": '{"a": [1, null]}'}).client_metadata == {"a": [1, None]}


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ("[]", "dict_type"),
        ("1", "dict_type"),
        ("{", "json_invalid"),
        ("{'a': 1}", "json_invalid"),
        ('{"a": NaN}', "not_storable"),
        ('{"a": 1e999}', "not_storable"),
        ('{"a": "\\u0000"}', "not_storable"),
        ('{"a\\u0000": 1}', "not_storable"),
        ('{"a": [{"b": "\\ud800"}]}', "not_storable"),
        ('{"a": ' + "1" * 5000 + "}", "json_invalid"),
        ("[" * 8000 + "]" * 8000, "json_invalid"),
        ('{"a": ' * 2000 + "1" + "}" * 2000, "json_invalid"),
        (json.dumps({"a": "x" * 20_000}), "too_long"),
        (json.dumps({"a": "é" * 9_000}, ensure_ascii=False), "too_long"),
    ],
)
def test_metadata_that_cannot_be_kept_is_refused(sent, code):
    assert refusal(metadata=sent)["code"] == code


@pytest.mark.parametrize("field", [*submission.FIELDS])
def test_nul_is_refused_everywhere(field):
    assert refusal(**{field: "a\0b"})["code"] == "not_text"


@pytest.mark.parametrize("field", ["owner_id", "status", "id", "temperature", ""])
def test_a_field_that_does_not_exist_is_refused(field):
    with pytest.raises(InvalidRequest) as caught:
        read({field: "1"})
    assert "language" in caught.value.data["fields"]


def test_the_query_says_as_much_as_the_form():
    assert read({}, {"language": "de", "model_size": "small"}) == Wishes(
        engine_name="openai-whisper", model_name="small", language="de"
    )


def test_form_and_query_may_say_the_same():
    assert read({"language": "de"}, {"language": "de"}).language == "de"


def test_form_and_query_may_not_differ():
    with pytest.raises(InvalidRequest) as caught:
        read({"language": "de"}, {"language": "en"})
    assert caught.value.data["errors"][0]["code"] == "contradiction"


def test_a_blank_field_does_not_contradict():
    assert read({"language": ""}, {"language": "de"}).language == "de"


def test_the_demo_model_warns():
    assert read({"model_size": "demo"}).warnings == ("demo_model",)


def test_other_models_do_not_warn():
    assert read().warnings == ()


def test_the_default_model_comes_from_the_settings():
    assert Defaults.of(model("large")).model_name == "large-v3"


def test_a_default_model_that_is_not_there_stops_the_start():
    with pytest.raises(SettingsError, match="WHISPER_MODEL_SIZE=gpt"):
        Defaults.of(model("gpt"))
