"""LZ4 for frames: level 1, above 4 KiB, and only when it shrinks.

`lz4.block` at acceleration 1 is the fast level of the LZ4 manual; the uncompressed size is in our own header,
checked against the frame limit before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Sequence

import lz4.block

from pipeline.fusion.messages import Buffer

SHRINK_MIN = 0.95  # a frame that keeps more than this of its size is not worth decompressing
SKIP_MAX = 32  # frames that go uncompressed, untried, after frames that did not shrink


class Compressor:
    """Compresses bodies; learns to leave incompressible traffic alone."""

    def __init__(self, bytes_min: int) -> None:
        self._bytes_min = bytes_min
        self._skip = 0
        self._back_off = 0
        self.not_shrunk = 0

    def compress(self, bodies: Sequence[Buffer], total: int) -> bytes | None:
        """Return the bodies compressed as one piece, or None to send them as they are."""
        if total <= self._bytes_min:
            return None
        if self._skip:
            self._skip -= 1
            return None
        packed: bytes = lz4.block.compress(b"".join(bodies), mode="fast", acceleration=1, store_size=False)
        if len(packed) > total * SHRINK_MIN:
            self.not_shrunk += 1
            self._back_off = min(SKIP_MAX, self._back_off * 2 or 1)
            self._skip = self._back_off
            return None
        self._back_off = 0
        return packed


def decompress(data: Buffer, raw_bytes: int) -> bytes:
    """Return exactly `raw_bytes` bytes. Raises ValueError; the caller has checked `raw_bytes` against its limit."""
    try:
        raw: bytes = lz4.block.decompress(data, uncompressed_size=raw_bytes)
    except lz4.block.LZ4BlockError as error:
        raise ValueError(f"damaged LZ4 data: {error}") from error
    if len(raw) != raw_bytes:
        raise ValueError(f"{len(raw)} bytes after decompression, {raw_bytes} were announced")
    return raw
