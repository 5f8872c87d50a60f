"""The tree of errors: what it promises to rows, clients and readers."""

import inspect
import pickle
import re
from collections import Counter
from collections.abc import Iterator

import pytest

import errors
from errors import EngineOutOfMemory, ModelUnavailable, ServiceError, UploadTooLarge, kind_of

CLASSES = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, ServiceError)
]
#: Codes that clients and rows of the database know: see DESIGN.md. Not to be changed.
PROMISED = {
    "audio_too_long",
    "bad_sample_rate",
    "cancelled",
    "deadline",
    "disk_full",
    "empty_file",
    "engine_error",
    "job_finished",
    "job_not_finished",
    "lease_lost",
    "model_unavailable",
    "no_audio_stream",
    "not_allowed",
    "not_audio",
    "not_authenticated",
    "not_found",
    "out_of_memory",
    "resource_limit",
    "too_many_streams",
    "unknown_model",
    "upload_altered",
    "upload_missing",
    "upload_too_large",
    "worker_draining",
}


def drawn() -> Iterator[tuple[str, str]]:
    """The tree in the module's docstring, as (class, parent); a line may hold several names."""
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if not (found := re.fullmatch(r"( {4,})([A-Z]\w+(?:, [A-Z]\w+)*),?(?: {2,}\S.*)?", line)):
            continue
        depth, names = len(found[1]), found[2].split(", ")
        above = [entry for entry in above if entry[0] < depth]
        yield from ((name, above[-1][1] if above else "Exception") for name in names)
        above.append((depth, names[-1]))


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    assert dict(drawn()) == {found.__name__: found.__mro__[1].__name__ for found in CLASSES}


def test_no_class_is_drawn_twice() -> None:
    names = [name for name, _ in drawn()]

    assert len(names) == len(set(names))


def test_no_two_classes_share_a_code() -> None:
    codes = Counter(found.code for found in CLASSES)

    assert [code for code, count in codes.items() if count > 1] == []


@pytest.mark.parametrize("found", CLASSES)
def test_a_code_is_lower_snake_case(found: type[ServiceError]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", found.code)


def test_promised_codes_are_all_there() -> None:
    assert {found.code for found in CLASSES} >= PROMISED


@pytest.mark.parametrize("found", CLASSES)
def test_a_docstring_is_one_sentence_that_a_client_may_read(found: type[ServiceError]) -> None:
    message = found().message

    assert message == str(found())
    assert re.fullmatch(r"[A-Z][^\n]*\.", message)


def test_a_message_of_its_own_replaces_the_docstring() -> None:
    assert ModelUnavailable("Put tiny.pt there.").message == "Put tiny.pt there."


def test_data_is_carried_beside_the_message() -> None:
    error = UploadTooLarge(max_bytes=5)

    assert error.data == {"max_bytes": 5}
    assert "5" not in str(error)


def test_an_error_survives_the_way_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(UploadTooLarge("Too large.", max_bytes=5)))  # noqa: S301

    assert (type(error), error.message, error.data) == (
        UploadTooLarge,
        "Too large.",
        {"max_bytes": 5},
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UploadTooLarge(max_bytes=5), UploadTooLarge),
        (MemoryError(), EngineOutOfMemory),
        (RuntimeError("what nobody foresaw"), ServiceError),
        (SystemExit(3), ServiceError),
    ],
)
def test_every_error_counts_as_one_of_ours(error: BaseException, kind: type[ServiceError]) -> None:
    assert kind_of(error) is kind
