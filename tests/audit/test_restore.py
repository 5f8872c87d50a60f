"""A backup that is restored holds the same chain, and what guards it."""

import subprocess
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.orm import Session

from audit import chain
from local_servers import PostgresServer

Program = Callable[..., str]


@pytest.fixture
def program(postgres_server: PostgresServer) -> Program:
    """Run one of PostgreSQL's own programs on a database."""

    def run(name: str, url: str, said: str = "") -> str:
        there = make_url(url)
        host, port = there.query["host"], there.port or there.query.get("port") or 5432
        command = (postgres_server._program(name), "-h", host, "-p", port, "-U", there.username)
        done = subprocess.run(
            [*map(str, command), str(there.database)], input=said, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    return run


def test_what_was_dumped_and_restored_verifies(
    add, seal, head, program: Program, engine: Engine, empty_database_url: str
) -> None:
    add(5)
    seal()
    add()
    dump = program("pg_dump", engine.url.render_as_string(hide_password=False))
    program("psql", empty_database_url, dump)
    restored = create_engine(empty_database_url)
    with Session(restored) as session:
        verdict = chain.verify(session, [head()])
    restored.dispose()

    assert (verdict.events, verdict.waiting, verdict.broken) == (5, 1, None)
