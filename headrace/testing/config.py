"""A configuration made in a test, as the TOML text that Headrace reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence


def stream_config(
    name: str, kafka: str, source_dsn: str, target_dsn: str, *,
    source: Mapping[str, object] | None = None, target: Mapping[str, object] | None = None,
) -> dict[str, object]:  # fmt: skip
    """A configuration of one stream, whose topics begin with the stream's name.

    `source` and `target` are further keys of those tables (docs/configuration.md).
    """
    return {
        "kafka": {"bootstrap_servers": kafka, "topic_prefix": name},
        "streams": [
            {
                "name": name,
                "source": {"dsn": source_dsn, **(source or {})},
                "target": {"dsn": target_dsn, **(target or {})},
            }
        ],
    }


def toml_text(config: Mapping[str, object]) -> str:
    """`config` as TOML. A mapping is a table, a list of mappings an array of tables.

    Raises TypeError for a value that TOML does not know.
    """
    return "\n".join(_table(config, ())) + "\n"


def _table(table: Mapping[str, object], path: tuple[str, ...]) -> Iterator[str]:
    for key, value in table.items():
        if not _is_table(value) and not _is_array(value):
            yield f"{key} = {_value(value)}"
    for key, value in table.items():
        name = ".".join((*path, key))
        if isinstance(value, Mapping):
            yield f"[{name}]"
            yield from _table(value, (*path, key))
        elif _is_array(value) and isinstance(value, Sequence):
            for item in value:
                yield f"[[{name}]]"
                yield from _table(item, (*path, key))


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_array(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _value(value: object) -> str:
    if isinstance(value, str | bool | int | float):
        return json.dumps(value, ensure_ascii=False)  # of these types, JSON's text is TOML's
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    raise TypeError(f"{value!r} cannot be written as TOML")
