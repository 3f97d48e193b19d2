"""Resolve dependencies into checksums, Apache Kafka's by default: a development tool (see `jars`)."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from jgo.maven import MavenContext

from headrace.embedded.jars import Jar

KAFKA_VERSION = "4.4.0"
_JACKSON = "2.21.7"

# What is wanted, and what the resolver would choose differently from Maven itself if it were not named.
PINS = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    f"org.apache.kafka:kafka-clients:{KAFKA_VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5",  # without a binding the broker logs nothing
    "com.fasterxml.jackson.core:jackson-annotations:2.21",
    f"com.fasterxml.jackson.core:jackson-core:{_JACKSON}",
    f"com.fasterxml.jackson.core:jackson-databind:{_JACKSON}",
    f"com.fasterxml.jackson.dataformat:jackson-dataformat-yaml:{_JACKSON}",
    f"com.fasterxml.jackson.datatype:jackson-datatype-jdk8:{_JACKSON}",
    "com.github.luben:zstd-jni:1.5.7-17",
    "org.yaml:snakeyaml:2.5",
)


def resolve(pins: Sequence[str] = PINS, leave_out: Collection[str] = ()) -> list[Jar]:
    """The jars of `pins` and all they need at run time, downloaded afresh to be measured.

    `leave_out` names group:artifact of what is not wanted.
    """
    with tempfile.TemporaryDirectory() as directory:
        context = MavenContext(repo_cache=Path(directory))
        wanted = [context.create_dependency(pin) for pin in pins]
        roots, needed = context.resolver.resolve(wanted)
        found = [each.artifact for each in (*roots, *needed) if each.scope in (None, "compile", "runtime")]
        return [
            _measure(f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}", artifact.resolve())
            for artifact in found
            if f"{artifact.groupId}:{artifact.artifactId}" not in leave_out
        ]


def _measure(coordinate: str, path: Path) -> Jar:
    content = path.read_bytes()
    return Jar(coordinate=coordinate, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
