"""Every released version of a record stays readable, and every schema has a fingerprint of its own."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
from fastavro.schema import to_parsing_canonical_form

from schemas.single_object import HEADER_BYTES, MARKER, codec
from tests.unit.golden import DATA, EXPECTED, decode, encode, released_file

SCHEMAS = sorted(
    entry.name.removesuffix(".avsc") for entry in resources.files("schemas").iterdir() if entry.name.endswith(".avsc")
)


def crc_64_avro(data: bytes) -> bytes:
    """The Rabin fingerprint, written from the Avro specification."""
    empty = 0xC15D213AA4D7A795
    table = []
    for n in range(256):
        entry = n
        for _ in range(8):
            entry = (entry >> 1) ^ (empty if entry & 1 else 0)
        table.append(entry)
    crc = empty
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc.to_bytes(8, "little")


def test_there_is_a_schema_for_every_topic() -> None:
    assert sorted(EXPECTED) == SCHEMAS


@pytest.mark.parametrize("name", SCHEMAS)
def test_header_is_the_marker_and_the_fingerprint_of_the_specification(name: str) -> None:
    raw = json.loads(resources.files("schemas").joinpath(f"{name}.avsc").read_text("utf-8"))
    header = codec(name).header
    assert header[:2] == MARKER
    assert header[2:HEADER_BYTES] == crc_64_avro(to_parsing_canonical_form(raw).encode())


def test_fingerprints_differ() -> None:
    assert len({codec(name).header for name in SCHEMAS}) == len(SCHEMAS)


@pytest.mark.parametrize("path", sorted(DATA.glob("*.bin")), ids=lambda path: path.stem)
def test_released_record_is_read(path: Path) -> None:
    name = path.stem.rpartition("-")[0]
    found = decode(name, path.read_bytes())
    if path == released_file(name):
        assert found == EXPECTED[name]


@pytest.mark.parametrize("name", SCHEMAS)
def test_current_version_is_kept_as_a_record(name: str) -> None:
    assert released_file(name).exists(), (
        f"{name}.avsc changed: its fingerprint has no record in {DATA.name}/. If the old version was released, today's "
        "code must still read its record (keep the old schema and resolve it). Then: python -m tests.unit.golden"
    )
    assert released_file(name).read_bytes() == encode(name)
