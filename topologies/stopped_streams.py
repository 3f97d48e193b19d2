"""Streams that need an operator. The other streams of a process go on."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from connectors.errors import RefusedError
from pipeline.errors import ConfigError, StreamStoppedError
from schemas.errors import SchemaError

log = logging.getLogger(__name__)
OPERATOR_ERRORS = (ConfigError, StreamStoppedError, SchemaError, RefusedError)


class StoppedStreams:
    """What stopped which stream."""

    def __init__(self, streams: Iterable[str]) -> None:
        self._running = set(streams)
        self._errors: dict[str, Exception] = {}

    def note(self, stream: str, error: Exception) -> None:
        """Note why a stream stopped. Raises `error` when it is no operator's affair, or no stream is left."""
        if not isinstance(error, OPERATOR_ERRORS):
            raise error
        if stream in self._errors:
            return
        self._errors[stream] = error
        self._running.discard(stream)
        if not self._running:
            raise error
        log.error("stream %s stops here, the others go on: %s", stream, error)

    def raise_first(self) -> None:
        """At the end of the process: raise what stopped the first of them."""
        for error in self._errors.values():
            raise error
