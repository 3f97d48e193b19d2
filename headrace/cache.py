"""A client of a cache node: `CacheClient("http://127.0.0.1:8642").row("shop", "account", 7)`."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

from pipeline.cache.conflict import Conflict
from pipeline.errors import ConfigError, RetriableError

TIMEOUT_S = 65.0  # more than the longest wait of a node


@dataclass(frozen=True, slots=True)
class CachedRow:
    """A row as of `position` or later; `values` is None when there is no such row. `origin`: cache, peer, target.

    `tag` stands for the values, and for there being none.
    """

    table: str
    key: tuple[object, ...]
    position: int
    values: dict[str, object] | None
    origin: str
    tag: str


@dataclass(frozen=True, slots=True)
class RowConflict:
    """A row that is not what was `seen`, and as it is `now`."""

    kind: Conflict
    seen: CachedRow
    now: CachedRow


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check has found: each row that is no conflict was what had been seen at `position` or later."""

    position: int
    conflicts: list[RowConflict]


class CacheClient:
    """One connection to a node; not for several threads at once."""

    def __init__(self, url: str, token: str = "", tls_ca: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ConfigError(f"{url!r} is no address of a cache node; write http://host:port")
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=tls_ca)
            self._conn: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=TIMEOUT_S, context=context
            )
        else:
            self._conn = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def row(
        self, stream: str, table: str, *key: object, min_position: int = 0, wait_s: float | None = None
    ) -> CachedRow:
        """Read a row; `table` may be `schema.table`, `key` has a value for each key column.

        Raises RetriableError when the node is away or can't answer in time, ConfigError when the request can't be
        answered at all (unknown table, wrong key, wrong token).
        """
        path = "/".join(quote(str(piece), safe="") for piece in (stream, table, *key))
        query: dict[str, object] = {"min_position": min_position}
        if wait_s is not None:
            query["wait_s"] = wait_s
        return _row(table, key, self._ask("GET", f"/v1/rows/{path}?{urlencode(query)}"))

    def check(
        self, stream: str, seen: Iterable[CachedRow], *, min_position: int = 0, wait_s: float | None = None
    ) -> Checked:
        """Whether rows are still what `row` has answered; at most 1,000, looked at no earlier than any was seen.

        No lock: a row may change right after it. Raises like `row`.
        """
        rows = [*seen]
        if not rows:
            return Checked(min_position, [])
        body: dict[str, object] = {
            "min_position": max(min_position, *(row.position for row in rows)),
            "rows": [{"table": row.table, "key": [*map(str, row.key)], "tag": row.tag} for row in rows],
        }
        if wait_s is not None:
            body["wait_s"] = wait_s
        said = self._ask("POST", f"/v1/checks/{quote(stream, safe='')}", json.dumps(body))
        found = ((Conflict(one["conflict"]), rows[one["number"]], one) for one in said["conflicts"])
        conflicts = [RowConflict(kind, row, _row(row.table, row.key, one)) for kind, row, one in found]
        return Checked(said["position"], conflicts)

    def status(self) -> dict[str, Any]:
        """What the node is and has done."""
        said: dict[str, Any] = self._ask("GET", "/v1/status")
        return said

    def _ask(self, method: str, path: str, sent: str | None = None) -> Any:
        try:
            self._conn.request(method, path, sent, self._headers)
            response = self._conn.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._conn.close()
            raise RetriableError(f"cache node {self._conn.host}:{self._conn.port}: {error}") from error
        try:
            said = json.loads(body)
        except ValueError:
            said = {"error": f"HTTP status {response.status}"}
        if response.status == http.client.OK:
            return said
        kind = RetriableError if response.status >= http.client.INTERNAL_SERVER_ERROR else ConfigError
        raise kind(f"cache node {self._conn.host}:{self._conn.port}: {said['error']}")

    def close(self) -> None:
        """Drop the connection."""
        self._conn.close()


def _row(table: str, key: tuple[object, ...], said: Any) -> CachedRow:
    """A row as a node tells it."""
    return CachedRow(table, key, said["position"], said["row"], said["from"], said["tag"])
