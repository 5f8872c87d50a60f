"""A web server of model files, for one test."""

from collections.abc import Iterator

import pytest

from tests.speech.engines.web import Site, serve


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as site:
        yield site
