"""Progress records for the planner, read past Faust.

Faust's consumer fetches all of its partitions with one request a broker at a time and hands records over one by one,
so that change records would queue behind the more numerous progress records. Progress is a hint that needs no
group, no offsets and no acknowledgement: a consumer of its own reads it in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from confluent_kafka import Consumer, Message

from topologies.kafka import raise_if_fatal, read_from_end, take
from topologies.settings import Settings

RECORDS_MAX = 100  # handed over at once
POLL_S = 0.1


async def follow_progress(
    settings: Settings, partitions: list[int], take_record: Callable[[int, bytes], Awaitable[None]],
    ready: Callable[[], None], stopping: Callable[[], bool],
) -> None:  # fmt: skip
    """Give each progress record from now on to `take_record`, with its partition, in the running event loop.

    Calls `ready` once it is known where "now" is: what begins afterwards is not missed. Raises RetriableError when the
    client can't go on.
    """
    consumer = await asyncio.to_thread(read_from_end, settings, settings.topic("progress"), partitions)
    ready()
    polling: asyncio.Future[list[Message]] | None = None
    try:
        while not stopping():
            polling = asyncio.ensure_future(asyncio.to_thread(_take, consumer))
            for message in await asyncio.shield(polling):
                partition, value = message.partition(), message.value()
                if partition is not None and value is not None:
                    await take_record(partition, value)
    finally:
        if polling is not None:  # a thread that is not cancelled with this task may be in the consumer
            await asyncio.wait([polling])
        consumer.close()


def _take(consumer: Consumer) -> list[Message]:
    """Records without an error; the errors are logged."""
    found = []
    for message in take(consumer, RECORDS_MAX, POLL_S):
        error = message.error()
        if error is not None:
            raise_if_fatal(error)
        else:
            found.append(message)
    return found
