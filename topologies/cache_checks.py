"""Conflict checks over HTTP: `POST /v1/checks/{stream}`, whether rows are still what a client has seen.

**Guarantee:** a row that the answer does not name as a conflict was, at the answer's position or later, what the
client has seen. The target is read only for rows that no cache can answer.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.cache.conflict import conflict
from topologies.cache_node import CacheNode

ROWS_MAX = 1000  # of a request; each may wait for a look at the target
KEY_PARTS_MAX = 16
TAG_CHARS_MAX = 64
Table = Annotated[str, Field(min_length=1)]


class CheckError(ValueError):
    """A request that is not what docs/cache.md says."""


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class SeenRow(_Model):
    """A row as a client has seen it: the tag is that of the answer."""

    table: Table
    key: list[str] = Field(min_length=1, max_length=KEY_PARTS_MAX)
    tag: str = Field(min_length=1, max_length=TAG_CHARS_MAX)


class CheckRequest(_Model):
    """What the body of a check says."""

    rows: list[SeenRow] = Field(min_length=1, max_length=ROWS_MAX)
    min_position: int = 0
    wait_s: float | None = Field(default=None, ge=0, allow_inf_nan=False)


def parse_check(body: bytes) -> CheckRequest:
    """Read a request. Raises CheckError."""
    try:
        return CheckRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        raise CheckError(f"{place}: {first['msg']}; docs/cache.md tells what a check is") from error


def table_name(text: str) -> tuple[str, str]:
    """`table` or `schema.table` as schema and table."""
    schema, dot, table = text.partition(".")
    return (schema, table) if dot else ("public", schema)


async def check(node: CacheNode, stream: str, request: CheckRequest, wait_s: float) -> dict[str, object]:
    """Compare each row with what is known of it; the position is that of the oldest answer.

    Raises what `CacheNode.read` raises, for the first row that can't be answered.
    """
    position, conflicts = -1, []
    for number, seen in enumerate(request.rows):
        now = await node.read(stream, table_name(seen.table), seen.key, request.min_position, wait_s)
        position = now.position if number == 0 else min(position, now.position)
        kind = conflict(seen.tag, now.tag)
        node.counts["checks"] += 1
        if kind is not None:
            node.counts["conflicts"] += 1
            conflicts.append({"number": number, "conflict": kind.value, **now.said()})
    return {"position": position, "conflicts": conflicts}
