"""A TCP proxy that holds back every byte for a while: a target far away. `python -m benchmarks.proxy PORT MS`.

Prints its own port and serves until it is killed. `MS` is added to each direction.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial

CHUNK_BYTES = 64 * 1024
QUEUED_CHUNKS_MAX = 1024


async def _serve(port: int, delay_s: float) -> None:
    server = await asyncio.start_server(partial(_connect, port, delay_s), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _connect(port: int, delay_s: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(_carry(reader, far_writer, delay_s), _carry(far_reader, writer, delay_s))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Carry bytes one way; each chunk leaves `delay_s` after it came."""
    chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_CHUNKS_MAX)
    loop = asyncio.get_running_loop()

    async def leave() -> None:
        while True:
            due_s, data = await chunks.get()
            await asyncio.sleep(due_s - loop.time())
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    leaving = asyncio.create_task(leave())
    try:
        while data := await reader.read(CHUNK_BYTES):
            await chunks.put((loop.time() + delay_s, data))
    except ConnectionError:
        pass  # the other direction ends with it
    await chunks.put((loop.time() + delay_s, b""))
    await asyncio.wait([leaving])


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
