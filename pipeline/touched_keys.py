"""The keys that the changes of a section touch, cut out of its packed rows."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.conflicts import KeyUse
from pipeline.keyspaces import COARSE
from schemas.change_batch import DELETE, Section
from schemas.rows import key_fields, pack_fields, row_fields


def keys_of(section: Section, use: KeyUse) -> Iterator[tuple[int, bytes]]:
    """Yield (transaction index, key) for each key that the section's changes touch through `use`.

    Values that the source did not log (old unique values under the default replica identity) can't be
    yielded; the dependences they hide are found by the target and resolved by retrying in order.
    """
    if use.coarse:
        wanted = use.ops
        yield from ((tx, COARSE) for tx, op in zip(section.tx, section.ops, strict=True) if op in wanted)
    elif use.identity:
        yield from zip(section.tx, section.key_list(), strict=True)
        tx = section.tx
        yield from ((tx[row], key) for row, key in section.old_key_map().items())
    else:
        yield from _sliced_keys(section, use)


def _sliced_keys(section: Section, use: KeyUse) -> Iterator[tuple[int, bytes]]:
    columns = section.relation.columns
    identity = [n for n, column in enumerate(columns) if column.key]
    if all(column in identity for column in use.columns):
        images = _in_keys(section, tuple(identity.index(column) for column in use.columns), len(identity))
    else:
        images = _in_rows(section, use.columns)
    binary = tuple(columns[column].binary for column in use.columns)
    widths = use.widths if any(use.widths) else ()
    for tx, image in images:
        if None not in image:
            yield tx, _canonical(image, binary, widths)


def _in_keys(section: Section, places: tuple[int, ...], width: int) -> Iterator[tuple[int, list[bytes | None]]]:
    """The wanted fields of the section's keys, old ones too; `places` count the `width` columns of a key."""
    old_keys = section.old_key_map()
    for row, (tx, key) in enumerate(zip(section.tx, section.key_list(), strict=True)):
        yield tx, _pick(key_fields(key, width), places)
        if row in old_keys:
            yield tx, _pick(key_fields(old_keys[row], width), places)


def _in_rows(section: Section, columns: tuple[int, ...]) -> Iterator[tuple[int, list[bytes | None]]]:
    """The wanted fields of the section's rows, where the source logged them."""
    relation = section.relation
    width, whole = len(relation.columns), relation.identity == "f"
    masks = section.mask_map()
    for row, (tx, op, data) in enumerate(zip(section.tx, section.ops, section.row_list(), strict=True)):
        if data and (op != DELETE or whole) and not _masked(masks.get(row), columns):
            yield tx, _pick(row_fields(data, width), columns)


def _pick(fields: list[bytes | None], places: tuple[int, ...]) -> list[bytes | None]:
    return [fields[place] for place in places]


def _masked(mask: bytes | None, columns: tuple[int, ...]) -> bool:
    return mask is not None and any(mask[column >> 3] >> (column & 7) & 1 for column in columns)


def _canonical(fields: list[bytes | None], binary: tuple[bool, ...], widths: tuple[int, ...]) -> bytes:
    if not widths:
        return pack_fields(fields)
    sized = zip(fields, binary, widths, strict=True)
    return pack_fields([_resized(value, is_binary, width) for value, is_binary, width in sized])


def _resized(value: bytes | None, is_binary: bool, width: int) -> bytes | None:
    """An integer as `width` bytes. One that does not fit equals no integer that does: left as it is."""
    if value is None or not width:
        return value
    try:
        number = int.from_bytes(value, "big", signed=True) if is_binary else int(value)
        return number.to_bytes(width, "big", signed=True)
    except (ValueError, OverflowError):
        return value
