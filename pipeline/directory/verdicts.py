"""Whether a block should move, and why: the rules of placement, one function each, with reasons as text."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.directory.activity import Activity
from pipeline.directory.members import Affinity


@dataclass(frozen=True, slots=True)
class Policy:
    """The numbers of placement.

    A remote access costs `remote_us` more than a local one; a move costs `move_us`, in messages and cold reads.
    `margin` is by how much the gain over `horizon_s` must beat that, and a prediction the best score.
    After a move a block stays for `residency_us`, twice as long for each move it has made lately.
    """

    remote_us: float = 500.0
    move_us: float = 2_000.0
    horizon_s: float = 60.0
    margin: float = 1.3
    residency_us: int = 5_000_000
    residency_us_max: int = 300_000_000
    rate_min: float = 0.1
    read_mostly_writes: float = 0.02
    read_mostly_end: float = 0.10
    reader_share: float = 0.10
    moves_per_s: float = 100.0
    moves_burst: float = 500.0
    tracked_max: int = 4096


DEFAULT = Policy()
KEEP_SHARE = 0.5  # what is shared stays shared, and a holder a holder, at half the use that made it so


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a block should be. `gain_us`: what a second of it saves, by which verdicts are ranked."""

    master: str
    holders: tuple[str, ...]
    read_mostly: bool
    gain_us: float
    reason: str


def judge(
    owner: str,
    affinity: Affinity,
    activity: Activity,
    nodes: frozenset[str],
    prediction: tuple[str, float],
    now_us: int,
    policy: Policy = DEFAULT,
) -> Verdict | None:
    """What to do with a block of `owner`; None: nothing. The activity must be as of `now_us`."""
    rates = {node: rate for node, rate in activity.rates().items() if node in nodes}
    total = sum(rates.values())
    if total < policy.rate_min or resident(activity, now_us, policy):
        return None
    if affinity.read_mostly and activity.write_share() > policy.read_mostly_end:
        reason = f"{activity.write_share():.0%} of the accesses write: shared no more"
        return Verdict(owner, (), False, total * policy.remote_us, reason)
    readers = _readers(affinity, activity, rates, policy)
    if affinity.read_mostly or (activity.write_share() <= policy.read_mostly_writes and len(readers) > 1):
        return _share(owner, affinity, readers, activity, rates, now_us, policy)
    return predicted(owner, rates, prediction, policy) or localized(owner, rates, policy)


def localized(owner: str, rates: dict[str, float], policy: Policy = DEFAULT) -> Verdict | None:
    """A move to the node with the highest rate, if the gain over the horizon beats the cost by the margin."""
    best = max(sorted(rates), key=rates.__getitem__)
    gain_us = (rates[best] - rates.get(owner, 0.0)) * policy.remote_us
    if best == owner or gain_us * policy.horizon_s <= policy.margin * policy.move_us:
        return None
    reason = f"{best} uses it {rates[best]:.1f} times a second, {owner or 'nobody'} {rates.get(owner, 0.0):.1f}"
    return Verdict(best, (), False, gain_us, reason)


def predicted(
    owner: str, rates: dict[str, float], prediction: tuple[str, float], policy: Policy = DEFAULT
) -> Verdict | None:
    """A move to the likely next accessor, if its probability beats the best share by the margin."""
    node, probability = prediction
    total = sum(rates.values())
    best = max(rates.values()) / total
    if not node or node == owner or probability < policy.margin * best:
        return None
    gain_us = (probability - rates.get(owner, 0.0) / total) * total * policy.remote_us
    if gain_us * policy.horizon_s <= policy.margin * policy.move_us:
        return None
    return Verdict(node, (), False, gain_us, f"{node} comes next with {probability:.0%}, the best share is {best:.0%}")


def resident(activity: Activity, now_us: int, policy: Policy = DEFAULT) -> bool:
    """Whether the block moved so lately that it stays; a block that moves to and fro stays ever longer."""
    if not activity.moved_us:
        return False
    stay_us: float = policy.residency_us * 2.0 ** min(16.0, max(0.0, activity.moves - 1.0))
    return now_us < activity.moved_us + round(min(stay_us, policy.residency_us_max))


def _readers(affinity: Affinity, activity: Activity, rates: dict[str, float], policy: Policy) -> tuple[str, ...]:
    """The nodes worth asking for a copy: they read it more than now and then, and have not evicted it."""
    least = max(policy.rate_min, policy.reader_share * sum(rates.values()))
    found = (node for node, rate in rates.items() if rate >= least * (KEEP_SHARE if node in affinity.holders else 1.0))
    return tuple(sorted(node for node in found if not activity.nodes[node].gone))


def _share(
    owner: str, affinity: Affinity, readers: tuple[str, ...], activity: Activity, rates: dict[str, float],
    now_us: int, policy: Policy,
) -> Verdict | None:  # fmt: skip
    """Readers as holders, and the one that reads most as master; None if that is so already, or was told lately."""
    move = localized(owner, rates, policy)
    if move is not None and rates[move.master] < policy.margin * rates.get(owner, 0.0):
        move = None  # both have it: to and fro would be all that comes of it
    if move is None and affinity.read_mostly:
        lately = now_us < activity.told_us + policy.residency_us
        if lately or {*readers, owner} == {*affinity.holders, owner}:
            return None
    gain_us = sum(rates[node] for node in readers if node != owner) * policy.remote_us
    reason = f"{activity.write_share():.0%} of the accesses write, {len(readers)} nodes read: shared"
    if move is not None:
        return Verdict(move.master, readers, True, max(gain_us, move.gain_us), f"{move.reason}; {reason}")
    return Verdict(owner, readers, True, gain_us, reason)
