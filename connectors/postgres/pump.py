"""The hottest loop of the capture: messages from the socket's buffer into the decoder.

A compiled form (`_pump.pyx`, built by `hatch_build.py`) takes the place of this one where it exists: with it
a message costs 0.6 µs from libpq to the batch's lists instead of 1.6.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connectors.postgres.pgoutput import PgOutputDecoder

GetCopyData = Callable[[int], tuple[int, memoryview]]
Pump = Callable[[GetCopyData, "PgOutputDecoder", int, int], tuple[int, int, memoryview | None]]
_WAL_DATA = ord("w")


def pump_python(
    get_copy_data: GetCopyData, decoder: PgOutputDecoder, messages_max: int, bytes_max: int
) -> tuple[int, int, memoryview | None]:
    """Feed messages into `decoder` until there is a reason to stop.

    Stops between transactions after `messages_max` messages, and anywhere once the batch has reached
    `bytes_max`, after a message at least. Returns what PQgetCopyData said last (0: nothing buffered, -1: the
    stream has ended), the number of messages fed, and a message that is no WAL data, which is the caller's to handle.
    """
    done = 0
    feed, builder = decoder.feed, decoder.builder
    while done < messages_max or decoder.in_transaction:
        size, message = get_copy_data(1)
        if size <= 0:
            return size, done, None
        if message[0] != _WAL_DATA:
            return size, done, message
        feed(bytes(message))
        done += 1
        if builder.bytes >= bytes_max:
            break
    return 1, done, None


def _choose() -> tuple[Pump, bool]:
    if not os.environ.get("HEADRACE_PURE"):
        try:
            from connectors.postgres import _pump
        except ImportError:
            pass
        else:
            return _pump.pump, True
    return pump_python, False


pump, COMPILED = _choose()
