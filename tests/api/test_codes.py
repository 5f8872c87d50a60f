"""The codes that clients rely on are all documented: in docs/errors.md and in OpenAPI."""

import ast
import re
from collections.abc import Iterator

import pytest

import errors
from api import codes
from api.errors import HTTP_CODES, status_of
from errors import ServiceError
from retries import Course, policy_of
from tests.api.test_documentation import DOCUMENT
from tests.api.test_errors import subclasses
from tests.recordings import PROJECT_DIR

PAGE = (PROJECT_DIR / "docs/errors.md").read_text("utf-8")
CLASSES = {cls.code: cls for cls in subclasses(ServiceError)}
STATUSES = {code: status for status, code in HTTP_CODES.items() if code not in CLASSES}


def table(heading: str) -> dict[str, list[str]]:
    """The rows of a table by the codes in the first column; what its head begins with names it."""
    rows: dict[str, list[str]] = {}
    after = PAGE.split(f"| {heading} |", 1)[1]
    for line in after.split("\n\n", 1)[0].splitlines()[2:]:
        names, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows |= dict.fromkeys(re.findall(r"`(\w+)`", names), cells)
    return rows


REFUSALS = table("code | status")
FAULTS = table("code | then")
REASONS = table("reason")
INSIDE = table("code in the log")


def test_every_refusal_is_told() -> None:
    assert set(REFUSALS) == codes.PROBLEMS


@pytest.mark.parametrize("code", sorted(codes.PROBLEMS))
def test_a_refusal_is_told_with_its_status(code: str) -> None:
    status = STATUSES[code] if code in STATUSES else status_of(CLASSES[code])

    assert REFUSALS[code][0] == str(status)


def test_every_fault_of_a_job_is_told() -> None:
    assert set(FAULTS) == codes.ATTEMPTS


@pytest.mark.parametrize("code", sorted(codes.ATTEMPTS))
def test_a_fault_is_told_with_what_follows(code: str) -> None:
    policy = policy_of(CLASSES[code])
    longest = "" if policy.longest == 1 else f", at most {policy.longest:g}"
    pause = "" if policy.course is Course.GIVE_UP else f"{policy.pause:g}{longest}"

    assert FAULTS[code][:2] == [str(policy.course), pause]


def test_every_course_is_told() -> None:
    rows = PAGE.split("| then | another attempt |", 1)[1].split("\n\n", 1)[0]
    told = re.findall(r"^\| ([a-z ]+) \|", rows, re.MULTILINE)

    assert told == [str(course) for course in Course]


def test_every_reason_is_told() -> None:
    ending = {code for code, cells in FAULTS.items() if cells[0] == str(Course.GIVE_UP)}

    assert ending | set(REASONS) == codes.REASONS


def test_every_warning_is_told() -> None:
    assert set(table("warning")) == codes.WARNINGS


def test_no_class_of_error_is_left_out() -> None:
    assert codes.PROBLEMS | codes.ATTEMPTS | set(INSIDE) == {*CLASSES, *STATUSES}


def test_what_is_called_inside_is_met_by_nobody() -> None:
    assert not set(INSIDE) & (codes.PROBLEMS | codes.ATTEMPTS | codes.REASONS)


def test_the_reasons_that_statements_write_are_known() -> None:
    source = (PROJECT_DIR / "jobs/statements.py").read_text("utf-8")
    reasons = re.findall(r"failure_reason = CASE [^;]*?THEN '(\w+)' END", source)

    assert reasons
    assert {*reasons} <= codes.REASONS


def of_fields() -> Iterator[str]:
    """The codes in every call of ``invalid`` and ``field_error`` that names one."""
    for path in (PROJECT_DIR / "api").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Name(id="invalid" | "field_error"),
                    args=[_, ast.Constant(value=str(code)), _],
                ):
                    yield code


def test_every_fault_of_a_field_is_told() -> None:
    assert set(table("code of a field")) == {
        *of_fields(),
        errors.AddressRefused.code,
        errors.UnknownModel.code,
    }


@pytest.mark.parametrize(
    ("schema", "field", "listed"),
    [
        ("Problem", "code", codes.PROBLEMS),
        ("JobDetail", "error_code", codes.ATTEMPTS),
        ("JobDetail", "failure_reason", codes.REASONS),
        ("JobDetail", "warnings", codes.WARNINGS),
    ],
)
def test_openapi_lists_them(schema: str, field: str, listed: frozenset[str]) -> None:
    description = DOCUMENT["components"]["schemas"][schema]["properties"][field]["description"]

    assert set(re.findall(r"`(\w+)`", description)) == listed
