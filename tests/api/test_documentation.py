"""The OpenAPI document is whole, and true."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from api.errors import MEDIA_TYPE
from api.examples import COMPLETED_JOB
from api.schemas import JobDetail
from api.submission import FIELDS
from app import create_app
from config import VERSION, Settings
from tests.api.conftest import NOWHERE

DOCUMENT = create_app(Settings(**NOWHERE)).openapi()
OPERATIONS = [operation for methods in DOCUMENT["paths"].values() for operation in methods.values()]
each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda op: op["operationId"])


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        node = list(node.values())
    for child in node if isinstance(node, list) else ():
        yield from references(child)


def test_the_document_has_our_version():
    assert DOCUMENT["info"]["version"] == VERSION


@pytest.mark.parametrize("reference", sorted(set(references(DOCUMENT))))
def test_every_reference_leads_somewhere(reference):
    node = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]

    assert node


def test_every_operation_has_a_name_of_its_own():
    names = [operation["operationId"] for operation in OPERATIONS]

    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z_]+", name) for name in names)


@each_operation
def test_every_operation_says_what_it_does(operation):
    assert operation["summary"]
    assert operation["tags"]


@each_operation
def test_every_error_is_documented_as_a_problem(operation):
    errors = {k: v for k, v in operation["responses"].items() if int(k) >= 400}

    # OpenAI tells of them in a way of its own
    wanted = "application/json" if "openai" in operation["tags"] else MEDIA_TYPE
    assert all(set(error["content"]) == {wanted} for error in errors.values())


def test_names_of_components_are_allowed():
    names = [name for kind in DOCUMENT["components"].values() for name in kind]

    assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", name) for name in names)


def test_the_form_lists_every_field():
    body = DOCUMENT["paths"]["/transcribe"]["post"]["requestBody"]
    properties = body["content"]["multipart/form-data"]["schema"]["properties"]

    assert set(properties) == {"file", *FIELDS}


def test_the_example_is_a_job():
    shown = JobDetail(**COMPLETED_JOB).model_dump(mode="json")

    assert shown == json.loads(json.dumps(COMPLETED_JOB))
