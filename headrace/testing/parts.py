"""What a test needs around a stream, whatever it is made of: containers or embedded servers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Addresses:
    """A server as the test reaches it, and as Headrace does: two names where Headrace runs in containers.

    Of Kafka: bootstrap servers; of a database: connection strings.
    """

    test: str
    headrace: str


class Pipeline(Protocol):
    """A running Headrace."""

    def logs(self) -> str:
        """What its roles have logged so far."""
        ...

    def stop(self) -> None:
        """End all roles; what they have applied stays."""
        ...


class Parts(Protocol):
    """Kafka, a source server and a target server, which live as long as the test session."""

    @property
    def kafka(self) -> Addresses:
        """The broker."""
        ...

    def source_database(self) -> AbstractContextManager[Addresses]:
        """A new, empty database on the source server; dropped afterwards, with its replication slots."""
        ...

    def target_database(self) -> AbstractContextManager[Addresses]:
        """A new, empty database on the target server; dropped afterwards."""
        ...

    def run(self, config: Mapping[str, object]) -> Pipeline:
        """Start every role of Headrace with `config`, whose addresses are those for Headrace."""
        ...
