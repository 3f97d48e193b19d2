"""A process of the fusion benchmark: `python -m benchmarks.fusion_node JSON` sends to its peers and counts.

It uses the product's own link, batcher and receiver. The last line of its output is its result in JSON. Times are
CLOCK_MONOTONIC, which all processes of a machine share, so that latencies are one way: from the offer of a message
to the call that hands it to the receiving node.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.fusion_images import read_blocks
from benchmarks.fusion_task import LINKS, Task, controller, policy
from pipeline.fusion.batcher import CacheFusionBatcher, Frame
from pipeline.fusion.frame import Header
from pipeline.fusion.messages import BackPressureError, Kind, Message, Priority
from topologies.peer_express import Express
from topologies.peer_link import PeerLink
from topologies.peer_wire import Receiver

CONTROL_BYTES = 100
STAMP = struct.Struct("<QQ")  # sent at, ns; number
QUEUED_MAX = 600  # messages that a producer keeps waiting in a link: always a backlog, never a long one
STEP_S = 0.2  # of the recorded series
_TCP_INFO_BYTES = 160
_SEGMENTS_AT = 136  # tcpi_segs_out, tcpi_segs_in in linux/tcp.h


class Node:
    """Sends a mix as fast as the links take it; counts what arrives."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.dice = random.Random(task.seed)
        self.got_bytes = self.got_messages = self.got_frames = 0
        self.damaged = 0
        self.last_numbers: dict[tuple[str, Priority], int] = {}
        self.latencies: dict[str, list[float]] = {priority.name: [] for priority in Priority}
        self.got_by_class: dict[str, int] = {priority.name: 0 for priority in Priority}
        self.links = {
            peer: LINKS.get(task.controller, PeerLink)(
                task.name, peer, f"127.0.0.1:{port}", b"", None, _lose,
                CacheFusionBatcher(peer, time.time_ns(), policy(task), controller(task.controller)),
            )
            for peer, port in task.peers.items()
        }  # fmt: skip
        self.numbers: dict[tuple[str, Priority], int] = {}
        self.blocks = read_blocks(Path(task.blocks))

    # ---- receiving -------------------------------------------------------------------------------

    def arrived(self, peer: str, channel: str, header: Header, messages: Iterable[Message]) -> None:
        """Check order and size of each message, and note how long it took."""
        del channel
        now_ns = time.monotonic_ns()
        self.got_frames += 1
        self.got_bytes += header.raw_bytes
        self.got_messages += header.count
        for message in messages:
            sent_ns, number = STAMP.unpack_from(message.body)
            key = (peer, message.priority)
            if number != self.last_numbers.get(key, 0) + 1:
                self.damaged += 1
            self.last_numbers[key] = number
            self.latencies[message.priority.name].append((now_ns - sent_ns) / 1000)
            self.got_by_class[message.priority.name] += message.size

    # ---- sending ---------------------------------------------------------------------------------

    def message(self, peer: str, kind: str, priority: Priority) -> Message:
        """A block of real rows or a control message, stamped and numbered."""
        key = (peer, priority)
        number = self.numbers[key] = self.numbers.get(key, 0) + 1
        stamp = STAMP.pack(time.monotonic_ns(), number)
        if kind == "block":
            return Message(Kind.BLOCK, priority, stamp + self.dice.choice(self.blocks))
        return Message(Kind.REQUEST, priority, stamp + bytes(CONTROL_BYTES - len(stamp)))

    async def produce(self, peer: str, link: PeerLink, end_s: float) -> None:
        """Keep a backlog in the link."""
        kinds = self.dice.choices(list(self.task.mix), list(self.task.mix.values()), k=1009)
        names = self.dice.choices(list(self.task.priorities), list(self.task.priorities.values()), k=997)
        drawn = zip(itertools.cycle(kinds), itertools.cycle([Priority[name] for name in names]), strict=False)
        while time.monotonic() < end_s:
            queued = 0
            for kind, priority in itertools.islice(drawn, 64):
                if link.batcher.depth(priority) < QUEUED_MAX:
                    link.send(self.message(peer, kind, priority))
                    queued += 1
            await asyncio.sleep(0 if queued > 32 else 0.0005)

    async def urge(self, peer: str, link: PeerLink, end_s: float) -> None:
        """Critical messages at a fixed pace."""
        while time.monotonic() < end_s:
            await asyncio.sleep(self.task.critical_every_s)
            priority = Priority.NORMAL if self.task.critical_queued else Priority.CRITICAL
            try:
                link.send(self.message(peer, "control", priority))
            except BackPressureError:
                continue

    async def record(self, began_s: float, series: list[list[float]]) -> None:
        """Payload and size over time, and the changing rate of the link."""
        link, before, last_s = next(iter(self.links.values())), 0, time.monotonic()
        while True:
            await asyncio.sleep(STEP_S)
            now_s = time.monotonic()
            if self.task.rates and now_s - began_s <= self.task.seconds:
                part = min(len(self.task.rates) - 1, int((now_s - began_s) / self.task.seconds * len(self.task.rates)))
                link.rate_bytes_s = self.task.rates[part]
                rate = (link.acked_bytes - before) / (now_s - last_s)
                series.append([now_s - began_s, rate / link.rate_bytes_s, link.batcher.controller.size])
            before, last_s = link.acked_bytes, now_s

    # ---- all of it -------------------------------------------------------------------------------

    async def run(self) -> dict[str, object]:
        """Listen, connect, send for the time, wait for the rest, and tell."""
        names = frozenset(["a", "b", "c"])
        express = Express()
        listening = socket.create_server(("127.0.0.1", self.task.port))
        if self.task.segment_bytes:
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, self.task.segment_bytes)
        server = await asyncio.get_running_loop().create_server(
            lambda: Receiver(self.task.name, names, b"", self.arrived, lambda peer, error: print(peer, error), express),
            sock=listening,
        )
        for link in self.links.values():
            link.start()
        while not all(link.connected for link in self.links.values()):  # noqa: ASYNC110 - once, at the start
            await asyncio.sleep(0.01)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        began_s, began_cpu_s, began_wait_s = time.monotonic(), time.process_time(), waited_for_core_s()
        end_s = began_s + self.task.seconds
        series: list[list[float]] = []
        recorder = asyncio.create_task(self.record(began_s, series))
        jobs = [self.produce(peer, link, end_s) for peer, link in self.links.items() if self.task.mix]
        if self.task.critical_every_s:
            jobs += [self.urge(peer, link, end_s) for peer, link in self.links.items()]
        await (asyncio.gather(*jobs) if jobs else asyncio.sleep(self.task.seconds))
        got_bytes, got_messages = self.got_bytes, self.got_messages
        wait_s = waited_for_core_s() - began_wait_s
        cpu_s, elapsed_s = time.process_time() - began_cpu_s, time.monotonic() - began_s
        acked = sum(link.acked_bytes for link in self.links.values())
        while any(link.batcher.waiting or link.unacked for link in self.links.values()):  # noqa: ASYNC110 - at the end
            await asyncio.sleep(0.01)
        segments = sum(self.segments())  # of all messages, like the other counts of the senders
        recorder.cancel()
        await asyncio.sleep(0.5)
        statistics = [link.batcher.statistics for link in self.links.values()]
        result = {
            "seconds": elapsed_s, "cpu_s": cpu_s, "wait_s": wait_s,
            "got_bytes": got_bytes, "got_messages": got_messages,
            "damaged": self.damaged, "series": series, "segments": segments, "acked_bytes": acked,
            "by_class": self.got_by_class,
            "latency_us": {name: quantiles(found) for name, found in self.latencies.items() if found},
            "body_bytes": sum(s.body_bytes for s in statistics), "frame_bytes": sum(s.frame_bytes for s in statistics),
            "messages": sum(s.messages for s in statistics), "frames": sum(s.frames for s in statistics),
            "sizes": [link.batcher.controller.size for link in self.links.values()],
            "compression": [s.compression for s in statistics],
            "estimated_gain": [s.estimated_gain for s in statistics],
        }  # fmt: skip
        server.close()
        return result

    def segments(self) -> Iterator[int]:
        """TCP segments of the links, both ways, as the kernel counts them."""
        for link in self.links.values():
            for sock in link.sockets():
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                yield sum(struct.unpack_from("<II", info, _SEGMENTS_AT))


def _lose(peer: str, frame: Frame) -> None:
    raise RuntimeError(f"node {peer} is away; {frame.messages} messages have nowhere to go")


def waited_for_core_s() -> float:
    """How long this thread has had work and no core; see sched-stats in the kernel's documentation. 0: not known."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def quantiles(found: list[float]) -> dict[str, float]:
    """p50, p99, p99.9 and the maximum, in µs, and how many there were."""
    ordered = sorted(found)
    last = len(ordered) - 1
    return {
        "p50": ordered[last // 2], "p99": ordered[int(last * 0.99)], "p999": ordered[int(last * 0.999)],
        "max": ordered[-1], "count": len(ordered),
    }  # fmt: skip


def main() -> None:
    """Run the task of the command line."""
    result = asyncio.run(Node(Task(**json.loads(sys.argv[1]))).run())
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
