"""The way of a block to whoever asks for it: as few steps as can be, each counted and timed.

Three parts are played: the requester, the master who knows where the block is, the holder who has it. Where one node
plays two of them the block comes in two steps (ask, answer); else in three (ask, pass on, answer), never more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from pipeline.directory.block import BlockId, Owner

CONGESTED_STEP_US = 1000  # a message that takes longer has waited in queues
ROUTES_MAX = 16_384  # remembered; the oldest goes
SMOOTHING = 0.1  # weight of the newest latency


class Outcome(Enum):
    """How a transfer ended, or why it did not."""

    TWO_WAY = "2-way"
    THREE_WAY = "3-way"
    BUSY = "busy"  # who was asked does not have it (now): it changes hands, or was never filled
    CONGESTED = "congested"  # it came, after more than a millisecond a step
    LOST = "lost"  # no answer in time
    RETRIED = "retried"  # asked for again, another way


@dataclass(frozen=True, slots=True)
class Route:
    """Whom to ask, and who will answer. Without a node to ask the block is here, or nowhere."""

    ask: str
    answers: str

    @property
    def steps(self) -> int:
        """Messages until the block is here."""
        return 0 if not self.ask else 2 if self.ask == self.answers else 3


NOWHERE = Route("", "")


def shortest(requester: str, master: str, holder: str) -> Route:
    """The route between three parts; `holder` may be unknown: empty."""
    if requester in (holder, "") or not (master or holder):
        return NOWHERE
    if requester == master:
        return Route(holder, holder) if holder else NOWHERE
    return Route(master, holder or master)


class Routes:
    """A node's routes: what was learned from answers, latencies by node, outcomes. One thread."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.outcomes: Counter[Outcome] = Counter()
        self.latency_us: dict[str, float] = {}
        self.way_us: dict[str, float] = {}
        self._learned: dict[BlockId, tuple[str, int]] = {}

    def plan(self, block: BlockId, owner: Owner, alive: Collection[str], holders: Collection[str] = ()) -> Route:
        """Whom to ask for a block among the nodes that are `alive`.

        Who answered in the same epoch is asked directly; of several holders the one that answers soonest.
        """
        learned = self._learned.get(block)
        if learned is not None and learned[1] == owner.epoch and learned[0] != self.node and learned[0] in alive:
            return Route(learned[0], learned[0])
        others = [node for node in holders if node != self.node and node in alive]
        if others:
            nearest = min(others, key=lambda node: (self.latency_us.get(node, 0.0), node))
            return Route(nearest, nearest)
        return shortest(self.node, owner.node, "") if owner.node in alive else NOWHERE

    def answered(self, block: BlockId, route: Route, by: str, epoch: int, latency_us: float) -> None:
        """A block came from `by`; what was learned is kept for as long as the epoch lasts."""
        way, steps = (Outcome.TWO_WAY, 2) if by == route.ask else (Outcome.THREE_WAY, 3)
        self.outcomes[way] += 1
        self.outcomes[Outcome.CONGESTED] += latency_us > CONGESTED_STEP_US * steps
        for smoothed, key in ((self.latency_us, by), (self.way_us, way.value)):
            known = smoothed.get(key, latency_us)
            smoothed[key] = known + SMOOTHING * (latency_us - known)
        self._learned.pop(block, None)
        self._learned[block] = (by, epoch)
        if len(self._learned) > ROUTES_MAX:
            del self._learned[next(iter(self._learned))]

    def failed(self, block: BlockId, outcome: Outcome) -> None:
        """It did not come (busy or lost); the route that was learned is forgotten."""
        self.outcomes[outcome] += 1
        self._learned.pop(block, None)

    def retried(self) -> None:
        """It is asked for again."""
        self.outcomes[Outcome.RETRIED] += 1

    def status(self) -> dict[str, dict[str, float]]:
        """Outcomes by name, and the smoothed latency in microseconds by node that answered and by way."""
        return {
            "outcomes": {outcome.value: self.outcomes[outcome] for outcome in Outcome},
            "latency_us": {node: round(latency, 1) for node, latency in self.latency_us.items()},
            "way_us": {way: round(latency, 1) for way, latency in self.way_us.items()},
        }
