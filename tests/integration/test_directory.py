"""The directory on a real broker: who writes, who takes part, what moves, and what outlives whom."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from headrace.cli import app as cli
from headrace.embedded import EmbeddedKafka
from pipeline.directory.block import BlockId, partition_of
from pipeline.directory.members import Members
from schemas.grd_accesses import BlockAccesses, GrdAccesses, encode_accesses
from schemas.grd_affinity import MEMBERS, GrdAffinity, encode_affinity
from tests.support.fixtures import MakeRig
from tests.support.rig import Rig
from tests.support.topics import write_topic
from tests.support.waiting import until
from tests.support.writing import commit_each
from topologies.decision_log import DecisionLog, FencedError, read_to_end
from topologies.directory_follower import DirectoryFollower
from topologies.kafka import make_admin
from topologies.settings import Settings
from topologies.topics import KEYED_PARTITIONS, ensure_topics

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
def rig(kafka: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """A stream whose databases nobody needs, with the directory on."""
    monkeypatch.setenv("HEADRACE_DIRECTORY__ENABLED", "true")
    monkeypatch.setenv("HEADRACE_DIRECTORY__RESIDENCY_S", "1")
    with Rig(tmp_path, kafka.bootstrap_servers, NO_DATABASE, NO_DATABASE) as made:
        ensure_topics(make_admin(made.settings), made.settings)
        yield made


def block(bucket: int) -> BlockId:
    return BlockId("s", "public", "item", bucket)


def test_a_partition_has_one_writer(rig: Rig) -> None:
    first, second = DecisionLog(rig.settings, 3), DecisionLog(rig.settings, 3)
    members = GrdAffinity(MEMBERS, "", 5, False, ("a", "b"))
    assert first.open() == []
    first.write([members])
    assert second.open() == [members]
    with pytest.raises(FencedError, match="partition 3: another process decides here now"):
        first.write([GrdAffinity("s/t/x/1", "a", 6, False, ())])
    second.write([GrdAffinity("s/t/x/1", "b", 6, False, ()), GrdAffinity("s/t/x/1", "a", 7, False, ())])
    assert [record.epoch for record in first.open()] == [5, 6, 7]


def test_what_an_unfinished_writer_sent_is_not_read(rig: Rig) -> None:
    first, second = DecisionLog(rig.settings, 2), DecisionLog(rig.settings, 2)
    first.open()
    producer = first._producer
    assert producer is not None
    producer.begin_transaction()
    producer.produce(rig.settings.topic("grd-affinity"), encode_affinity(GrdAffinity("*", "", 9, False, ("z",))),
                     key="*", partition=2)  # fmt: skip
    assert producer.flush(40) == 0
    assert second.open() == []
    assert read_to_end(rig.settings, [2]) == []


class Reporter:
    """Says that nodes use blocks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "log_level": 0})

    def report(self, node: str, blocks: list[BlockId], writes: int = 100) -> None:
        for key in blocks:
            report = GrdAccesses(node, 0, (BlockAccesses(str(key), 0, writes),))
            self._producer.produce(
                self._settings.topic("grd-accesses"), encode_accesses(report),
                partition=partition_of(key, KEYED_PARTITIONS),
            )  # fmt: skip
        assert self._producer.flush(40) == 0


def test_blocks_follow_their_users_and_outlive_deciders_and_nodes(rig: Rig) -> None:
    settings, reporter = rig.settings, Reporter(rig.settings)
    rig.start("affinity", "affinity-2")
    with ExitStack() as stack:
        nodes = {name: DirectoryFollower(settings, node=name) for name in "ab"}
        for node in nodes.values():
            node.start()
            stack.callback(node.stop)
        seen = nodes["a"].directory
        until(lambda: all(seen.partition_members(p).nodes == {"a", "b"} for p in range(KEYED_PARTITIONS)), "a, b")
        mine = [key for key in map(block, range(60)) if seen.owner(key).node == "a"][:12]
        assert len({partition_of(key, KEYED_PARTITIONS) for key in mine}) > 3

        def moved_to(node: str, blocks: list[BlockId]) -> bool:
            reporter.report(node, blocks)
            return all(each.owner(key).node == node for each in nodes.values() for key in blocks)

        until(lambda: moved_to("b", mine), "the blocks go to b")
        before = {key: seen.owner(key).epoch for key in mine}

        rig.kill("affinity", "affinity-2")
        until(lambda: moved_to("a", mine[:4]), "new deciders go on")
        assert all(seen.owner(key).epoch > before[key] for key in mine[:4])
        assert all(seen.owner(key).epoch == before[key] for key in mine[4:])

        event = GrdAffinity(str(mine[5]), "a", 0, False, (), {}, "told by another system")
        wrong = (partition_of(mine[5], KEYED_PARTITIONS) + 1) % KEYED_PARTITIONS
        write_topic(settings, "grd-accesses", [b"damaged", encode_affinity(event)], wrong)
        until(lambda: seen.owner(mine[5]).node == "a", "an event from outside is taken, wherever it lies")

        nodes["b"].stop()
        until(lambda: all(seen.owner(key).node == "a" for key in mine), "a takes over what b had")
    rig.stop("affinity", "affinity-2")
    check_history(settings)


def check_history(settings: Settings) -> None:
    """Every epoch of a partition was given once, in order, and each member set names somebody."""
    epochs: dict[int, list[int]] = {}
    for partition, record in read_to_end(settings, range(KEYED_PARTITIONS)):
        epochs.setdefault(partition, []).append(record.epoch)
        assert record.block != MEMBERS or Members(record.holders, record.epoch).nodes
    assert all(found == sorted(set(found)) for found in epochs.values())


def test_a_decider_that_was_fenced_comes_back(rig: Rig) -> None:
    rig.start("affinity")
    node = DirectoryFollower(rig.settings, node="a")
    node.start()
    try:
        until(lambda: node.directory.partition_members(0).nodes == {"a"}, "a is a member")
        rogue = DecisionLog(rig.settings, 0)
        known = rogue.open()
        rogue.write([GrdAffinity(MEMBERS, "", known[-1].epoch + 1, False, ("z",))])
        until(lambda: node.directory.partition_members(0).nodes == {"z"}, "the rogue is believed")
        other = DirectoryFollower(rig.settings, node="b")
        other.start()
        until(lambda: node.directory.partition_members(0).nodes == {"a", "b"}, "the group is believed again")
        with pytest.raises(FencedError):
            rogue.write([GrdAffinity(MEMBERS, "", 1 << 43, False, ("z",))])
        other.stop()
    finally:
        node.stop()


def test_replication_with_two_nodes_and_the_commands(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_DIRECTORY__ENABLED", "true")
    rig = make_rig(source={"linger_ms": 50}, target={"lanes": 4})
    rig.both("CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL)")
    rig.environment["apply-2"] = {"HEADRACE_CACHE__NODE": "second"}
    rig.start("capture", "plan", "apply", "apply-2", "affinity")
    config, runner = ["-c", str(rig.config_path)], CliRunner()
    rig.source("INSERT INTO item SELECT n, 0 FROM generate_series(1, 2000) n")
    rig.wait_until_applied()  # the snapshot: it says nothing about who uses what
    for step in range(3):
        commit_each(rig, *(f"UPDATE item SET n = {step} WHERE id = {n}" for n in range(1, 200)))
    rig.wait_until_equal("item")

    everything = ["--count", "1000", *config]  # the topics have the blocks of other tests too
    names: list[str] = []

    def shows_all() -> bool:
        result = runner.invoke(cli, ["directory", "top", "--json", *everything])
        assert result.exit_code == 0, result.exception
        found = json.loads(result.stdout)
        names.extend(use["block"] for use in found["blocks"] if use["block"].startswith(f"{rig.stream}/public/item/"))
        return found["members"] == ["local", "second"] and bool(names)

    until(shows_all, "top shows members and blocks")
    assert "members: local, second" in runner.invoke(cli, ["directory", "top", *config]).stdout
    name = names[0]
    moved = runner.invoke(cli, ["directory", "move", name, "second", *config])
    assert moved.exit_code == 0, moved.exception
    assert "master second" in moved.stdout
    assert "by hand" in runner.invoke(cli, ["directory", "show", name, *config]).stdout
    refused = runner.invoke(cli, ["directory", "move", name, "third", *config])
    assert "no node 'third' takes part" in str(refused.exception)
    rig.wait_until_equal("item")
