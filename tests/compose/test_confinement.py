"""How each container is confined, by `docker compose config`: no engine is needed.

The cases are the services of the files, so one that is added has to be confined as well.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # uvicorn brings it, without types

from tests.compose.files import BASE, HTTPS, composed
from tests.recordings import PROJECT_DIR

# with the stack's own tests, since a bad input that was skipped, for want of Compose, is not tried
pytestmark = pytest.mark.compose

#: With a way out to the internet, and why.
LEAVE = {"models": "fetches models", "https": "fetches certificates", "webhooks": "calls"}
#: With ports that are open to others than this machine, and why.
PUBLIC = {"https": "is what the world is meant to reach"}
#: With ports on this machine's loopback beside the door's, and why.
OWN_DOOR = {"grafana": "is there in the profile `monitoring` alone, and asks for its password"}
#: A capability that stays, and why.
CAPABLE = {"https": ["NET_BIND_SERVICE"]}


#: Reads Compose's own tags as what they stand before.
_Loader: Any = type("_Loader", (yaml.SafeLoader,), {})


def _untagged(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> Any:
    return loader.construct_sequence(node)


_Loader.add_multi_constructor("!", _untagged)


def named(file: str) -> list[str]:
    """The services of a file, which must be known where there is no Compose to ask."""
    return list(yaml.load((PROJECT_DIR / file).read_text("utf-8"), _Loader)["services"])  # noqa: S506 - it makes no objects


def cases() -> Iterator[Any]:
    for name in named(BASE):
        yield pytest.param((BASE,), name, id=name)
    for name in named(HTTPS):
        yield pytest.param((BASE, HTTPS), name, id=f"https-{name}")


every_service = pytest.mark.parametrize(("files", "service"), [*cases()])


def asked(files: tuple[str, ...], service: str) -> dict[str, Any]:
    found: dict[str, Any] = composed(*files)["services"][service]
    return found


@pytest.mark.security("confinement", "a service that runs as root")
@every_service
def test_nobody_is_root(files: tuple[str, ...], service: str) -> None:
    assert asked(files, service)["user"].split(":")[0] not in {"", "0", "root"}


@pytest.mark.security("confinement", "a service that could change its own files")
@every_service
def test_the_root_is_read_only(files: tuple[str, ...], service: str) -> None:
    assert asked(files, service)["read_only"] is True


@pytest.mark.security("confinement", "a service that could fill memory by way of /tmp")
@every_service
def test_what_is_temporary_is_bounded(files: tuple[str, ...], service: str) -> None:
    folders = dict(mount.split(":") for mount in asked(files, service)["tmpfs"])

    assert "/tmp" in folders  # noqa: S108 - in the container
    assert all(options.startswith("size=") for options in folders.values())


@pytest.mark.security("confinement", "a service with capabilities")
@every_service
def test_capabilities_are_dropped(files: tuple[str, ...], service: str) -> None:
    found = asked(files, service)

    assert found["cap_drop"] == ["ALL"]
    assert found.get("cap_add", []) == CAPABLE.get(service, [])


@pytest.mark.security("confinement", "a service that could gain privileges")
@every_service
def test_no_privileges_are_gained(files: tuple[str, ...], service: str) -> None:
    found = asked(files, service)

    assert found["security_opt"] == ["no-new-privileges:true"]
    assert not found.get("privileged")


@pytest.mark.security("confinement", "a service that takes all memory")
@every_service
def test_memory_is_limited(files: tuple[str, ...], service: str) -> None:
    assert 0 < int(asked(files, service)["mem_limit"]) <= 16 * 2**30


@pytest.mark.security("confinement", "a service that forks without end")
@every_service
def test_processes_are_limited(files: tuple[str, ...], service: str) -> None:
    assert 0 < asked(files, service)["pids_limit"] <= 2048


@pytest.mark.security("confinement", "a service that shares what is the host's")
@every_service
def test_nothing_of_the_host_is_shared(files: tuple[str, ...], service: str) -> None:
    found = asked(files, service)

    assert not {"devices", "pid", "ipc", "userns_mode", "cgroup"} & found.keys()
    assert found.get("network_mode", "none") == "none"
    assert all(
        volume["read_only"] and volume["source"].startswith(str(PROJECT_DIR / "compose"))
        for volume in found.get("volumes", ())
        if volume["type"] == "bind"
    )


@pytest.mark.security("confinement", "a service that calls out")
@every_service
def test_a_way_out_has_a_reason(files: tuple[str, ...], service: str) -> None:
    networks = composed(*files)["networks"]
    joined = asked(files, service).get("networks", {})
    masquerade = "com.docker.network.bridge.enable_ip_masquerade"
    out = {
        name
        for name in joined
        if not networks[name].get("internal")
        and networks[name].get("driver_opts", {}).get(masquerade) != "false"
    }

    assert bool(out) == (service in LEAVE)


@pytest.mark.security("confinement", "a port that is open to others")
@every_service
def test_an_open_port_has_a_reason(files: tuple[str, ...], service: str) -> None:
    ports = asked(files, service).get("ports", [])

    assert not ports or service in {"door", *PUBLIC, *OWN_DOOR}
    assert service in PUBLIC or all(port["host_ip"] == "127.0.0.1" for port in ports)


@pytest.mark.parametrize("files", [(BASE,), (BASE, HTTPS)], ids=["plain", "https"])
@pytest.mark.parametrize(
    ("network", "members"),
    [
        ("edge", {"door", *OWN_DOOR}),
        ("front", {"door", "web", "flower"}),
        ("out", {"models", "webhooks"}),
        ("watch", {"maintenance", "prometheus", "grafana"}),
    ],
)
def test_a_network_has_these_members_alone(
    network: str, members: set[str], files: tuple[str, ...]
) -> None:
    services = composed(*files)["services"]
    found = {name for name, service in services.items() if network in service.get("networks", {})}

    assert found - {"https"} == members


def test_with_https_nothing_else_is_open_to_others() -> None:
    services = composed(BASE, HTTPS)["services"]
    ports = [port["target"] for port in services["door"]["ports"]]

    assert ports == [5555]
    assert {port["published"] for port in services["https"]["ports"]} == {"80", "443"}


@pytest.mark.security("confinement", "figures that are asked for by way of the door")
def test_nobody_who_is_reached_from_outside_shows_metrics() -> None:
    services = composed(BASE)["services"]
    watched = {
        name for name, service in services.items() if "watch" in service.get("networks", {})
    } - {
        "prometheus",
        *OWN_DOOR,
    }

    assert watched == {"maintenance"}
    assert not {"front", "edge"} & services["maintenance"]["networks"].keys()
    assert "ports" not in services["maintenance"]
    assert "9464" not in (PROJECT_DIR / "compose/door/nginx.conf").read_text("utf-8")


def test_the_service_is_open_to_others_where_that_is_asked_for() -> None:
    ports = composed(BASE, HOST="0.0.0.0")["services"]["door"]["ports"]  # noqa: S104 - as asked

    assert {port["target"]: port["host_ip"] for port in ports} == {
        8000: "0.0.0.0",  # noqa: S104 - as asked
        5555: "127.0.0.1",
    }


def test_the_web_process_believes_the_door_alone() -> None:
    services = composed(BASE, TRUSTED_PROXIES="10.0.0.0/8")["services"]

    assert (
        services["web"]["environment"]["TRUSTED_PROXIES"]
        == (services["door"]["networks"]["front"]["ipv4_address"])
    )
    assert services["door"]["environment"]["TRUSTED_PROXIES"] == "10.0.0.0/8"


@pytest.mark.security("confinement", "an image that runs as root")
def test_the_images_themselves_are_not_roots() -> None:
    stages = (PROJECT_DIR / "Dockerfile").read_text("utf-8").split("\nFROM ")[1:]
    users = {
        stage.split()[2]: [line.split()[1] for line in stage.splitlines() if line[:5] == "USER "]
        for stage in stages
    }

    assert (users["web"], users["worker"]) == (["10001:10001"], ["10001:10001"])
