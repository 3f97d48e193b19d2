"""When a change batch is closed, and how the capture waits meanwhile: by how the source sends. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.builder import BatchBuilder
from pipeline.linger import AdaptiveLinger
from pipeline.record_size import RecordSize

LINGER_BUSY_MS = 100.0  # while the source sends without a pause
# Transactions this old are a backlog, whatever the socket holds at the moment: a capture faster than the server finds
# it empty all the time. A pause of the server says that the backlog is at its end.
BACKLOG_AGE_S = 1.0
BACKLOG_PAUSE_MS = 20.0
# A backlog is read in long runs into full batches, since every read and every record costs about the same however much
# is in it. Beside naps of 0.2 ms and batches of 100 ms, drains in turn on busy cores: 22.4 -> 28.9 K transactions/s,
# capture 10.3 -> 6.3, planner 3.5 -> 2.2, broker 5.5 -> 3.4 µs a transaction (medians of four).
BACKLOG_LINGER_MS = 250.0
BACKLOG_NAP_S = 0.003
NAP_MAX_S = 0.001  # otherwise


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How transactions come in at a moment: how old the last one is, and how long ago something was read.

    `busy`: the socket has more.
    """

    age_s: float
    pause_ms: float
    busy: bool

    @property
    def backlog(self) -> bool:
        """Whether the transactions that come in were committed a while ago, and keep coming."""
        return self.age_s > BACKLOG_AGE_S and self.pause_ms < BACKLOG_PAUSE_MS


def age_s(builder: BatchBuilder, now_s: float) -> float:
    """How long ago the last transaction that was read has been committed; 0 where none was."""
    return now_s - builder.commit_times_us[-1] / 1e6 if builder.commit_times_us else 0.0


class ClosingRule:
    """Of one stream. `linger`, if there is one, stands for `linger_ms`, and `size` for its maximum."""

    def __init__(
        self, transactions_max: int, bytes_max: int, linger_ms: float, linger: AdaptiveLinger | None,
        size: RecordSize | None,
    ) -> None:  # fmt: skip
        self.transactions_max = transactions_max
        self._bytes_max = bytes_max
        self._configured_ms = linger_ms
        self._linger = linger
        self._size = size

    def is_due(self, builder: BatchBuilder, arrivals: Arrivals, open_ms: float) -> bool:
        """Whether the batch, open for `open_ms` and between two transactions, should be closed now."""
        backlog = arrivals.backlog
        most = self.transactions_max if backlog or self._size is None else self._size.limit
        wait_ms = BACKLOG_LINGER_MS if backlog else LINGER_BUSY_MS if arrivals.busy else self._linger_ms
        return bool(builder.positions) and (
            builder.part > 0
            or len(builder.positions) >= most
            or builder.bytes >= self._bytes_max
            or open_ms >= wait_ms
        )  # fmt: skip

    def closed(self, arrivals: Arrivals, now_us: int) -> None:
        """Note that a batch that was due is closed."""
        if self._size is not None:
            self._size.closed(arrivals.age_s, now_us)

    def nap_s(self, arrivals: Arrivals, nap_min_s: float) -> float:
        """Between two looks at the socket: a tenth of what a transaction may wait in its batch anyway."""
        if arrivals.backlog:
            return BACKLOG_NAP_S
        return min(NAP_MAX_S, max(nap_min_s, self._linger_ms / 10_000))

    @property
    def _linger_ms(self) -> float:
        return self._linger.ms if self._linger is not None else self._configured_ms
