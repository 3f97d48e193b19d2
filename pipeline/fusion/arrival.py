"""What a node accepts from its peers: frames once and in order, counted when refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pipeline.fusion.frame import FrameError, Header

PEERS_MAX = 256  # peers that are remembered; a configured cluster is far smaller


@dataclass(slots=True)
class Arrivals:
    """The newest session and frame number of each peer and channel; refusals by reason."""

    refused: Counter[str] = field(default_factory=Counter)
    _last: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def admit(self, peer: str, channel: str, header: Header) -> None:
        """Note a frame. Raises FrameError for one that was seen, or is of a session that has ended.

        Frames may be missing (a lost connection), so a number only has to grow.
        """
        last = self._last.get((peer, channel))
        if last is None and len(self._last) >= PEERS_MAX:
            raise FrameError("peers", f"{PEERS_MAX} peers are known already")
        if last is not None and (header.session, header.number) <= last:
            raise FrameError(
                "replayed", f"frame {header.number} of session {header.session} after {last[1]} of {last[0]}"
            )
        self._last[peer, channel] = (header.session, header.number)

    def refuse(self, error: FrameError) -> None:
        """Count a refusal."""
        self.refused[error.reason] += 1
