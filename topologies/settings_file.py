"""The configuration file: TOML, with environment overrides.

Any value can be overridden by `HEADRACE_` and its path, e.g. `HEADRACE_KAFKA__BOOTSTRAP_SERVERS`; a stream by its
number, e.g. `HEADRACE_STREAMS__0__SOURCE__DSN`.
"""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.priorities import CLASSES
from topologies.settings import Settings

ENV_CONFIG = "HEADRACE_CONFIG"
ENV_PREFIX = "HEADRACE_"
# Comma-separated in the environment.
_LISTS = ("tables", "exclude", "cache", "exclude_columns", "hash_columns", *CLASSES)


def load_settings(path: Path) -> Settings:
    """Read the file and the environment. Raises ConfigError with a line a wrong key, values left out."""
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}; name one with -c FILE") from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    return parse_settings(data, str(path))


def parse_settings(data: dict[str, object], where: str) -> Settings:
    """Return the settings in `data`, environment applied. Raises ConfigError naming every wrong key."""
    merged = _with_environment(data, os.environ)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        found = [(".".join(map(str, e["loc"])) or "file", e["type"], e["msg"]) for e in error.errors()]
        if any(path.startswith("streams.") for path, *_ in found):
            # A stream with an error does not count for pydantic, which then misses one.
            found = [one for one in found if one[0] != "streams"]
        lines = [f"  {path}: {_plain(path, kind, text)}" for path, kind, text in found]
        raise ConfigError("\n".join([f"{where} is not a valid configuration:", *lines])) from None


def _plain(path: str, kind: str, message: str) -> str:
    """Pydantic's message in the words of the file."""
    message = message.removeprefix("Value error, ")
    own = {"extra_forbidden": "unknown key", "missing": "is missing"}
    if kind == "tuple_type" and path == "streams":
        return "is a list: write [[streams]], in two brackets"
    if kind == "string_pattern_mismatch" and path.endswith(".name"):
        return "begins with a lower-case letter, then has at most 39 of a-z, 0-9 and _"
    return own.get(kind, message)


def _with_environment(data: dict[str, object], environ: Mapping[str, str]) -> dict[str, object]:
    """Return a copy of `data` with `HEADRACE_A__B=...` set at a.b; a number in the path picks a list item."""
    merged = copy.deepcopy(data)
    for name, value in environ.items():
        path = name.removeprefix(ENV_PREFIX).lower().split("__")
        if name.startswith(ENV_PREFIX) and path[0] in Settings.model_fields and len(path) > 1:
            _set_path(merged, path, value, name)
    return merged


def _set_path(data: dict[str, object], path: list[str], value: str, name: str) -> None:
    node: object = data
    for step, key in enumerate(path):
        last = step == len(path) - 1
        if isinstance(node, list) and key.isdigit() and int(key) < len(node) and not last:
            node = node[int(key)]
        elif isinstance(node, dict) and last:
            node[key] = value.split(",") if key in _LISTS else value
        elif isinstance(node, dict):
            node = node.setdefault(key, {})
        else:
            raise ConfigError(f"environment variable {name}: the configuration has no {'.'.join(path[: step + 1])}")
