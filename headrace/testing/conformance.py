"""What every source connector must do, as tests to inherit: chain, order, whole transactions, going on after a crash.

    class TestSqlite(SourceConformance):
        @pytest.fixture(autouse=True)
        def database(self, tmp_path): ...

        def source(self): return SqliteSource("shop", SourceSettings(self.dsn, ("public.item",)))
        def write(self, *statements): ...

The database has a table `item` with the columns `id` (an integer, the primary key) and `name` (text, not null), and
nobody else writes to it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import closing
from functools import partial

from connectors.postgres.values import decode_row
from connectors.source import Source, Tail
from pipeline.chain import Chain, Verdict
from schemas.change_batch import DELETE, INSERT, TRUNCATE, UPDATE, ChangeBatch, Section, iter_order
from schemas.change_batch_codec import decode_batch, encode_batch
from schemas.rows import key_fields

WAIT_S = 40.0
Items = dict[str, str]


class Follower:
    """Reads a source as planner and lanes would: through records, by the chain, a transaction at a time."""

    def __init__(self) -> None:
        self.chain = Chain("conformance", 0, 0)
        self.items: Items = {}
        self.states: list[Items] = []  # after each transaction
        self.last: ChangeBatch | None = None

    @property
    def running(self) -> bool:
        """Whether the snapshot is over."""
        return self.last is not None and self.last.kind == "live"

    def has(self, item: int) -> bool:
        """Whether the item is there, and the snapshot over."""
        return self.running and str(item) in self.items

    @property
    def tail(self) -> Tail | None:
        """Where a capture would go on."""
        last = self.last
        if last is None:
            return None
        return Tail(last.generation, last.last_position, last.kind == "snapshot", last.end_position)

    def follow(self, source: Source, until: Callable[[Follower], bool]) -> None:
        """Read until the condition holds. Fails after 40 s."""
        deadline_s = time.monotonic() + WAIT_S
        for batch in source.batches(self.tail):
            if batch is not None:
                self._take(decode_batch(encode_batch(batch)))
            if until(self):
                return
            assert time.monotonic() < deadline_s, f"{self.items} after {WAIT_S:g} s"

    def _take(self, batch: ChangeBatch) -> None:
        link = self.chain.offer(batch)
        assert list(batch.positions) == sorted(set(batch.positions)), "positions grow"
        assert batch.part > 0 or all(p > batch.previous_position for p in batch.positions), "a batch is behind the last"
        self.last = batch
        if link.verdict is Verdict.REPEAT:
            return
        previous = -1
        for _, number, row in iter_order(batch):
            section = batch.sections[number]
            if section.tx[row] != previous >= 0:
                self.states.append(dict(self.items))
            previous = section.tx[row]
            if previous >= link.first:
                self._change(section, row)
        if batch.last_part:
            self.states.append(dict(self.items))

    def _change(self, section: Section, row: int) -> None:
        op, relation = section.ops[row], section.relation
        if op == TRUNCATE:
            self.items.clear()
            return
        if op in (UPDATE, DELETE):
            key = section.old_key_map().get(row, section.key_list()[row])
            del self.items[_text(section, key)]
        if op in (INSERT, UPDATE):
            values = decode_row(relation, section.row_list()[row])
            assert str(values["id"]) not in self.items, f"{values} is there already"
            self.items[str(values["id"])] = str(values["name"])


def _text(section: Section, key: bytes) -> str:
    """The key's one value as text."""
    column = next(column for column in section.relation.columns if column.key)
    (field,) = key_fields(key, 1)
    assert field is not None, "a key is never NULL"
    return str(int.from_bytes(field, "big", signed=True)) if column.binary else field.decode()


class SourceConformance(ABC):
    """Inherit it, and name the class Test...; see the module."""

    @abstractmethod
    def source(self) -> Source:
        """A new source of the table, as a capture would make it; all of them are of one stream."""

    @abstractmethod
    def write(self, *statements: str) -> None:
        """Run the statements in one transaction."""

    def test_a_stream_begins_with_the_rows_there_are(self) -> None:
        self.write("INSERT INTO item VALUES (1, 'one'), (2, 'two')")
        reader = Follower()
        with closing(self.source()) as source:
            reader.follow(source, lambda seen: seen.running)
        assert reader.items == {"1": "one", "2": "two"}
        assert reader.chain.generation > 0

    def test_changes_come_in_order_and_whole(self) -> None:
        self.write("INSERT INTO item VALUES (1, 'one')")
        reader = Follower()
        with closing(self.source()) as source:
            reader.follow(source, lambda seen: seen.running)
        self.write("INSERT INTO item VALUES (2, 'two'), (3, 'three')", "UPDATE item SET name = 'ONE' WHERE id = 1")
        self.write("UPDATE item SET id = 30 WHERE id = 3", "DELETE FROM item WHERE id = 2")
        self.write("INSERT INTO item VALUES (2, 'žába 🐸')")
        with closing(self.source()) as source:
            reader.follow(source, lambda seen: seen.has(30) and seen.has(2))
        assert reader.items == {"1": "ONE", "30": "three", "2": "žába 🐸"}
        assert {"1": "one", "2": "two", "3": "three"} not in reader.states, "half a transaction was shown"

    def test_another_capture_goes_on_where_the_last_record_ends(self) -> None:
        reader = Follower()
        for number in range(4):
            self.write(f"INSERT INTO item VALUES ({number}, 'item')")
            with closing(self.source()) as source:
                reader.follow(source, partial(Follower.has, item=number))
        assert reader.items == {str(number): "item" for number in range(4)}

    def test_what_is_confirmed_is_not_needed_again(self) -> None:
        reader = Follower()
        for number in range(4):
            self.write(f"INSERT INTO item VALUES ({number}, 'item')")
            with closing(self.source()) as source:
                reader.follow(source, partial(Follower.has, item=number))
                assert reader.last is not None
                source.confirm(reader.last.end_position)
        assert len(reader.items) == 4

    def test_what_is_read_and_not_kept_comes_again(self) -> None:
        reader = Follower()
        with closing(self.source()) as source:
            reader.follow(source, lambda seen: seen.running)
        self.write("INSERT INTO item VALUES (1, 'one')")
        lost = Follower()
        lost.chain, lost.last = Chain("lost", reader.chain.generation, reader.chain.position), reader.last
        with closing(self.source()) as source:
            lost.follow(source, lambda seen: seen.has(1))
        with closing(self.source()) as source:
            reader.follow(source, lambda seen: seen.has(1))
        assert reader.items == {"1": "one"}

    def test_an_unfinished_snapshot_begins_anew(self) -> None:
        self.write("INSERT INTO item VALUES (1, 'one')")
        reader = Follower()
        with closing(self.source()) as source:
            reader.follow(source, lambda seen: seen.last is not None)
        self.write("DELETE FROM item", "INSERT INTO item VALUES (2, 'two')")
        first = reader.chain.generation
        with closing(self.source()) as source:
            reader.follow(source, lambda seen: seen.running)
        assert reader.items == {"2": "two"}
        assert reader.chain.generation > first

    def test_an_idle_source_comes_back(self) -> None:
        reader, idle = Follower(), 0
        with closing(self.source()) as source:
            reader.follow(source, lambda seen: seen.running)
        with closing(self.source()) as source:
            for batch in source.batches(reader.tail):
                idle += batch is None
                if idle == 3:
                    break
        assert idle == 3
