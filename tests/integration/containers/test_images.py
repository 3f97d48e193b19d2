"""The image of Headrace: small, without root, one for every role."""

from __future__ import annotations

import pytest
from testcontainers.core.docker_client import DockerClient

from headrace.testing.engine import image_of

pytestmark = [pytest.mark.containers, pytest.mark.timeout(60)]

BYTES_MAX = 350_000_000


@pytest.fixture(scope="module")
def docker() -> DockerClient:
    return DockerClient()


def test_the_image_is_small_and_without_root(docker: DockerClient) -> None:
    attributes = docker.client.images.get(image_of("headrace")).attrs
    assert attributes["Size"] < BYTES_MAX
    config = attributes["Config"]
    assert config["User"] not in ("", "0", "root")
    assert "HEADRACE_HEARTBEAT" in str(config["Healthcheck"]["Test"])


def test_the_health_check_looks_at_the_heartbeat(docker: DockerClient) -> None:
    image = image_of("headrace")
    check = docker.client.images.get(image).attrs["Config"]["Healthcheck"]["Test"]
    assert check[0] == "CMD-SHELL"
    container = docker.run(image, ["sleep", "300"], detach=True, entrypoint="", network_mode="none")
    try:
        codes = []
        for before in ("true", "touch $HEADRACE_HEARTBEAT", "touch --date=-40seconds $HEADRACE_HEARTBEAT"):
            assert container.exec_run(["sh", "-c", before]).exit_code == 0
            codes.append(container.exec_run(["sh", "-c", check[1]]).exit_code)
        assert codes == [1, 0, 1], "no role yet, one whose loop turns, one whose loop stands still"
    finally:
        container.remove(force=True)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("--help", "Usage: headrace"),
        ("headrace --help", "Usage: headrace"),
        ("capture --help", "capture"),
        ("faust --version", "Faust"),
    ],
)
def test_roles_and_programs_run_in_it(docker: DockerClient, command: str, said: str) -> None:
    output = docker.client.containers.run(image_of("headrace"), command, remove=True, network_mode="none")
    assert said in bytes(output).decode()


def test_the_hot_loops_are_compiled(docker: DockerClient) -> None:
    code = "from connectors.postgres import _arrays, _pump; from schemas import _packed; print(_arrays, _pump, _packed)"
    output = docker.client.containers.run(image_of("headrace"), ["python", "-c", code], remove=True)
    assert bytes(output).decode().count(".so") == 3
