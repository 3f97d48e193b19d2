"""Errors of the record layer."""

from __future__ import annotations


class SchemaError(ValueError):
    """A record does not follow its contract: damaged, truncated, oversized or of an unknown schema."""
