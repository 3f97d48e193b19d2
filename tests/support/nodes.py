"""Cache nodes of a rig: addresses of their own, clients, and the position that a reader asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connectors.postgres.admin import PostgresSourceAdmin
from headrace.cache import CacheClient
from headrace.embedded.ports import LOOPBACK, remembered_port
from pipeline.errors import HeadraceError
from tests.support.rig import WAIT_S, Rig

TOKEN = "a token of the tests"
UNUSED = f"{LOOPBACK}:9"  # discard: nobody listens


class Nodes:
    """Cache nodes `cache-NAME` of a rig, which know each other; start and kill them by that name.

    `apart` gives them addresses of each other at which nobody listens.
    """

    def __init__(self, rig: Rig, names: Sequence[str], *, apart: bool = False, **settings: object) -> None:
        self.rig = rig
        memory = rig.config_path.with_suffix(".ports")
        listen = {name: f"{LOOPBACK}:{remembered_port(memory, f'{name} peers', None)}" for name in names}
        self.http = {name: f"{LOOPBACK}:{remembered_port(memory, f'{name} http', None)}" for name in names}
        for name in names:
            peers = {f"PEERS__{peer}": UNUSED if apart else there for peer, there in listen.items() if peer != name}
            values = {"NODE": name, "LISTEN": listen[name], "HTTP": self.http[name], "TOKEN": TOKEN, **peers}
            values["WAIT_S"] = str(WAIT_S)
            values |= {key.upper(): str(value) for key, value in settings.items()}
            rig.environment[f"cache-{name}"] = {f"HEADRACE_CACHE__{key}": value for key, value in values.items()}

    def client(self, name: str) -> CacheClient:
        """A client of a node."""
        return CacheClient(f"http://{self.http[name]}", TOKEN)

    def status(self, name: str) -> dict[str, Any]:
        """A node's status; empty while it does not answer."""
        try:
            with self.client(name) as client:
                return client.status()
        except HeadraceError:
            return {}

    def wait_until_there(self, *names: str) -> None:
        """Wait until the nodes follow the stream and see each other."""

        def there(name: str) -> bool:
            found = self.status(name)
            following = found.get("streams", {}).get(self.rig.stream, {}).get("current", False)
            return bool(following and set(names) <= set(found.get("nodes", ())))

        self.rig.until(lambda: all(map(there, names)), f"cache nodes {names} follow the stream")

    def mark(self) -> int:
        """A position above everything committed so far."""
        return PostgresSourceAdmin(self.rig.stream, self.rig.config.source_settings()).mark()
