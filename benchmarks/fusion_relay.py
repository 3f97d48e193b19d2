"""A link of a known rate and delay: `python -m benchmarks.fusion_relay JSON` relays connections through a token bucket.

All connections of the relay share the bucket; acknowledgements are only delayed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

CHUNK_BYTES = 16 * 1024
BURST_S = 0.002


class Bucket:
    """A token bucket whose rate changes in equal parts of the time after `begin`."""

    def __init__(self, rates: list[float], seconds: float) -> None:
        self._rates, self._seconds = rates, seconds
        self._began_s: float | None = None
        self._free_s = 0.0

    def begin(self) -> None:
        """The time runs."""
        self._began_s = time.monotonic()

    def rate(self) -> float:
        """Bytes a second now."""
        if self._began_s is None:
            return self._rates[0]
        part = int((time.monotonic() - self._began_s) / self._seconds * len(self._rates))
        return self._rates[min(part, len(self._rates) - 1)]

    async def take(self, size: int) -> None:
        """Wait for `size` bytes' worth of the link."""
        now_s = time.monotonic()
        self._free_s = max(self._free_s, now_s - BURST_S) + size / self.rate()
        if self._free_s > now_s:
            await asyncio.sleep(self._free_s - now_s)


async def relay(ports: dict[str, int], bucket: Bucket, delay_s: float) -> None:
    """Listen on each port and pass to the port that it stands for."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, shaped: bool) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(CHUNK_BYTES):
            if shaped:
                await bucket.take(len(data))
                writer.write(data)
                await writer.drain()
            else:
                loop.call_later(delay_s, writer.write, data)
        writer.close()

    async def accept(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:  # the node is not there yet; whoever connected tries again
            writer.close()
            return
        await asyncio.gather(
            forward(reader, there_writer, shaped=True), forward(there_reader, writer, shaped=False),
            return_exceptions=True,
        )  # fmt: skip

    for listen, port in ports.items():
        await asyncio.start_server(lambda r, w, port=port: accept(port, r, w), "127.0.0.1", int(listen))  # type: ignore[misc]


async def _main() -> None:
    task = json.loads(sys.argv[1])
    bucket = Bucket(task["rates"], task["seconds"])
    await relay(task["ports"], bucket, task["delay_s"])
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    bucket.begin()
    await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(_main())
