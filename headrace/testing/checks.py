"""The assertion that a test ends with."""

from __future__ import annotations

from headrace.streams import comparison
from headrace.testing.stream import Stream
from headrace.verify import verify_stream
from pipeline.errors import HeadraceError

TIMEOUT_S = 60.0
LOG_LINES = 40  # of Headrace's log, in a failure's message


def assert_replicated(stream: Stream, *tables: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until all that is committed at the source is applied, then compare every row of source and target.

    `tables` (as `schema.table`; default: all that the stream replicates) are those that count. Each of them must
    exist. Raises AssertionError, with the tables that differ or what kept the stream from catching up, and the
    end of Headrace's log.
    """
    comparison(stream.config)  # the connector can compare at all
    try:
        checks = {check.table: check for check in verify_stream(stream.config, timeout_s).tables}
    except HeadraceError as error:
        raise AssertionError(_text(stream, str(error))) from error
    unknown = [table for table in tables if table not in checks]
    if unknown:
        raise AssertionError(f"not replicated by stream {stream.name}: {unknown}; it replicates {sorted(checks)}")
    wrong = [check for name, check in checks.items() if check.differences and (not tables or name in tables)]
    if wrong:
        lines = [
            f"{check.table}: {check.differences:,} rows differ ({check.source_rows:,} at the source, "
            f"{check.target_rows:,} at the target)"
            for check in wrong
        ]
        raise AssertionError(_text(stream, "source and target differ\n" + "\n".join(lines)))


def _text(stream: Stream, what: str) -> str:
    log = "\n".join(stream.logs().splitlines()[-LOG_LINES:])
    return f"stream {stream.name}: {what}\n---- the end of Headrace's log\n{log}"
