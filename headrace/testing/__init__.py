"""Testing one's own streams: a Kafka, a source, a target, a running Headrace, and `assert_replicated`.

With containers (extra `containers`, a Docker engine), or with the embedded servers (extra `embedded`). For
pytest there are fixtures in `headrace.testing.fixtures`; docs/testing.md shows all of it.
"""

from headrace.testing.checks import assert_replicated
from headrace.testing.parts import Addresses, Parts, Pipeline
from headrace.testing.stream import Stream

__all__ = [
    "assert_replicated",
    "Stream",
    "Parts",
    "Pipeline",
    "Addresses",
]
