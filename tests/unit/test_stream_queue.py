"""A stream whose planner waits holds its own partition back, and only that."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

from faust.types import TP, EventT

from topologies.stream_queue import HOLD_AT, RELEASE_AT, StreamQueue

TOPIC = "changes"


@dataclass
class Message:
    tp: TP


@dataclass
class Event:
    number: int
    message: Message


def event(number: int) -> EventT[bytes]:
    return cast("EventT[bytes]", Event(number, Message(TP(TOPIC, 0))))


class Flow:
    """What a queue did to its partition, and what its planner took."""

    def __init__(self) -> None:
        self.held: list[bool] = []
        self.taken: list[int] = []
        self.go_on = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    def spawn(self, coroutine: Any) -> None:
        self.tasks.append(asyncio.ensure_future(coroutine))

    async def take(self, taken: EventT[bytes]) -> None:
        await self.go_on.wait()
        self.taken.append(cast("Event", taken).number)

    def queue(self) -> StreamQueue:
        return StreamQueue(
            self.take, self.spawn, lambda _: self.held.append(True), lambda _: self.held.append(False)
        )  # fmt: skip


async def settle() -> None:
    for _ in range(HOLD_AT * 4):
        await asyncio.sleep(0)


def test_records_are_taken_in_order_and_a_full_queue_holds_its_partition() -> None:
    async def scene() -> None:
        flow = Flow()
        queue = flow.queue()
        for number in range(HOLD_AT + 1):
            queue.put(event(number))
        await settle()
        assert flow.taken == []
        assert flow.held[:1] == [True]
        flow.go_on.set()
        await settle()
        assert flow.taken == list(range(HOLD_AT + 1))
        assert flow.held[-1] is False
        assert len(flow.tasks) == 1

    asyncio.run(scene())


def test_a_short_queue_is_never_held() -> None:
    async def scene() -> None:
        flow = Flow()
        flow.go_on.set()
        queue = flow.queue()
        for number in range(3 * HOLD_AT):
            queue.put(event(number))
            await settle()
        assert flow.taken == list(range(3 * HOLD_AT))
        assert True not in flow.held
        assert RELEASE_AT < HOLD_AT

    asyncio.run(scene())


def test_what_a_lost_partition_had_queued_is_forgotten() -> None:
    async def scene() -> None:
        flow = Flow()
        queue = flow.queue()
        for number in range(5):
            queue.put(event(number))
        await settle()
        queue.clear()
        flow.go_on.set()
        await settle()
        assert flow.taken == [0], "the one that was being taken; its planner has lost the partition too"

    asyncio.run(scene())
