"""Any partition of a batch's transactions, sliced and put together again, holds the same changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.slicing import select, split
from schemas.change_batch import ChangeBatch, Relation
from schemas.change_batch_codec import decode_batch, encode_batch
from tests.properties.model import Transaction, pack_batch
from tests.properties.strategies import batches, windows

Told = tuple[int, int, Relation, int, bytes, bytes, bytes | None, bytes | None]


def told(batch: ChangeBatch) -> list[Told]:
    """Every change with all that belongs to it: position, rank, relation, operation, key, row, old key, mask."""
    found = []
    for section in batch.sections:
        keys, rows = section.key_list(), section.row_list()
        old, masks = section.old_key_map(), section.mask_map()
        found += [
            (batch.positions[section.tx[n]], section.order[n], section.relation, op, keys[n], rows[n], old.get(n),
             masks.get(n))
            for n, op in enumerate(section.ops)
        ]  # fmt: skip
    return found


def facts(batch: ChangeBatch) -> list[tuple[int, int, int]]:
    return list(zip(batch.positions, batch.commit_times_us, batch.source_ids, strict=True))


def messages(batch: ChangeBatch) -> list[tuple[int, int, str, bytes]]:
    return [(batch.positions[m.tx], m.order, m.prefix, m.content) for m in batch.messages]


def by_text(items: list[Told]) -> list[str]:
    return sorted(map(repr, items))


@given(batches() | windows().map(pack_batch), st.data())
def test_slices_of_any_partition_hold_the_batch(batch: ChangeBatch, data: st.DataObject) -> None:
    count = len(batch.positions)
    colours = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    slices = [select(batch, [n for n in range(count) if colours[n] == colour]) for colour in range(4)]
    slices = [decode_batch(encode_batch(part)) for part in slices if part.positions]
    assert by_text([item for part in slices for item in told(part)]) == by_text(told(batch))
    assert sorted(fact for part in slices for fact in facts(part)) == facts(batch)
    assert sorted(m for part in slices for m in messages(part)) == sorted(messages(batch))
    for part in slices:
        assert list(part.positions) == sorted(part.positions)
        assert all(section.ops for section in part.sections)
        assert (part.stream, part.generation, part.kind) == (batch.stream, batch.generation, batch.kind)
        assert (part.part, part.last_part, part.run) == (batch.part, batch.last_part, batch.run)


@given(batches() | windows().map(pack_batch))
def test_the_whole_batch_as_a_slice(batch: ChangeBatch) -> None:
    whole = select(batch, range(len(batch.positions)))
    whole.sections, kept = [], whole.sections
    assert kept == [section for section in batch.sections if section.ops]
    batch.sections = []
    assert whole == batch


@given(windows(), st.data())
def test_a_slice_of_a_slice(window: list[Transaction], data: st.DataObject) -> None:
    batch = pack_batch(window)
    outer = data.draw(st.lists(st.sampled_from(range(len(window))), unique=True).map(sorted))
    inner = data.draw(st.lists(st.sampled_from(range(len(outer))), unique=True).map(sorted)) if outer else []
    assert select(select(batch, outer), inner) == select(batch, [outer[n] for n in inner])


@given(batches() | windows().map(pack_batch), st.data())
def test_a_batch_in_two_is_one_chain(batch: ChangeBatch, data: st.DataObject) -> None:
    before = data.draw(st.integers(0, max(0, len(batch.positions) - 1)))
    first, rest = split(batch, before)
    parts = [part for part in (first, rest) if part is not None]
    assert by_text([item for part in parts for item in told(part)]) == by_text(told(batch))
    assert [fact for part in parts for fact in facts(part)] == facts(batch)
    assert parts[0].previous_position == batch.previous_position
    assert (rest.last_part, rest.end_position) == (batch.last_part, batch.end_position)
    assert (first is None) == (before == 0)
    if first is not None:
        assert (first.last_part, first.end_position) == (True, 0)
        assert rest.previous_position == first.positions[-1]
