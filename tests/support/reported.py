"""Names that a run of the fault tests shares with its tests. Nothing is imported: pytest must be the first to do so."""

from __future__ import annotations

ENV_LONG = "HEADRACE_LONG_TESTS"  # set: tests marked `long` run too
FAULTS = "faults"  # a test's property: a Counter of what was done to its rigs
PEAKS = "peaks"  # another: role -> the most memory it had, MiB
