"""Errors of the decision layer. Each message says what happened, where, and what to do.

- HeadraceError
  - ConfigError        the configuration can't work; the operator must change it
  - StreamGapError     a batch is missing from the chain; nothing past it may be applied
  - StreamStoppedError the stream cannot go on without an operator
  - RetriableError     a systemic fault (connection, disk, broker): retried with backoff
"""

from __future__ import annotations


class HeadraceError(Exception):
    """Base of all errors that Headrace raises on purpose."""


class ConfigError(HeadraceError):
    """A setting, privilege or object is missing or wrong. Not retried."""


class StreamStoppedError(HeadraceError):
    """The stream cannot go on without an operator. Not retried."""


class StreamGapError(StreamStoppedError):
    """The chain of change batches is broken; both positions are in the message."""


class RetriableError(HeadraceError):
    """A fault of the surroundings that may pass: lost connection, full disk, restart, deadlock."""
