"""The compose files: valid, every image replaceable, and `up` brings a running stream.

By `docker compose`, or where the plug-in is missing by the image HEADRACE_COMPOSE_IMAGE, which docker/build makes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.testing.engine import IMAGES, image_of

pytestmark = [pytest.mark.containers, pytest.mark.timeout(150)]

DIRECTORY = Path(__file__).parents[3] / "docker"
ONE = ("compose.yaml",)
SEVERAL = ("compose.yaml", "compose.streams.yaml")
PROJECT = "headrace-test"
WRITERS = ("orders", "invoices")  # shell loops without a health check
SOCKET = "/var/run/docker.sock"
WAIT_S = 90.0
POLL_S = 0.5


@pytest.fixture(scope="module")
def compose() -> list[str]:
    """The command that is docker compose here."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    image = os.environ.get("HEADRACE_COMPOSE_IMAGE")
    if image is None:
        pytest.skip("docker compose is not installed, and HEADRACE_COMPOSE_IMAGE names no image with it")
    variables = [word for variable, _ in IMAGES.values() for word in ("-e", variable)]
    mounts = ["-v", f"{SOCKET}:{SOCKET}", "-v", f"{DIRECTORY.parent}:{DIRECTORY.parent}:ro", "-w", str(DIRECTORY)]
    return ["docker", "run", "--rm", *mounts, *variables, image]


def run(compose: list[str], files: tuple[str, ...], *arguments: str, images: dict[str, str] | None = None) -> str:
    chosen = images or {variable: image_of(part) for part, (variable, _) in IMAGES.items()}
    options = [word for file in files for word in ("-f", str(DIRECTORY / file))]
    done = subprocess.run(
        [*compose, "-p", PROJECT, *options, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, **chosen},
    )  # fmt: skip
    assert done.returncode == 0, f"{arguments}: {done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.parametrize(
    ("files", "replicas"), [(ONE, {"apply": 3}), (SEVERAL, {"plan": 2, "apply": 4})], ids=["one", "several"]
)
def test_the_files_are_valid_and_scale_the_roles(
    compose: list[str], files: tuple[str, ...], replicas: dict[str, int]
) -> None:
    services = json.loads(run(compose, files, "config", "--format", "json"))["services"]
    assert {"kafka", "source", "target", "capture", "plan", "apply", "monitor"} <= services.keys()
    assert {name: services[name]["deploy"]["replicas"] for name in replicas} == replicas


def test_every_image_can_be_another_one(compose: list[str]) -> None:
    images = {variable: f"registry.example/{part}:1" for part, (variable, _) in IMAGES.items()}
    services = json.loads(run(compose, SEVERAL, "config", "--format", "json", images=images))["services"]
    assert {service["image"] for service in services.values()} == set(images.values())


@pytest.fixture
def project(compose: list[str]) -> Iterator[list[str]]:
    """The topology with several streams, up."""
    try:
        run(compose, SEVERAL, "up", "--detach", "--no-build", "--quiet-pull")
        yield compose
    finally:
        run(compose, SEVERAL, "down", "--volumes", "--timeout", "1")


def test_up_brings_running_streams(project: list[str]) -> None:
    end_s = time.monotonic() + WAIT_S
    states: dict[str, int] = {}
    while not (states.keys() == {"shop", "billing"} and min(states.values()) > 0):
        assert time.monotonic() < end_s, f"{states}\n{run(project, SEVERAL, 'logs', '--tail', '25')}"
        time.sleep(POLL_S)
        states = _transactions(project)
    tables = json.loads(_headrace(project, "verify", "--json"))
    assert {stream["stream"] for stream in tables} == {"shop", "billing"}
    assert not any(table["differences"] for stream in tables for table in stream["tables"])
    while unhealthy := _not_healthy(project):
        assert time.monotonic() < end_s, f"not healthy in {WAIT_S} s: {unhealthy}"
        time.sleep(POLL_S)


def _not_healthy(project: list[str]) -> list[str]:
    """Services and states of the containers whose health check has not succeeded (yet)."""
    lines = run(project, SEVERAL, "ps", "--all", "--format", "{{.Service}} {{.State}} {{.Health}}").splitlines()
    return [line for line in lines if not line.endswith("running healthy") and line.split()[0] not in WRITERS]


def _headrace(project: list[str], *arguments: str) -> str:
    return run(project, SEVERAL, "exec", "-T", "monitor", "headrace", *arguments)


def _transactions(project: list[str]) -> dict[str, int]:
    """Transactions applied so far, by stream; empty while the roles begin."""
    try:
        return {each["stream"]: each["transactions"] for each in json.loads(_headrace(project, "status", "--json"))}
    except (AssertionError, json.JSONDecodeError):
        return {}
