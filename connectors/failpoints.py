"""Named places between two durable effects, where a test has the process die, fail or wait.

`HEADRACE_FAILPOINTS="apply.after_commit=kill@3,plan.before_send=error@2,apply.before_commit=sleep:0.5@1"`: at the third
hit of the first, and so on, counted in each process. Without the variable `hit` is one test of an empty dictionary.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass

from pipeline.errors import ConfigError, RetriableError

ENV_FAILPOINTS = "HEADRACE_FAILPOINTS"
NAMES = frozenset({
    "capture.before_send", "capture.after_send", "capture.before_confirm",
    "plan.after_takeover", "plan.before_send", "plan.between_units", "plan.after_send",
    "plan.before_advance", "plan.after_advance",
    "apply.before_commit", "apply.after_commit", "apply.after_progress",
    "park.after_commit", "park.after_publish",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Order:
    action: str
    seconds: float
    at: int


def _parse(text: str) -> dict[str, _Order]:
    """Raises ConfigError for an order that can't be read: a test that injects nothing must not pass."""
    orders: dict[str, _Order] = {}
    for item in filter(None, text.split(",")):
        name, _, order = item.partition("=")
        what, _, at = order.partition("@")
        action, _, seconds = what.partition(":")
        if name not in NAMES or action not in ("kill", "error", "sleep") or not at.isdigit():
            raise ConfigError(f"{ENV_FAILPOINTS}: {item!r} is no name=kill|error|sleep:seconds@hit")
        orders[name] = _Order(action, float(seconds or 0), int(at))
    return orders


_ORDERS = _parse(os.environ.get(ENV_FAILPOINTS, ""))
_HITS: Counter[str] = Counter()


def hit(name: str) -> None:
    """Pass the place of that name. Raises RetriableError when a test orders it."""
    if _ORDERS and name in _ORDERS:
        _act(name, _ORDERS[name])


def _act(name: str, order: _Order) -> None:
    _HITS[name] += 1
    if _HITS[name] != order.at:
        return
    if order.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if order.action == "error":
        raise RetriableError(f"failpoint {name}")
    time.sleep(order.seconds)
