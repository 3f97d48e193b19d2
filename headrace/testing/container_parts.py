"""The parts as containers: Kafka, a source, a target, and every role of Headrace in a container of its own."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Self

from testcontainers.core.network import Network

from headrace.testing.config import toml_text
from headrace.testing.containers import Container, KafkaContainer, PostgresContainer, RoleContainer
from headrace.testing.databases import new_database
from headrace.testing.engine import image_of
from headrace.testing.parts import Addresses

ROLES = {"capture": 1, "plan": 1, "apply": 1}  # containers of each role


class ContainerParts:
    """Kafka, a source and a target server on networks of their own.

    `log_network` connects Kafka and the roles, `data_network` the databases and the roles: a role can be cut off
    from one of them alone. The images are those of the arguments, or of the environment, or the public ones.
    """

    def __init__(self, *, source_image: str | None = None, target_image: str | None = None) -> None:
        self.log_network, self.data_network = Network(), Network()
        self.broker = KafkaContainer(self.log_network)
        self.source = PostgresContainer(self.data_network, "source", image=source_image or image_of("postgres17"))
        self.target = PostgresContainer(self.data_network, "target", image=target_image or image_of("postgres18"))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for network in (self.log_network, self.data_network):
                stack.enter_context(network)
            for server in (self.broker, self.source, self.target):
                stack.enter_context(server)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def kafka(self) -> Addresses:
        """The broker."""
        return self.broker.addresses

    def source_database(self) -> AbstractContextManager[Addresses]:
        """A new database on the source server."""
        return database_on(self.source)

    def target_database(self) -> AbstractContextManager[Addresses]:
        """A new database on the target server."""
        return database_on(self.target)

    def run(self, config: Mapping[str, object]) -> ContainerPipeline:
        """Start one container of each role."""
        return ContainerPipeline(config, (self.log_network, self.data_network)).start()

    def wait_until_ready(self) -> None:
        """Wait until all servers answer."""
        for server in (self.broker, self.source, self.target):
            server.wait_until_ready()


@contextmanager
def database_on(server: PostgresContainer) -> Iterator[Addresses]:
    """A new database on `server`; dropped afterwards."""
    with new_database(server.addresses().test) as name:
        yield server.addresses(name)


class ContainerPipeline:
    """Headrace with every role in containers of its own, to be scaled and replaced.

    `commands` replaces what a role's containers run, for example Faust's own worker for `plan`.
    """

    def __init__(self, config: Mapping[str, object], networks: Sequence[Network], *,
                 commands: Mapping[str, Sequence[str]] | None = None) -> None:  # fmt: skip
        self._config = toml_text(config)
        self._networks = networks
        self._commands = dict(commands or {})
        self._numbers = itertools.count(1)
        self._name = uuid.uuid4().hex[:6]
        self._ended: list[str] = []  # logs of those that were removed
        self.roles: dict[str, list[RoleContainer]] = {}

    def start(self, counts: Mapping[str, int] | None = None) -> Self:
        """Start as many containers of each role as `counts` says."""
        for role, count in (counts or ROLES).items():
            self.scale(role, count)
        return self

    def scale(self, role: str, count: int) -> None:
        """Have `count` containers of a role: new ones are started, or the oldest ended with SIGTERM and removed."""
        containers = self.roles.setdefault(role, [])
        while len(containers) < count:
            containers.append(self._new(role))
        while len(containers) > count:
            self._remove(containers.pop(0))

    def replace(self, role: str) -> list[int]:
        """Replace the containers of a role one by one, the new one first; returns the exit codes of the old ones."""
        codes = []
        for old in list(self.roles[role]):
            self.roles[role].append(self._new(role))
            self.roles[role].remove(old)
            codes.append(self._remove(old))
        return codes

    def _new(self, role: str) -> RoleContainer:
        alias = f"{role}-{self._name}-{next(self._numbers)}"
        return RoleContainer(role, alias, self._config, self._networks, command=self._commands.get(role)).start()

    def _remove(self, container: RoleContainer) -> int:
        code = container.end()
        self._ended.append(_log(container))
        container.stop()
        return code

    def containers(self) -> list[RoleContainer]:
        """All containers."""
        return [container for containers in self.roles.values() for container in containers]

    def logs(self) -> str:
        """What all roles have logged, a container after the other."""
        return "\n".join([*self._ended, *(_log(container) for container in self.containers())])

    def stop(self) -> None:
        """Remove all containers, at once."""
        for containers in self.roles.values():
            while containers:
                containers.pop().stop()


def _log(container: Container) -> str:
    return f"---- {container.alias} (exit code {container.exit_code()})\n{container.log_text()}"
