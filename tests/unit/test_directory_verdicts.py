"""Where a block should be: counts, predictions, verdicts, and the decider that puts them together."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from pipeline.directory.activity import HALF_LIFE_US, Activity, HeavyHitters
from pipeline.directory.block import BlockId
from pipeline.directory.decider import REQUESTS_MAX, Decider
from pipeline.directory.members import HASHED, Affinity
from pipeline.directory.prediction import NextAccessor, after, likeliest
from pipeline.directory.verdicts import DEFAULT, Policy, judge, localized, predicted, resident
from schemas.grd_accesses import BlockAccesses, GrdAccesses
from schemas.grd_affinity import MEMBERS, GrdAffinity

NODES = frozenset("abc")
SECOND_US = 1_000_000
START_US = 1_700_000_000 * SECOND_US


def block(bucket: int) -> BlockId:
    return BlockId("s", "public", "item", bucket)


def activity(**uses: tuple[int, int]) -> Activity:
    """Steady accesses of two minutes: reads and writes a second by node."""
    made = Activity()
    for second in range(120):
        for node, (reads, writes) in uses.items():
            made.note(node, reads, writes, second * SECOND_US)
    return made


# -- counts ------------------------------------------------------------------------------------------


def test_a_steady_rate_is_found_and_forgotten_by_halves() -> None:
    found = activity(a=(10, 0), b=(0, 3))
    assert found.rates()["a"] == pytest.approx(10, rel=0.1)
    assert found.write_share() == pytest.approx(3 / 13, rel=0.01)
    before = found.rates()["a"]
    found.decay_to(found.at_us + HALF_LIFE_US)
    assert found.rates()["a"] == pytest.approx(before / 2)
    found.decay_to(0)
    assert found.rates()["a"] == pytest.approx(before / 2)


def test_heavy_hitters_are_kept_whatever_else_passes() -> None:
    rng = random.Random(5)
    hitters, true = HeavyHitters(20), Counter[BlockId]()
    for _ in range(20_000):
        key = block(rng.randrange(10)) if rng.random() < 0.6 else block(rng.randrange(10, 5000))
        true[key] += 1
        hitters.note(key, 1)
    assert len(hitters.counts) == len(hitters.activities) == 20
    assert {block(n) for n in range(10)} <= hitters.counts.keys()
    assert all(true[key] <= count <= true[key] + 20_000 / 20 for key, count in hitters.counts.items())


def test_old_fame_passes() -> None:
    hitters = HeavyHitters(2)
    hitters.note(block(1), 1000)
    for _ in range(10):
        hitters.age()
    hitters.note(block(2), 10)
    hitters.note(block(3), 1)
    assert hitters.counts.keys() == {block(2), block(3)}


# -- prediction --------------------------------------------------------------------------------------


def context(nodes: str) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    for node in nodes:
        found = after(found, node)
    return found


def test_a_context_is_the_way_between_nodes_and_the_last_stay() -> None:
    assert context("") == ()
    assert context("a") == ("a", "1")
    assert context("abbb") == ("a", "b", "3")
    assert context("abc") == ("b", "c", "1")
    assert context("a" * 99) == context("aaaa")


def test_a_way_between_nodes_is_learned_for_blocks_never_seen() -> None:
    model = NextAccessor()
    for _ in range(30):
        for step in range(6):
            model.learn(context("aabbcc"[:step]), {}, "aabbcc"[step])
    assert likeliest(model.predict(context("a"), {}))[0] == "a"
    assert likeliest(model.predict(context("aa"), {}))[0] == "b"
    node, probability = likeliest(model.predict(context("aabb"), {}))
    assert node == "c"
    assert probability > 0.9
    assert sum(model.predict(context("aabb"), {"a": 2.0, "b": 2.0}).values()) <= 1.0 + 1e-9


def test_what_changes_is_learned_anew() -> None:
    model = NextAccessor()
    for node in "b" * 2000 + "c" * 600:
        model.learn(context("a"), {}, node)
    assert likeliest(model.predict(context("a"), {}))[0] == "c"


def test_habit_counts_where_rows_have_a_home_and_the_way_where_they_wander() -> None:
    rng, home, way = random.Random(3), NextAccessor(), NextAccessor()
    recent: tuple[str, ...] = ()
    for _ in range(300):
        node = "a" if rng.random() < 0.8 else rng.choice("bc")
        home.learn(recent, {"a": 8.0, "b": 1.0, "c": 1.0}, node)
        recent = after(recent, node)
    recent = ()
    for node in "abc" * 100:
        way.learn(recent, {"a": 1.0, "b": 1.0, "c": 1.0}, node)
        recent = after(recent, node)
    assert way.way_weight > 0.9
    assert home.way_weight < way.way_weight
    assert likeliest(home.predict(context("ab"), {"b": 9.0, "a": 1.0}))[0] in "ab"


def test_nothing_is_predicted_before_anything_was_seen() -> None:
    assert likeliest(NextAccessor().predict(context("a"), {})) == ("", 0.0)


# -- verdicts ----------------------------------------------------------------------------------------


def test_a_move_has_to_beat_its_cost_by_the_margin() -> None:
    policy = Policy(remote_us=1000, move_us=10_000, horizon_s=1.0)
    found = localized("a", {"a": 1.0, "b": 15.0}, policy)
    assert found is not None
    assert (found.master, found.gain_us) == ("b", 14_000.0)
    assert found.reason == "b uses it 15.0 times a second, a 1.0"
    assert localized("a", {"a": 1.0, "b": 14.0}, policy) is None
    assert localized("b", {"a": 1.0, "b": 14.0}, policy) is None


def test_a_prediction_has_to_beat_the_best_share_by_the_margin() -> None:
    rates = {"a": 6.0, "b": 4.0}
    found = predicted("a", rates, ("b", 0.79))
    assert found is not None
    assert (found.master, found.reason) == ("b", "b comes next with 79%, the best share is 60%")
    assert found.gain_us == pytest.approx((0.79 - 0.6) * 10 * 500)
    assert predicted("a", rates, ("b", 0.77)) is None
    assert predicted("b", rates, ("b", 0.95)) is None
    assert predicted("a", rates, ("", 0.0)) is None


def test_a_block_that_moves_to_and_fro_stays_ever_longer() -> None:
    found = Activity(moved_us=100, moves=1.0)
    assert resident(found, 100 + DEFAULT.residency_us - 1)
    assert not resident(found, 100 + DEFAULT.residency_us)
    found.moves = 3.0
    assert resident(found, 100 + 4 * DEFAULT.residency_us - 1)
    found.moves = 1e9
    assert not resident(found, 100 + DEFAULT.residency_us_max)


def test_what_nobody_uses_stays() -> None:
    assert judge("a", HASHED, Activity(), NODES, ("", 0.0), 0) is None


def test_accesses_of_nodes_that_left_do_not_count() -> None:
    assert judge("a", HASHED, activity(a=(0, 2), d=(0, 90)), NODES, ("", 0.0), 120 * SECOND_US) is None


def test_what_is_read_by_several_and_hardly_written_is_shared() -> None:
    found = judge("a", HASHED, activity(a=(10, 0), b=(10, 0), c=(1, 0)), NODES, ("", 0.0), 120 * SECOND_US)
    assert found is not None
    assert (found.master, found.read_mostly, found.holders) == ("a", True, ("a", "b"))


def test_sharing_ends_with_writes_and_not_with_a_few() -> None:
    shared = Affinity("a", 5, read_mostly=True, holders=("a", "b"))
    few = activity(a=(19, 0), b=(19, 1))
    assert judge("a", shared, few, NODES, ("", 0.0), 120 * SECOND_US) is None
    found = judge("a", shared, activity(a=(10, 0), b=(10, 5)), NODES, ("", 0.0), 120 * SECOND_US)
    assert found is not None
    assert (found.read_mostly, found.holders, found.reason) == (False, (), "20% of the accesses write: shared no more")


# -- the decider -------------------------------------------------------------------------------------


def decider(policy: Policy = DEFAULT) -> Decider:
    made = Decider(policy)
    made.directory.catch_up()
    for record in made.set_members("abc", START_US):
        made.load(record)
    return made


def report(made: Decider, node: str, *blocks: BlockId, writes: int = 50, now_us: int = START_US) -> None:
    made.observe(GrdAccesses(node, now_us, tuple(BlockAccesses(str(key), 0, writes) for key in blocks)), now_us)


def remote(made: Decider, count: int, node: str = "b") -> list[BlockId]:
    """Blocks that another node than `node` owns."""
    return [key for key in map(block, range(10 * count)) if made.directory.owner(key).node != node][:count]


def test_decisions_are_numbered_and_told_to_each_destination_at_once() -> None:
    made = decider()
    for node in "bcbc":
        report(made, node, *remote(made, 5, node)[:5])
    records = made.decide(START_US + SECOND_US)
    assert [record.epoch for record in records] == list(range(records[0].epoch, records[0].epoch + len(records)))
    assert records[0].epoch > made.last_epoch
    assert [record.master for record in records] == sorted(record.master for record in records)
    for record in records:
        made.load(record)
        assert made.directory.owner(BlockId.parse(record.block)).node == record.master
    assert not made.decide(START_US + 2 * SECOND_US)


def test_the_budget_keeps_the_best() -> None:
    made = decider(Policy(moves_burst=3, moves_per_s=1))
    keys = remote(made, 10)
    for n, key in enumerate(keys):
        report(made, "b", key, writes=50 + 10 * n)
    first = made.decide(START_US + SECOND_US)
    assert {record.block for record in first} == {str(key) for key in keys[-3:]}
    for record in first:
        made.load(record)
    assert not made.decide(START_US + SECOND_US)
    assert len(made.decide(START_US + 3 * SECOND_US)) == 2


def test_the_next_decider_goes_on_where_the_last_one_was() -> None:
    one, other = decider(), Decider()
    keys = remote(one, 3)
    report(one, "b", *keys)
    records = one.decide(START_US + SECOND_US)
    assert len(records) == 3
    for record in [*records, GrdAffinity(MEMBERS, "", one.last_epoch, False, ("a", "b", "c"))]:
        other.load(record)
    other.directory.catch_up()
    assert {other.directory.owner(key).node for key in keys} == {"b"}
    for _ in range(5):  # the moves were a moment ago: they stay, whoever asks
        report(other, "c", *keys, writes=500, now_us=START_US + 2 * SECOND_US)
    assert not other.decide(START_US + 2 * SECOND_US)
    assert other.decide(START_US + 2 * SECOND_US + DEFAULT.residency_us)[0].master == "c"
    assert other.set_members("ab", START_US)[0].epoch > records[-1].epoch


def test_a_move_asked_for_from_outside_is_decided_and_stays() -> None:
    made = decider()
    key = remote(made, 1, "c")[0]
    report(made, "b", key)
    made.request(GrdAffinity(str(key), "c", 0, False, ()))
    record = made.decide(START_US)[0]
    assert (record.master, record.reason) == ("c", "asked for from outside")
    made.load(record)
    assert not made.decide(START_US + SECOND_US)


@pytest.mark.parametrize(
    ("text", "master", "epoch"), [("nonsense", "a", 0), ("s/public/item/1", "z", 0), ("s/public/item/1", "a", 3)]
)
def test_other_requests_are_refused_and_counted(text: str, master: str, epoch: int) -> None:
    made = decider()
    made.request(GrdAffinity(text, master, epoch, False, ()))
    assert not made.decide(START_US)
    assert made.refused == 1


def test_requests_are_bounded() -> None:
    made = decider()
    for n in range(REQUESTS_MAX + 5):
        made.request(GrdAffinity(str(block(n)), "a", 0, False, ()))
    assert made.refused == 5


def test_members_are_written_when_they_change_and_never_emptied() -> None:
    made = decider()
    assert not made.set_members("cba", START_US)
    assert not made.set_members("", START_US)
    assert made.set_members("abd", START_US)[0].reason == "came: d; left: c"
