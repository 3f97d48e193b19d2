"""Lag: a stream's lag over the last seconds and minutes, written by the monitor."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.single_object import codec


@dataclass(frozen=True, slots=True)
class LagWindow:
    """Lag from source commit to `stage` over the last `seconds`, in seconds; None: nothing was counted."""

    seconds: int
    stage: str
    transactions: int
    rows: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    mean_s: float | None
    variance_s2: float | None


@dataclass(frozen=True, slots=True)
class Lag:
    """One summary of a stream. `commit_time_us` is the newest applied source commit, 0 when there was none.

    `age_s`: the target holds everything that the source committed until so long ago (None: not known).
    `level` is ok, warning, alarm or critical, since `level_us` (0: since the monitor started).
    """

    stream: str
    time_us: int
    commit_time_us: int
    age_s: float | None
    level: str
    level_us: int
    level_reason: str
    queued: int
    lanes: int
    windows: list[LagWindow]

    def window(self, seconds: int, stage: str) -> LagWindow | None:
        """The window of that length and stage, if there is one."""
        return next((w for w in self.windows if w.seconds == seconds and w.stage == stage), None)


def encode_lag(lag: Lag) -> bytes:
    """Return the record of `lag`."""
    windows = [{name: getattr(window, name) for name in LagWindow.__slots__} for window in lag.windows]
    datum = {name: getattr(lag, name) for name in Lag.__slots__}
    return codec("lag").encode({**datum, "windows": windows})


def decode_lag(data: bytes) -> Lag:
    """Return the lag in `data`. Raises SchemaError."""
    datum = codec("lag").decode(data)
    windows = [LagWindow(**window) for window in datum.pop("windows")]
    return Lag(**datum, windows=windows)
