"""Avro single-object encoding: two marker bytes, the schema's CRC-64-AVRO fingerprint, the body.

Source: Avro 1.12 specification, "Single-object encoding". The fingerprint is that of the parsing
canonical form, so documentation in an .avsc may change without a new version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from io import BytesIO
from typing import Any, cast

import fastavro
from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form

from schemas.errors import SchemaError

MARKER = b"\xc3\x01"
HEADER_BYTES = 10
# A broker of ours accepts 16 MiB (message.max.bytes); nothing larger can be a record of ours.
RECORD_BYTES_MAX = 16 * 1024 * 1024

Datum = dict[str, Any]  # what fastavro reads and writes: a record is a dict of Avro values
_DECODE_ERRORS = (EOFError, IndexError, KeyError, TypeError, ValueError, OverflowError, MemoryError)


@dataclass(frozen=True, slots=True)
class Codec:
    """Encoder and decoder of one schema. Stateless; safe to share between threads.

    `older` maps the headers of earlier versions, which topics may still hold, to their schemas.
    """

    name: str
    schema: Datum
    header: bytes
    older: Mapping[bytes, Datum]

    def encode(self, datum: Datum) -> bytes:
        """Return the single-object encoding of `datum`.

        Raises SchemaError when a field is missing, of a wrong type, or the record is over the limit.
        """
        out = BytesIO()
        out.write(self.header)
        try:
            fastavro.schemaless_writer(out, self.schema, datum)
        except (*_DECODE_ERRORS, AttributeError) as error:
            raise SchemaError(f"{self.name}: cannot encode: {error!r}") from error
        data = out.getvalue()
        if len(data) > RECORD_BYTES_MAX:
            raise SchemaError(f"{self.name}: {len(data)} bytes, over the limit of {RECORD_BYTES_MAX}")
        return data

    def decode(self, data: bytes) -> Datum:
        """Return the datum in `data`.

        Raises SchemaError for anything that is not exactly one record of this schema.
        """
        if len(data) > RECORD_BYTES_MAX:
            raise SchemaError(f"{self.name}: {len(data)} bytes, over the limit of {RECORD_BYTES_MAX}")
        header = data[:HEADER_BYTES]
        if header != self.header and header not in self.older:
            raise SchemaError(_header_message(self, data))
        body = BytesIO(data)
        body.seek(HEADER_BYTES)
        try:
            if header == self.header:
                datum = fastavro.schemaless_reader(body, self.schema, None)
            else:
                datum = fastavro.schemaless_reader(body, self.older[header], self.schema)
        except _DECODE_ERRORS as error:
            raise SchemaError(f"{self.name}: damaged record of {len(data)} bytes: {error!r}") from error
        if body.tell() != len(data):
            raise SchemaError(f"{self.name}: {len(data) - body.tell()} bytes after the end of the record")
        return cast(Datum, datum)


def _header_message(codec: Codec, data: bytes) -> str:
    if data[:2] != MARKER:
        return f"{codec.name}: not a Headrace record (starts with {data[:2].hex() or 'nothing'})"
    if len(data) < HEADER_BYTES:
        return f"{codec.name}: truncated record of {len(data)} bytes"
    return f"{codec.name}: unknown schema fingerprint {data[2:HEADER_BYTES].hex()}; was it written by a newer version?"


@cache
def codec(name: str) -> Codec:
    """Return the codec of `schemas/<name>.avsc`, which also reads the versions `schemas/old/<name>-*.avsc`."""
    folder = resources.files("schemas")
    header, schema = _parsed(folder.joinpath(f"{name}.avsc"))
    old = [file for file in folder.joinpath("old").iterdir() if file.name.rpartition("-")[0] == name]
    return Codec(str(schema["name"]).rpartition(".")[2], schema, header, dict(map(_parsed, old)))


def _parsed(file: Traversable) -> tuple[bytes, Datum]:
    """The header of a schema's records, and the schema."""
    raw = json.loads(file.read_text("utf-8"))
    crc = bytes.fromhex(fingerprint(to_parsing_canonical_form(raw), "CRC-64-AVRO"))
    return MARKER + crc, cast(Datum, parse_schema(raw))
