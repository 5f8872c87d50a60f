"""How the containers are confined while they run, asked inside of them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import httpx2
import pytest

from tests.compose.conftest import (
    LASTING,
    PROJECT,
    Compose,
    inspect,
    post,
    wait_for,
    wait_for_end,
)
from tests.recordings import sample

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

every_service = pytest.mark.parametrize("service", LASTING)


def status(compose: Compose, service: str) -> dict[str, str]:
    """What the kernel says of a container's first process."""
    lines = compose("exec", "-T", service, "cat", "/proc/1/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.security("confinement", "a process that runs as root")
@every_service
def test_no_process_is_roots(compose: Compose, service: str) -> None:
    found = status(compose, service)

    assert "0" not in found["Uid"].split() + found["Gid"].split()


@pytest.mark.security("confinement", "a process with capabilities")
@every_service
def test_no_process_has_a_capability(compose: Compose, service: str) -> None:
    found = status(compose, service)

    assert {found[name].strip("0") for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {""}


@pytest.mark.security("confinement", "a process that gains privileges")
@every_service
def test_no_process_gains_privileges(compose: Compose, service: str) -> None:
    assert status(compose, service)["NoNewPrivs"] == "1"


@pytest.mark.security("confinement", "a process that changes its program")
@every_service
def test_not_even_root_could_write_to_the_root(compose: Compose, service: str) -> None:
    script = "touch /x 2>&1; touch /usr/bin/x 2>&1; exit 0"
    said = compose("exec", "-T", "--user", "0", service, "sh", "-c", script)

    assert said.count("Read-only file system") == 2


def limit(compose: Compose, service: str, *files: str) -> str:
    """A limit of the container's control group, as the kernel keeps it, in either version."""
    script = "cd /sys/fs/cgroup && cat " + " ".join(files) + " 2>/dev/null || true"
    found = compose("exec", "-T", service, "sh", "-c", script).split()
    if not found:
        pytest.skip("this Docker engine applies no control groups")
    return found[0]


@pytest.mark.security("confinement", "a process that takes all memory")
@every_service
def test_memory_is_limited_by_the_kernel(compose: Compose, service: str) -> None:
    (container, *_) = compose.containers(service)
    asked = inspect("container", container)["HostConfig"]["Memory"]

    assert asked
    assert limit(compose, service, "memory.max", "memory/memory.limit_in_bytes") == str(asked)


@pytest.mark.security("confinement", "a process that forks without end")
@every_service
def test_processes_are_limited_by_the_kernel(compose: Compose, service: str) -> None:
    (container, *_) = compose.containers(service)
    asked = inspect("container", container)["HostConfig"]["PidsLimit"]

    assert asked
    assert limit(compose, service, "pids.max", "pids/pids.max") == str(asked)


# Networks


def connect(address: str, port: int) -> list[str]:
    """A command for inside of a container, which says ``connected`` if it could."""
    return ["timeout", "3", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port} && echo connected"]


def reaches(compose: Compose, service: str, address: str, port: int) -> bool:
    said = compose("exec", "-T", service, *connect(address, port), check=False)
    return "connected" in said


def addresses(compose: Compose, service: str) -> list[str]:
    (container, *_) = compose.containers(service)
    networks = inspect("container", container)["NetworkSettings"]["Networks"]
    return [network["IPAddress"] for network in networks.values()]


@pytest.fixture(scope="module")
def outside() -> Iterator[tuple[str, int]]:
    """A server beyond this machine's networks, as the internet is, though on this machine."""
    address, port = "198.51.100.2", 8443  # an address that nobody has: RFC 5737
    name = "compose-outside"
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("only root can make a network of its own beside Docker's")
    commands = [
        f"netns add {name}",
        f"link add {name[:8]}0 type veth peer name {name[:8]}1 netns {name}",
        f"addr add 198.51.100.1/24 dev {name[:8]}0",
        f"link set {name[:8]}0 up",
        f"-n {name} addr add {address}/24 dev {name[:8]}1",
        f"-n {name} link set {name[:8]}1 up",
    ]
    serve = [sys.executable, "-m", "http.server", "--bind", address, str(port)]
    try:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True, capture_output=True)
        with subprocess.Popen(
            ["ip", "netns", "exec", name, *serve],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as server:
            try:
                wait_for(
                    lambda: subprocess.run(connect(address, port), capture_output=True).stdout,
                    "there is an outside",
                )
                yield address, port
            finally:
                server.terminate()
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.security("confinement", "a process that calls out")
@pytest.mark.parametrize("service", [name for name in LASTING if name != "webhooks"])
def test_nobody_who_need_not_calls_out(
    compose: Compose, service: str, outside: tuple[str, int]
) -> None:
    assert not reaches(compose, service, *outside)


def test_models_may_call_out(compose: Compose, outside: tuple[str, int]) -> None:
    said = compose("run", "--rm", "--no-deps", "-T", "models", *connect(*outside))

    assert "connected" in said


def test_whoever_calls_webhooks_may_call_out(compose: Compose, outside: tuple[str, int]) -> None:
    assert reaches(compose, "webhooks", *outside)


@pytest.mark.security("confinement", "a worker that comes in by the door")
@pytest.mark.parametrize("service", ["worker", "maintenance", "webhooks"])
def test_a_worker_does_not_reach_the_door(compose: Compose, service: str) -> None:
    found = addresses(compose, "door")

    assert len(found) == 2
    assert not any(reaches(compose, service, address, 8000) for address in found)


@pytest.mark.security("confinement", "a door that leads to the database")
@pytest.mark.parametrize(("server", "port"), [("postgres", 5432), ("redis", 6379)])
def test_the_door_does_not_lead_to(compose: Compose, server: str, port: int) -> None:
    (address,) = addresses(compose, server)

    assert reaches(compose, "web", address, port)
    assert not reaches(compose, "door", address, port)


def test_the_networks_lead_nowhere(compose: Compose) -> None:
    data, front, edge = (
        inspect("network", f"{PROJECT}_{name}") for name in ("data", "front", "edge")
    )

    assert (data["Internal"], front["Internal"]) == (True, True)
    assert edge["Options"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"


def test_only_the_door_is_published_and_on_loopback_alone(compose: Compose) -> None:
    published = {}
    for service in [*LASTING, "models", "migrations", "secrets"]:
        for container in compose.containers(service, "--all"):
            ports = inspect("container", container)["HostConfig"]["PortBindings"] or {}
            bindings = [binding["HostIp"] for found in ports.values() for binding in found]
            if bindings:
                published[service] = bindings

    assert published == {"door": ["127.0.0.1", "127.0.0.1"]}


def test_passwords_are_read_by_those_who_need_them_alone(compose: Compose) -> None:
    mounted = {}
    for service in [*LASTING, "models", "migrations"]:
        (container, *_) = compose.containers(service, "--all")
        volumes = [mount.get("Name", "") for mount in inspect("container", container)["Mounts"]]
        mounted[service] = {
            name.removeprefix(f"{PROJECT}_secrets-") for name in volumes if "_secrets-" in name
        }

    assert mounted == {
        "postgres": {"postgres"},
        "redis": {"redis"},
        "migrations": {"owner"},
        "web": {"app"},
        "maintenance": {"app"},
        "webhooks": {"app"},
        "worker": {"app"},
        "flower": {"flower"},
        "door": set(),
        "models": set(),
    }


# Roles in PostgreSQL


def query(compose: Compose, statement: str) -> list[str]:
    """Ask PostgreSQL as its superuser, whom nobody else can be."""
    psql = ("psql", "-U", "postgres", "-d", "transcription", "-tAc", statement)
    return compose("exec", "-T", "postgres", *psql).split()


def test_what_runs_is_connected_as_the_service(compose: Compose, client: httpx2.Client) -> None:
    wait_for_end(client, post(client, sample("digits-en.wav").path))
    found = query(
        compose,
        "SELECT DISTINCT application_name || '=' || usename FROM pg_stat_activity"
        " WHERE datname = 'transcription' AND application_name <> 'psql'",
    )
    roles = dict(each.split("=") for each in found)

    assert {"transcription-web", "maintenance", "webhooks", "worker"} <= {*roles}
    assert {*roles.values()} == {"transcription_service"}


def test_no_role_of_ours_is_a_superuser_and_the_service_owns_nothing(compose: Compose) -> None:
    superusers = query(compose, "SELECT rolname FROM pg_roles WHERE rolsuper")
    owners = query(
        compose,
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace",
    )

    assert (superusers, owners) == (["postgres"], ["transcription"])


@pytest.mark.security("audit", "deleting events with the password that a container has")
@pytest.mark.parametrize("service", ["web", "worker", "maintenance", "webhooks"])
@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM audit_events", "ALTER TABLE audit_events DISABLE TRIGGER USER"],
)
def test_a_container_that_was_taken_over_deletes_no_event(
    service: str, statement: str, compose: Compose
) -> None:
    said = compose.python(
        service,
        "import psycopg2\n"
        "url = open('/run/secrets/app/database_url').read().strip()\n"
        "cursor = psycopg2.connect(url).cursor()\n"
        f"try: cursor.execute('{statement}')\n"
        "except psycopg2.errors.InsufficientPrivilege: print('refused')\n",
    )

    assert said == "refused"


def test_volumes_of_before_there_were_roles_are_refused_by_a_clear_line(
    compose: Compose,
) -> None:
    before = "mkdir -p /tmp/s/postgres && echo old > /tmp/s/postgres/password"
    said = compose(
        "run", "--rm", "--no-deps", "-T", "secrets", "sh", "-c",
        f"{before} && python compose/make_secrets.py /tmp/s 2>&1; ls /tmp/s",
    )  # fmt: skip

    assert "PostgreSQL's volume is of an earlier version" in said
    assert said.splitlines()[-1] == "postgres"
