import importlib.util
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from stat import S_IMODE

import psutil
import pytest

from errors import LocalServerFailed
from local_servers import PostgresServer, ValkeyServer, programs
from local_servers.server import LocalServer
from tests.local_servers.conftest import MakeServer, as_ordinary_user, as_root_only

#: Ignores the signal that asks nicely, says so, and sleeps.
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def stubborn() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_finding_a_process_takes_its_marker(stubborn: subprocess.Popen[bytes]) -> None:
    name = psutil.Process(stubborn.pid).name()

    assert stubborn.pid in [process.pid for process in programs.running(name, "SIG_IGN")]
    assert programs.running(name, "another marker, made for this test") == []


def test_a_stubborn_process_is_ended_by_force(stubborn: subprocess.Popen[bytes]) -> None:
    process = psutil.Process(stubborn.pid)

    assert programs.end(process, [(signal.SIGTERM, 0.1), (signal.SIGKILL, 10.0)])


def test_a_process_that_stays_is_said_to(stubborn: subprocess.Popen[bytes]) -> None:
    assert not programs.end(psutil.Process(stubborn.pid), [(signal.SIGTERM, 0.1)])


def test_a_zombie_counts_as_gone() -> None:
    with subprocess.Popen(["true"]) as process:
        assert programs.gone([psutil.Process(process.pid)], 10.0)


def test_a_program_that_takes_too_long_is_an_error() -> None:
    with pytest.raises(LocalServerFailed, match="sleep took longer"):
        programs.run(["sleep", "60"], cwd=Path("/"), account=None, timeout_seconds=0.1)


def test_a_program_that_is_not_there_is_an_error() -> None:
    with pytest.raises(LocalServerFailed, match="cannot be run"):
        programs.run(["/no/such"], cwd=Path("/"), account=None, timeout_seconds=1.0)


@as_root_only
def test_an_account_that_cannot_change_is_told_what_to_do() -> None:
    other = programs.Account(uid=2, gid=2)
    said = as_ordinary_user(
        lambda: programs.run(["true"], cwd=Path("/"), account=other, timeout_seconds=10.0).stdout
    )

    assert "start as an ordinary user" in said


def test_a_program_gets_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c fsync=off")
    done = programs.run(["env"], cwd=Path("/"), account=None, timeout_seconds=10.0)

    assert "PGOPTIONS" not in done.stdout


@pytest.mark.parametrize("kind", [PostgresServer, ValkeyServer])
def test_finding_the_programs_does_not_import_the_wheel(kind: type[LocalServer]) -> None:
    look = (
        "import sys, pathlib; from local_servers import programs;"
        "programs.installed(*sys.argv[1:], spare=pathlib.Path('/'), account=None);"
        "print(sys.argv[1] in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", look, kind.package, kind.distribution],
        cwd=Path(__file__).resolve().parent.parent.parent,
        capture_output=True,
        text=True,
    )

    assert done.stdout == "False\n", done.stderr


@pytest.fixture
def closed_wheel(
    kind: type[LocalServer], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The server's wheel as installed by a root whose files are closed to others."""
    spec = importlib.util.find_spec(kind.package)
    assert spec is not None
    assert spec.submodule_search_locations
    origin = Path(spec.submodule_search_locations[0])
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    for source in (origin, origin.with_name(f"{origin.name}.libs")):
        if source.exists():
            shutil.copytree(source, closed / source.name, symlinks=True)
    for path in closed.rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o700)
    loaded = sys.modules.pop(kind.package, None)
    monkeypatch.syspath_prepend(closed)
    yield closed
    if loaded is not None:
        sys.modules[kind.package] = loaded


@as_root_only
def test_a_wheel_in_a_closed_folder_runs_from_a_copy(
    kind: type[LocalServer], make_server: MakeServer, folder: Path, closed_wheel: Path
) -> None:
    server = make_server(kind)
    server.start()
    pid = server.pid
    assert pid is not None

    assert psutil.Process(pid).cmdline()[0].startswith(str(folder / "server" / "programs"))
    assert S_IMODE(closed_wheel.stat().st_mode) == 0o700
