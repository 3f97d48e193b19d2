"""One record of every topic, kept as bytes in `data/` under its schema's fingerprint.

A file in `data/` is a released version: records like it lie in topics, so today's code must read them for
ever. `python -m tests.unit.golden` writes the files that are missing, and never touches one that is there.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas.apply_unit import ApplyUnit, decode_unit, encode_unit
from schemas.block_image import encode_rows
from schemas.change_batch import ChangeBatch, Column, LogicalMessage, Relation, Section
from schemas.change_batch_codec import decode_batch, encode_batch
from schemas.dead_letter import DeadLetter, decode_dead_letter, encode_dead_letter
from schemas.fusion_block import FusionBlock, decode_fusion_block, encode_fusion_block
from schemas.grd_accesses import BlockAccesses, GrdAccesses, decode_accesses, encode_accesses
from schemas.grd_affinity import GrdAffinity, decode_affinity, encode_affinity
from schemas.lag import Lag, LagWindow, decode_lag, encode_lag
from schemas.packed import INT32, INT64
from schemas.progress import Failure, Progress, decode_progress, encode_progress
from schemas.role_report import Buffer, Control, RoleReport, decode_report, encode_report
from schemas.rows import pack_fields, pack_row
from schemas.single_object import HEADER_BYTES, codec

DATA = Path(__file__).parent / "data"

_BATCH = ChangeBatch(
    stream="orders", generation=4711, kind="live", previous_position=90, positions=array(INT64, [100, 1 << 40]),
    commit_times_us=array(INT64, [1_700_000_000_000_000, 1_700_000_000_000_001]), source_ids=array(INT64, [7, 8]),
    sections=[
        Section(
            relation=Relation(
                16384, "public", "köln", "d",
                (Column("id", "int8", key=True, binary=True), Column("note", "public.mood", key=False, binary=False)),
            ),
            ops=b"IUD", tx=array(INT32, [0, 1, 1]), order=array(INT32, [0, 1, 3]),
            keys=b"".join(pack_fields([bytes([0] * 7 + [n])]) for n in (1, 2, 3)),
            key_offsets=array(INT32, [0, 12, 24, 36]),
            rows=pack_row([bytes(8), b"a"]) + pack_row([bytes(8), None]), row_offsets=array(INT32, [0, 19, 37, 37]),
            old_index=array(INT32, [1]), old_keys=pack_fields([bytes(8)]), old_offsets=array(INT32, [0, 12]),
            mask_index=array(INT32, [1]), masks=b"\2",
        )
    ],
    end_position=101, captured_us=1_700_000_000_000_002,
    messages=[LogicalMessage(1, 2, "headrace", b"\0mark")],
)  # fmt: skip

# What today's code must find in a record of every schema; bare schemas have no class (yet).
EXPECTED: dict[str, Any] = {
    "change_batch": _BATCH,
    "apply_unit": ApplyUnit(
        "orders", 4711, 3, 2, 9, "serial", 90, {0: 4, 15: 1}, 1_700_000_000_000_003, b"batch",
        ((90, 95), ()),
    ),
    "progress": Progress(
        "orders", 4711, 3, 2, 9, 100, 1_700_000_000_000_000, 1_700_000_000_000_004, 2, 3, 1, {"applied": b"\1\0\0\0"},
        Failure(100, "23505", "duplicate key", poison=False), "disk full",
    ),
    "dead_letter": DeadLetter("orders", 4711, 100, 7, 1_700_000_000_000_000, 5, "23505", "duplicate", [90], b"batch"),
    "lag": Lag(
        "orders", 5, 4, 0.25, "warning", 3, "behind", 3, 2,
        [LagWindow(10, "applied", 100, 400, 0.001, None, 0.5, 0.25, 0.125)],
    ),
    "role_report": RoleReport(
        "orders", "apply/3", 5, 4711, 100, 4, 3, {"visible": b"\1\0\0\0"},
        [Control("active lanes", 2.0, "lanes", 4, "half of the units waited")],
        [Buffer("windows in flight", 7, 64, "windows")],
    ),
    "fusion_block": FusionBlock(
        "orders", "public", "köln", 12, 64, 4711, 100, 2, "a", complete=True,
        columns=(
            Column("id", "int8", key=True, binary=True, number=1),
            Column("note", "varchar", key=False, binary=True, modifier=24, number=3),
        ),
        rows=2, image=encode_rows([(pack_fields([bytes(8)]), pack_row([bytes(8), b"a" * 5000])), (b"gone", None)]),
        oid=16400,
    ),
    "grd_affinity": GrdAffinity(
        "public.köln/12", "a", 2, False, ("a", "b"), {"a": 0.5, "b": 2.0}, "remote accesses", 5
    ),
    "grd_accesses": GrdAccesses("a", 5, (BlockAccesses("orders/public/köln/12", 3, 4),)),
}  # fmt: skip

ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "change_batch": encode_batch, "apply_unit": encode_unit, "progress": encode_progress,
    "dead_letter": encode_dead_letter, "lag": encode_lag, "role_report": encode_report,
    "fusion_block": encode_fusion_block, "grd_affinity": encode_affinity, "grd_accesses": encode_accesses,
}  # fmt: skip
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "change_batch": decode_batch, "apply_unit": decode_unit, "progress": decode_progress,
    "dead_letter": decode_dead_letter, "lag": decode_lag, "role_report": decode_report,
    "fusion_block": decode_fusion_block, "grd_affinity": decode_affinity, "grd_accesses": decode_accesses,
}  # fmt: skip


def encode(name: str) -> bytes:
    """The expected record of a schema as today's code writes it."""
    return ENCODERS.get(name, codec(name).encode)(EXPECTED[name])


def decode(name: str, data: bytes) -> Any:
    """The content of a record as today's code reads it."""
    return DECODERS.get(name, codec(name).decode)(data)


def released_file(name: str) -> Path:
    """Where the record of a schema's current version is kept."""
    return DATA / f"{name}-{codec(name).header[2:HEADER_BYTES].hex()}.bin"


def write_missing() -> None:
    """Write the records that are not there yet."""
    for name in EXPECTED:
        if not released_file(name).exists():
            released_file(name).write_bytes(encode(name))


if __name__ == "__main__":
    write_missing()
