"""``make run`` as somebody at a terminal sees it."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from config import SERVERS_FILE
from local_servers.server import remove
from tests.recordings import PROJECT_DIR, repeated, sample
from tests.stack.conftest import Process, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.model]


class Terminal:
    """Starts the service on one state folder, any number of times."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.port = free_port()
        self.runs: list[Process] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, *arguments: str, **variables: str) -> Process:
        log = self.folder / f"run-{len(self.runs)}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, "serve.py", *arguments],
                cwd=PROJECT_DIR,
                env={
                    **{n: v for n, v in os.environ.items() if n in {"PATH", "HOME", "LANG"}},
                    **{n: v for n, v in os.environ.items() if n.startswith("COV")},
                    "STATE_DIR": str(self.state),
                    "PORT": str(self.port),
                    "MIN_FREE_DISK_MB": "0",
                    "RATE_LIMIT_REQUESTS": "1000000",  # tests ask again and again
                    "WHISPER_THREADS": "1",
                    **variables,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.runs.append(Process("serve", popen, log))
        return self.runs[-1]

    def client(self) -> httpx2.Client:
        key = (self.state / "admin.key").read_text("utf-8").strip()
        return httpx2.Client(base_url=self.url, headers={"X-API-Key": key}, timeout=60)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command as somebody at another terminal would."""
        return subprocess.run(
            [sys.executable, "cli.py", *arguments],
            cwd=PROJECT_DIR,
            env={"PATH": os.environ["PATH"], "STATE_DIR": str(self.state)},
            capture_output=True,
            text=True,
        )

    def processes(self) -> list[int]:
        """Everything that runs for this state folder, servers included."""
        found = []
        for process in psutil.process_iter():
            try:
                text = " ".join([*process.cmdline(), process.environ().get("STATE_DIR", "")])
            except psutil.Error:
                continue
            if str(self.state) in text:
                found.append(process.pid)
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    for run in terminal.runs:
        if run.popen.poll() is None:
            run.signal(signal.SIGTERM)
            try:
                run.wait()
            except subprocess.TimeoutExpired:
                run.kill()
    for pid in terminal.processes():
        psutil.Process(pid).kill()
    # pytest's folders are closed to the servers' account, so root's data went elsewhere
    for place in terminal.state.glob("*/place"):
        remove(Path(place.read_text("utf-8")))


def test_the_first_start_transcribes_the_sample_and_says_how_to_go_on(terminal: Terminal) -> None:
    run = terminal.run()
    wait_for(lambda: run.said("Ctrl-C stops everything"), "it has greeted")

    told = run.log.read_text()
    assert sample("digits-en.wav").text in told
    assert "WHISPER_MODEL_SIZE=turbo make run" in told
    answer = subprocess.run(
        ["bash", "-c", curl_line(told)], capture_output=True, text=True, check=True
    )
    assert '"status":"pending"' in answer.stdout
    with terminal.client() as client:
        jobs = client.get("/jobs/").json()
    assert jobs["total"] == 2
    assert all("demo_model" in job["warnings"] for job in jobs["jobs"])


def curl_line(told: str) -> str:
    command = re.search(r"curl .*", told)
    assert command is not None
    return command[0].replace("talk.mp3", str(sample("digits-de.wav").path))


SET_KEY = "the operator's own $WORDS"


@pytest.mark.parametrize(
    "variables",
    [
        {"API_KEYS": SET_KEY, "HOST": "::1", "FORCE_HTTPS": "true"},
        {"AUTH_REQUIRED": "false", "TRUSTED_HOSTS": "stt.example"},
    ],
)
def test_the_sample_and_the_curl_line_work_whatever_is_set(
    variables: dict[str, str], terminal: Terminal
) -> None:
    run = terminal.run(**variables)
    wait_for(lambda: run.said("Ctrl-C stops everything"), "it has greeted")

    told = run.log.read_text()
    assert sample("digits-en.wav").text in told
    answer = subprocess.run(
        ["bash", "-c", curl_line(told)], capture_output=True, text=True, check=True
    )
    assert '"status":"pending"' in answer.stdout
    assert SET_KEY not in told


def test_the_command_line_finds_the_servers_while_they_run(terminal: Terminal) -> None:
    run = terminal.run()
    wait_for(lambda: run.said("Ctrl-C stops everything"), "it has greeted")
    note = terminal.state / SERVERS_FILE
    mode = note.stat().st_mode & 0o777
    listed = terminal.cli("jobs", "list")
    run.signal(signal.SIGINT)
    run.wait()
    after = terminal.cli("jobs", "list")

    assert mode == 0o600
    assert "completed" in listed.stdout
    assert not note.exists()
    assert after.returncode == 2
    assert "no `make run` is under way" in after.stderr


def test_after_the_first_key_was_revoked_it_says_how_to_make_another(terminal: Terminal) -> None:
    first = terminal.run()
    wait_for(lambda: first.said("Ctrl-C stops everything"), "it has greeted")
    key = (terminal.state / "admin.key").read_text("utf-8").strip()
    terminal.cli("keys", "revoke", key[:17], "--force")
    first.signal(signal.SIGINT)
    first.wait()
    second = terminal.run()
    wait_for(lambda: second.said("Ctrl-C stops everything"), "it has greeted again")

    told = second.log.read_text()
    assert "401" not in told
    command = re.search(r"env STATE_DIR=.* keys create .*", told)
    assert command is not None
    made = subprocess.run(["bash", "-c", command[0]], capture_output=True, text=True, check=True)
    line = curl_line(told).replace("X-API-Key: KEY", f"X-API-Key: {made.stdout.strip()}")
    answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert '"status":"pending"' in answer.stdout


def test_ctrl_c_ends_every_process_and_a_second_start_goes_on_where_it_was(
    terminal: Terminal,
) -> None:
    first = terminal.run()
    wait_for(lambda: first.said("Ctrl-C stops everything"), "it has greeted")
    recording = repeated("digits-en.wav", 60, terminal.folder / "long.wav")
    with terminal.client() as client, recording.open("rb") as file:
        job_id = client.post("/transcribe/", files={"file": file}).json()["job_id"]
        wait_for(lambda: client.get(f"/jobs/{job_id}").json()["progress"] > 5, "it is under way")

    first.signal(signal.SIGINT)
    assert first.wait() == 0
    left = terminal.processes()
    second = terminal.run()
    wait_for(lambda: second.said("Ready after"), "it is ready again")
    with terminal.client() as client:
        wait_for(
            lambda: client.get(f"/jobs/{job_id}").json()["status"] == "completed",
            "the job is finished",
        )
        job = client.get(f"/jobs/{job_id}").json()

    assert left == []
    assert job["attempt"] == 1
    assert job["transcription"].split() == 60 * sample("digits-en.wav").text.split()
    assert "resuming" in (terminal.state / "logs" / "worker.log").read_text()


def test_a_second_one_on_the_same_folder_is_told_so(terminal: Terminal) -> None:
    first = terminal.run()
    wait_for(lambda: first.said("Starting"), "the first one holds the folder")
    second = terminal.run()

    assert second.wait() != 0
    assert second.said("running already")


def test_a_port_in_use_is_named_with_a_way_out(terminal: Terminal) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", terminal.port))
        taken.listen()
        run = terminal.run()
        status = run.wait()

    assert status != 0
    assert run.said(f"PORT={terminal.port + 1} make run")
    assert terminal.processes() == []


def test_a_port_in_use_on_ipv6_is_named_with_a_way_out(terminal: Terminal) -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", terminal.port))
        taken.listen()
        run = terminal.run(HOST="::1")
        status = run.wait()

    assert status != 0
    assert run.said(f"PORT={terminal.port + 1} make run")


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_of_somebody_else_is_named(host: str, terminal: Terminal) -> None:
    run = terminal.run(HOST=host)

    assert run.wait() != 0
    assert run.said(f"HOST={host} is no address")
    assert not run.said("PORT=")


def test_a_process_that_dies_is_started_again(terminal: Terminal) -> None:
    run = terminal.run()
    wait_for(lambda: run.said("Ctrl-C stops everything"), "it has greeted")
    (web,) = [
        pid for pid in terminal.processes() if "app.py" in " ".join(psutil.Process(pid).cmdline())
    ]

    psutil.Process(web).kill()
    wait_for(lambda: run.said("starting it again"), "it noticed")
    with terminal.client() as client:

        def answers() -> bool:
            try:
                return client.get("/ready").status_code == 200
            except httpx2.HTTPError:
                return False

        wait_for(answers, "it serves again")


def test_a_backup_is_restored_while_nothing_runs(terminal: Terminal, tmp_path: Path) -> None:
    """Into a state folder that is new, with servers that end when it is done."""
    run = terminal.run()
    wait_for(lambda: run.said("Ctrl-C stops everything"), "it has greeted")
    taken = terminal.cli("backup", str(tmp_path / "backup"))
    run.signal(signal.SIGINT)
    run.wait()
    terminal.state = tmp_path / "new state"
    restore = terminal.run("restore", str(tmp_path / "backup"))

    assert taken.returncode == 0, taken.stderr
    assert restore.wait() == 0, restore.log.read_text()
    assert "jobs      1, of which 0 wait" in restore.log.read_text()
    assert terminal.processes() == []
    assert not (terminal.state / SERVERS_FILE).exists()
