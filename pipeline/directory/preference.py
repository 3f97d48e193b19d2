"""Which lane an independent set should go to: one of the node that masters most of its rows.

The rows are then in that node's cache when they are applied, and their new images are where they are asked for.
A group gives a node's lanes to it in runs (0-7, 8-15), so the active lanes are taken from the nodes in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pipeline.directory.block import BlockId, bucket_of
from pipeline.directory.placement import Placement
from pipeline.lanes import LaneLoads, Preference
from schemas.apply_unit import LANES_MAX
from schemas.change_batch import ChangeBatch

# How far ahead of the emptiest lane a preferred one may be, in transactions and as a factor: work that waits in a
# queue costs more than rows that are elsewhere.
SLACK_TRANSACTIONS = 50
SLACK_FACTOR = 1.25
NodeLanes = Mapping[str, Sequence[int]]


class LanePreference:
    """Preferences for one stream. `lanes` tells which node applies which lane at present."""

    def __init__(self, stream: str, placement: Placement, buckets: int, lanes: Callable[[], NodeLanes]) -> None:
        self._stream = stream
        self._placement = placement
        self._buckets = buckets
        self._lanes = lanes
        self.followed = self.overruled = 0
        self._ordered: NodeLanes = {}
        self._order: Sequence[int] = range(LANES_MAX)

    def window(self, batch: ChangeBatch) -> Preference | None:
        """The preference for one window; None with a single node."""
        lanes = self._lanes()
        if len(lanes) < 2:
            return None
        nodes = self._masters(batch)

        def prefer(transactions: list[int], loads: LaneLoads) -> int | None:
            votes: dict[str, int] = {}
            for tx in transactions:
                for node in nodes[tx]:
                    votes[node] = votes.get(node, 0) + 1
            own = lanes.get(max(votes, key=votes.__getitem__), ()) if votes else ()
            lane = min((lane for lane in own if lane in loads), key=loads.__getitem__, default=None)
            if lane is None or loads[lane] > SLACK_FACTOR * min(loads.values()) + SLACK_TRANSACTIONS:
                self.overruled += 1
                return None
            self.followed += 1
            return lane

        return prefer

    def lane_order(self) -> Sequence[int]:
        """All lanes, as they are to become active."""
        lanes = self._lanes()
        if lanes is not self._ordered:  # a new mapping each time that the group is looked at
            self._ordered, self._order = lanes, in_turn(lanes)
        return self._order

    def _masters(self, batch: ChangeBatch) -> list[list[str]]:
        """For each transaction the masters of the rows it changes."""
        found: list[list[str]] = [[] for _ in batch.positions]
        owner, buckets = self._placement.owner, self._buckets
        for section in batch.sections:
            schema, table = section.relation.name
            known: dict[int, str] = {}
            for tx, key in zip(section.tx, section.key_list(), strict=True):
                bucket = bucket_of(key, buckets)
                node = known.get(bucket)
                if node is None:
                    node = known[bucket] = owner(BlockId(self._stream, schema, table, bucket)).node
                found[tx].append(node)
        return found


def in_turn(lanes: NodeLanes) -> Sequence[int]:
    """All lanes, taken from one node after the other, from the one with lane 0 on; lanes of nobody come last.

    So any number of active lanes is spread over the nodes as evenly as can be.
    """
    queues = sorted((sorted(own) for own in lanes.values() if own), key=lambda own: own[0])
    taken = [own[n] for n in range(LANES_MAX) for own in queues if n < len(own)]
    order = dict.fromkeys(lane for lane in [0, *taken, *range(LANES_MAX)] if lane < LANES_MAX)
    return tuple(order)
