"""`python -m headrace.embedded`: fetch Kafka's jars ahead of time, for a machine that will be cut off.

With `--relock` the pinned versions are resolved again and the lock is rewritten (needs the extra `dev`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from headrace.embedded.errors import EmbeddedError
from headrace.embedded.jars import cache_dir, ensure_jars, read_lock, write_lock


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit status."""
    if "--relock" in arguments:
        from headrace.embedded.relock import resolve  # a tool of the extra `dev`

        write_lock(resolve())
    try:
        paths = ensure_jars(read_lock(), cache_dir())
    except EmbeddedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{len(paths)} jar files in {cache_dir()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
