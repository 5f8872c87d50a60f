"""Commands, typed as in ``tests/test_cli.py``."""

from tests import test_cli

run = test_cli.run
fail = test_cli.fail
sessions = test_cli.sessions
make_job = test_cli.make_job
