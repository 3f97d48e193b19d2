"""The container engine: is it there, which images, what a broken test leaves behind."""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import socket

from headrace.embedded.ports import PORT_MAX, PORT_MIN, is_free

DEFAULT_HOST = "unix:///var/run/docker.sock"
UNIX = "unix://"
# Environment variable and public image of each part. Headrace's own is built by docker/build.
IMAGES = {
    "headrace": ("HEADRACE_IMAGE", "headrace:latest"),
    "kafka": ("HEADRACE_KAFKA_IMAGE", "apache/kafka:4.4.0"),
    "postgres17": ("HEADRACE_POSTGRES17_IMAGE", "postgres:17"),
    "postgres18": ("HEADRACE_POSTGRES18_IMAGE", "postgres:18"),
}


def image_of(part: str) -> str:
    """The image of a part: the one that the environment names, or the public one."""
    variable, default = IMAGES[part]
    return os.environ.get(variable) or default


def engine_missing() -> str | None:
    """Why containers cannot be used here; None when they can."""
    if importlib.util.find_spec("testcontainers") is None:
        return "testcontainers is not installed: pip install 'headrace[containers]'"
    host = os.environ.get("DOCKER_HOST", DEFAULT_HOST)
    # The client leaves a socket open when nobody listens, so that is found out first.
    if host.startswith(UNIX) and (error := _refusal(host.removeprefix(UNIX))):
        return f"no container engine answers at {host} ({error}); docker/engine start starts one by hand"
    # By name: beside a folder called docker, as in this repository, checkers take that for the module.
    docker = importlib.import_module("docker")
    try:
        client = docker.from_env()
        try:
            client.ping()
        finally:
            client.close()
    except docker.errors.DockerException as error:
        return f"the container engine at {host} does not answer: {error}"
    return None


def _refusal(path: str) -> OSError | None:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            return error
    return None


def free_port() -> int:
    """A port of this machine that nobody listens on, below those that outgoing connections use.

    Containers publish the same port in all their lives, so that a killed one comes back at its old address.
    """
    dice = random.SystemRandom()
    while True:
        port = dice.randint(PORT_MIN, PORT_MAX)
        if is_free(port):
            return port
