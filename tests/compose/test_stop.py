"""Everything ends when it is told to: the last of the stack's tests."""

import pytest

from tests.compose.conftest import LASTING, Compose, inspect

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

#: 128 + SIGTERM: who ends by the signal itself.
BY_SIGNAL = 143


@pytest.fixture(scope="module")
def exit_codes(compose: Compose) -> dict[str, set[int]]:
    compose("stop")
    return {
        service: {
            inspect("container", container)["State"]["ExitCode"]
            for container in compose.containers(service, "--all")
        }
        for service in LASTING
    }


@pytest.mark.parametrize("service", LASTING)
def test_a_container_ends_when_it_is_told_to_and_is_not_killed(
    service: str, exit_codes: dict[str, set[int]]
) -> None:
    assert exit_codes[service] <= {0, BY_SIGNAL}
