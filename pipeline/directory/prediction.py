"""Who comes next: what is learned from the order of accessors, as they come.

Rows are often handed on: one node creates an order, another bills it, a third ships it. Two predictions are mixed:
- the *way*: what followed the same accessors before, at any block of the table, so it holds for new blocks too.
  Contexts of two, one and no accessors are blended by how often each was seen (prediction by partial matching,
  escape C: Moffat 1990); a context counts how often its last accessor has stayed;
- the *habit*: how often each node has used this block lately.
Their weights follow from how well each foretold what came (Bayes, with forgetting): a table where rows have a home
goes by habit, one where they wander by the way.
"""

from __future__ import annotations

from collections.abc import Mapping

CONTEXT = 2
STAYED_MAX = 4  # a stay counted so far: longer ones look the same
COUNT_MAX = 256  # then a context's counts are halved: what is learned can be unlearned
FORGET = 0.98  # weights remember about fifty accesses
FLOOR = 0.01  # of a probability, so that one surprise does not settle the weights
WEIGHT_MIN = 1e-3
Context = tuple[str, ...]


class NextAccessor:
    """One table's model. Learns by `learn`, answers by `predict`; memory: contexts x nodes counts.

    `recent` is a block's context, made by `after`; `habit` maps node -> how often it has used the block lately.
    """

    def __init__(self) -> None:
        self._counts: dict[Context, dict[str, int]] = {}
        self.way_weight = 0.5

    def learn(self, recent: Context, habit: Mapping[str, float], node: str) -> None:
        """Note that `node` came next."""
        if recent and habit:
            way = self._way(recent).get(node, 0.0) + FLOOR
            own = habit.get(node, 0.0) / (sum(habit.values()) or 1.0) + FLOOR
            one, other = self.way_weight**FORGET * way, (1 - self.way_weight) ** FORGET * own
            self.way_weight = min(1 - WEIGHT_MIN, max(WEIGHT_MIN, one / (one + other)))
        for context in _contexts(recent):
            counts = self._counts.setdefault(context, {})
            counts[node] = counts.get(node, 0) + 1
            if counts[node] > COUNT_MAX:
                self._counts[context] = {n: count // 2 for n, count in counts.items() if count > 1}

    def predict(self, recent: Context, habit: Mapping[str, float]) -> dict[str, float]:
        """Node -> probability that it comes next; empty before anything was learned. Sums to at most 1."""
        total = sum(habit.values())
        weight = self.way_weight if total else 1.0
        shares = {node: weight * share for node, share in self._way(recent).items()}
        for node, uses in habit.items() if total else ():
            shares[node] = shares.get(node, 0.0) + (1 - weight) * uses / total
        return shares

    def _way(self, recent: Context) -> dict[str, float]:
        shares: dict[str, float] = {}
        left = 1.0
        for context in _contexts(recent):
            counts = self._counts.get(context)
            if not counts:
                continue
            total, kinds = sum(counts.values()), len(counts)
            for node, count in counts.items():
                shares[node] = shares.get(node, 0.0) + left * count / (total + kinds)
            left *= kinds / (total + kinds)
        return shares


def _contexts(recent: Context) -> list[Context]:
    """The context and its ends, the longest first; the last of them is empty."""
    return [recent[start:] for start in range(len(recent))] + [()] if recent else [()]


def after(recent: Context, node: str) -> Context:
    """The context once `node` has come: the accessors, newest last, each once, and how long the last has stayed."""
    nodes, stayed = recent[:-1], recent[-1:] or ("0",)
    if nodes and nodes[-1] == node:
        return (*nodes, str(min(STAYED_MAX, int(stayed[0]) + 1)))
    return (*nodes[1 - CONTEXT :], node, "1")


def likeliest(shares: Mapping[str, float]) -> tuple[str, float]:
    """The likeliest node and its probability; of equals the last by name. ("", 0) for no shares."""
    return max(shares.items(), key=lambda each: (each[1], each[0]), default=("", 0.0))
