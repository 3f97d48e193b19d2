"""Cutting a batch: a new ChangeBatch with some of its transactions, in the same order."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from schemas.change_batch import TRUNCATE, ChangeBatch, LogicalMessage, Section
from schemas.packed import INT32, gather, pick, pick_bytes, rows_of


def select(batch: ChangeBatch, transactions: Sequence[int]) -> ChangeBatch:
    """Return a batch with the transactions of the given indexes (increasing).

    Ranks are kept, so the order among the chosen changes is the source's.
    """
    wanted = array(INT32, transactions)
    sections = [_cut_rows(section, *rows_of(section.tx, wanted)) for section in batch.sections]
    return replace(
        batch,
        positions=pick(batch.positions, wanted),
        commit_times_us=pick(batch.commit_times_us, wanted),
        source_ids=pick(batch.source_ids, wanted),
        sections=[section for section in sections if section.ops],
        messages=_select_messages(batch.messages, wanted) if batch.messages else [],
    )


def split(batch: ChangeBatch, before: int) -> tuple[ChangeBatch | None, ChangeBatch]:
    """Cut off the first `before` transactions, which are whole (None: there are none); the rest goes on behind them.

    Where the source goes on after the first ones is the caller's to say; where it does after the rest is unchanged.
    """
    if not before:
        return None, batch
    first, rest = select(batch, range(before)), select(batch, range(before, len(batch.positions)))
    first.last_part, first.end_position = True, 0
    rest.previous_position = first.last_position
    return first, rest


def without_truncates(section: Section) -> Section:
    """Return the section's row changes alone."""
    if TRUNCATE not in section.ops:
        return section
    rows = array(INT32, [n for n, op in enumerate(section.ops) if op != TRUNCATE])
    return _cut_rows(section, rows, pick(section.tx, rows))


def _select_messages(messages: Sequence[LogicalMessage], wanted: array[int]) -> list[LogicalMessage]:
    renumber = {old: new for new, old in enumerate(wanted)}
    return [LogicalMessage(renumber[m.tx], m.order, m.prefix, m.content) for m in messages if m.tx in renumber]


def _cut_rows(section: Section, rows: array[int], tx: array[int]) -> Section:
    """The given rows, which belong to transactions `tx`."""
    keys, key_offsets = gather(section.keys, section.key_offsets, rows)
    blob, row_offsets = gather(section.rows, section.row_offsets, rows)
    chosen = Section(
        section.relation, pick_bytes(section.ops, rows), tx, pick(section.order, rows),
        keys, key_offsets, blob, row_offsets,
    )  # fmt: skip
    if section.old_index or section.mask_index:
        _select_sparse(section, chosen, rows)
    return chosen


def _select_sparse(section: Section, chosen: Section, rows: array[int]) -> None:
    old, masks = section.old_key_map(), section.mask_map()
    old_rows = [(new, old[row]) for new, row in enumerate(rows) if row in old]
    mask_rows = [(new, masks[row]) for new, row in enumerate(rows) if row in masks]
    chosen.old_index = array(INT32, [new for new, _ in old_rows])
    chosen.old_keys = b"".join([key for _, key in old_rows])
    chosen.old_offsets = array(INT32, accumulate((len(key) for _, key in old_rows), initial=0))
    chosen.mask_index = array(INT32, [new for new, _ in mask_rows])
    chosen.masks = b"".join([mask for _, mask in mask_rows])
