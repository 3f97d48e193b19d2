"""Which lane an independent set should go to: one of the node that masters most of its rows.

The rows are then in that node's cache when they are applied, and their new images are where they are asked for.
A group gives a node's lanes to it in runs (0-7, 8-15), so the active lanes are taken from the nodes in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from pipeline.directory.block import BlockId, buckets_of
from pipeline.directory.placement import Placement
from pipeline.directory.recent_moves import RecentMoves
from pipeline.lanes import LaneLoads, Preference
from schemas.apply_unit import LANES_MAX
from schemas.change_batch import ChangeBatch

# How far ahead of the emptiest lane a preferred one may be, in transactions and as a factor, and at most: work that
# waits in a queue costs more than rows that are elsewhere, and a longer queue does not bring more of them together.
SLACK_TRANSACTIONS = 50
SLACK_FACTOR = 1.25
SLACK_TRANSACTIONS_MAX = 500
VOTE_BITS = 32  # more than a window has rows
KNOWN_MAX = 65_536  # blocks whose masters are remembered until they change; 6 MiB
NodeLanes = Mapping[str, Sequence[int]]


class Masters(Placement, Protocol):
    """Who masters what."""

    @property
    def moves(self) -> RecentMoves:
        """Which blocks have changed master."""


class LanePreference:
    """Preferences for one stream. `lanes` tells which node applies which lane at present."""

    def __init__(self, stream: str, placement: Masters, buckets: int, lanes: Callable[[], NodeLanes]) -> None:
        self._stream = stream
        self._placement = placement
        self._buckets = buckets
        self._lanes = lanes
        self.followed = self.overruled = 0
        self._known: dict[tuple[str, str], dict[int, int]] = {}  # table -> bucket -> one vote for its master
        self._numbers: dict[str, int] = {}  # node -> which part of a vote is its
        self._version = placement.moves.version
        self._ordered: NodeLanes = {}
        self._order: Sequence[int] = range(LANES_MAX)

    def window(self, batch: ChangeBatch) -> Preference | None:
        """The preference for one window; None with a single node.

        While it is used, lanes stay the same and loads only grow.
        """
        lanes = self._lanes()
        if len(lanes) < 2:
            return None
        votes, nodes = self._votes(batch)
        chosen: dict[int, list[int]] = {}  # lanes by votes: most sets have the votes of one before
        full = _full(0)  # the load beyond which a lane is not preferred, or less

        def prefer(transactions: list[int], loads: LaneLoads) -> int | None:
            nonlocal full
            vote = votes[transactions[0]] if len(transactions) == 1 else sum(map(votes.__getitem__, transactions))
            own = chosen.get(vote)
            if own is None:
                own = chosen[vote] = [lane for lane in lanes.get(_winner(vote, nodes), ()) if lane in loads]
            if own:
                lane = own[0] if len(own) == 1 else min(own, key=loads.__getitem__)
                if loads[lane] > full:
                    full = _full(min(loads.values()))
                if loads[lane] <= full:
                    self.followed += 1
                    return lane
            self.overruled += 1
            return None

        return prefer

    def lane_order(self) -> Sequence[int]:
        """All lanes, as they are to become active."""
        lanes = self._lanes()
        if lanes is not self._ordered:  # a new mapping each time that the group is looked at
            self._ordered, self._order = lanes, in_turn(lanes)
        return self._order

    def _votes(self, batch: ChangeBatch) -> tuple[list[int], list[str]]:
        """For each transaction the number of rows that each node masters, as one integer: `VOTE_BITS` a node."""
        self._renew()
        votes = [0] * len(batch.positions)
        for section in batch.sections:
            buckets = buckets_of(section.key_list(), self._buckets)
            vote_of = self._known.setdefault(section.relation.name, {})
            for bucket in set(buckets) - vote_of.keys():
                vote_of[bucket] = self._vote(BlockId(self._stream, *section.relation.name, bucket))
            for tx, bucket in zip(section.tx, buckets, strict=True):
                votes[tx] += vote_of[bucket]
        return votes, list(self._numbers)

    def _renew(self) -> None:
        """Forget masters that have changed. To look one up takes longer than all else about a row."""
        self._version, moved = self._placement.moves.since(self._version)  # what comes meanwhile is seen next time
        if moved is None or sum(map(len, self._known.values())) > KNOWN_MAX:
            self._known, self._numbers = {}, {}
            return
        for stream, schema, table, bucket in moved:
            if stream == self._stream:
                self._known.get((schema, table), {}).pop(bucket, None)

    def _vote(self, block: BlockId) -> int:
        number = self._numbers.setdefault(self._placement.owner(block).node, len(self._numbers))
        return 1 << VOTE_BITS * number


def _full(emptiest: int) -> float:
    """The load beyond which a lane is not preferred while the emptiest one has that load."""
    return min(SLACK_FACTOR * emptiest + SLACK_TRANSACTIONS, emptiest + SLACK_TRANSACTIONS_MAX)


def _winner(vote: int, nodes: Sequence[str]) -> str:
    """The node with most votes, of equals the first; empty without votes."""
    counts = [vote >> VOTE_BITS * number & (1 << VOTE_BITS) - 1 for number in range(len(nodes))]
    return nodes[counts.index(max(counts))] if vote else ""


def in_turn(lanes: NodeLanes) -> Sequence[int]:
    """All lanes, taken from one node after the other, from the one with lane 0 on; lanes of nobody come last.

    So any number of active lanes is spread over the nodes as evenly as can be.
    """
    queues = sorted((sorted(own) for own in lanes.values() if own), key=lambda own: own[0])
    taken = [own[n] for n in range(LANES_MAX) for own in queues if n < len(own)]
    order = dict.fromkeys(lane for lane in [0, *taken, *range(LANES_MAX)] if lane < LANES_MAX)
    return tuple(order)
