"""The form of a log line, and what is bound to it."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from telemetry import HumanFormatter, bind, configure_logging, extras

PROJECT_DIR = Path(__file__).resolve().parent.parent


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was found afterwards; pytest's own handlers are kept from closing."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    quiet = {name: logging.getLogger(name).level for name in ("celery.app.trace", "httpx2")}
    root.handlers.clear()
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    for name, before in quiet.items():
        logging.getLogger(name).setLevel(before)


def logged(form: str, root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> str:
    configure_logging("INFO", form)
    with bind(job_id="0195", attempt=2):
        logging.getLogger("tasks").info("job completed", extra={"audio_seconds": 1.5})
    return capsys.readouterr().err


def test_a_human_line_is_a_sentence_and_its_fields(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    line = logged("human", root, capsys)

    assert line.partition(" ")[2] == (
        "INFO    tasks: job completed attempt=2 audio_seconds=1.5 job_id=0195\n"
    )


def test_a_json_line_holds_the_same(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = json.loads(logged("json", root, capsys))

    assert fields.pop("time")
    assert fields == {
        "level": "INFO",
        "logger": "tasks",
        "message": "job completed",
        "job_id": "0195",
        "attempt": 2,
        "audio_seconds": 1.5,
    }


def test_a_json_line_stays_one_line_with_a_traceback(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO", "json")
    try:
        int("no number")
    except ValueError:
        logging.getLogger("tasks").exception("attempt failed", extra={"object": object()})
    (line,) = capsys.readouterr().err.splitlines()

    assert "Traceback (most recent call last):\n" in json.loads(line)["exc_info"]


def test_a_line_break_in_a_field_starts_no_new_line() -> None:
    record = logging.makeLogRecord({"msg": "m", "name": "n", "x": "a\nERROR b", "y": ""})

    assert HumanFormatter().format(record).endswith("n: m x='a\\nERROR b' y=''")


def test_what_is_bound_ends_with_its_block_and_nests(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO", "human")
    logger = logging.getLogger("n")
    with bind(a=1, b=1):
        with bind(b=2):
            logger.info("m")
        logger.info("m")
    logger.info("m")
    lines = [line.partition("m")[2] for line in capsys.readouterr().err.splitlines()]

    assert lines == [" a=1 b=2", " a=1 b=1", ""]


def test_what_is_bound_in_one_thread_is_not_in_another(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO", "human")
    with bind(job_id="0195"):
        thread = threading.Thread(target=logging.getLogger("n").info, args=("m",))
        thread.start()
        thread.join()

    assert "job_id" not in capsys.readouterr().err


def test_a_bound_field_does_not_overwrite_what_a_line_says_itself(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO", "human")
    with bind(step="outer", name="outer"):
        logging.getLogger("n").info("m", extra={"step": "inner"})

    assert capsys.readouterr().err.endswith("n: m step=inner\n")


def test_only_what_was_added_to_a_record_counts_as_a_field() -> None:
    assert extras(logging.makeLogRecord({"job_id": "0195", "msg": "m"})) == {"job_id": "0195"}


@pytest.mark.parametrize(("level", "shown"), [("INFO", False), ("DEBUG", True)])
def test_what_libraries_say_of_each_task_shows_on_request(
    level: str, shown: bool, root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(level, "human")
    logging.getLogger("celery.app.trace").info("Task succeeded")

    assert ("Task succeeded" in capsys.readouterr().err) is shown


def test_a_process_writes_its_lines_to_standard_error_and_warnings_too() -> None:
    code = (
        "import warnings, logging, telemetry; telemetry.configure_logging('WARNING', 'human');"
        "warnings.warn('old'); logging.info('unseen'); logging.error('seen')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_DIR, capture_output=True, text=True, check=True
    )

    assert done.stdout == ""
    assert "UserWarning: old" in done.stderr
    assert "seen" in done.stderr
    assert "unseen" not in done.stderr


@pytest.mark.parametrize("form", ["human", "json"])
def test_message_fields_and_traceback_of_any_library_are_masked(
    form: str, root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO", form, secrets=["open sesame"])
    try:
        int("jane@example.org")
    except ValueError:
        logging.getLogger("some.library").exception(
            "login with %s failed", "open sesame", extra={"number": "4111 1111 1111 1111"}
        )
    written = capsys.readouterr().err

    for secret in ("jane@example.org", "open sesame", "4111 1111"):
        assert secret not in written
    for mask in ("[e-mail]", "[secret]", "[card]"):
        assert mask in written
    assert form == "human" or json.loads(written)["number"] == "[card]"
