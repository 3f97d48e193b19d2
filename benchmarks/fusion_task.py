"""What a node of the fusion benchmark is told to do, and the senders that the product's own link is compared with."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.fusion.messages import Buffer, Priority
from pipeline.fusion.policy import BatchPolicy, ClassPolicy
from pipeline.fusion.sizing import FixedSize, ModelSize, SizeController, StepSize
from topologies.peer_link import PeerLink, now_us

CONTROLLERS: dict[str, type[StepSize] | type[ModelSize]] = {"step": StepSize, "model": ModelSize}
SINGLE = ("1", "unbatched")  # baselines: every message a frame of its own
LINGER_US = 1000
LINGER_FRAMES_MAX = 1000  # unacknowledged; more than a millisecond's worth, so that only the linger batches
NEVER = 1 << 60
BUFFERS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Task:
    """What a node does. `peers` maps a name to the port it is reached at; `mix` to a share of the messages."""

    name: str
    port: int
    peers: dict[str, int]
    seconds: float
    controller: str
    compress: bool
    blocks: str  # a file of blocks' images
    mix: dict[str, float]
    priorities: dict[str, float]
    critical_every_s: float
    critical_queued: bool  # baseline: critical messages go through the queues
    strict: bool  # baseline: strict priority instead of shares
    rates: list[float]  # of the link, in equal parts of the time; empty: not capped
    seed: int
    segment_bytes: int = 0  # of TCP; 0: loopback's own, 64 KiB


def policy(task: Task) -> BatchPolicy:
    """The product's policy, or that of a baseline."""
    usual = BatchPolicy()
    classes = dict(usual.classes)
    if task.strict:
        weights = {Priority.HIGH: 1 << 20, Priority.NORMAL: 1 << 10, Priority.LOW: 1}
        for priority, weight in weights.items():
            old = classes[priority]
            classes[priority] = ClassPolicy(old.wait_us, weight, old.share, old.queued_max, old.queued_bytes_max)
    single = task.controller in SINGLE
    if single:
        classes = {p: ClassPolicy(0, c.weight, 0.0, c.queued_max, c.queued_bytes_max) for p, c in classes.items()}
    aged_us = NEVER if task.strict else usual.aged_us
    compress = usual.compress_bytes_min if task.compress else NEVER
    sizes = (1, 1) if single else (usual.batch_min, usual.batch_max)
    return BatchPolicy(classes, aged_us, *sizes, compress_bytes_min=compress)


class LingerLink(PeerLink):
    """A baseline: every message a frame of its own; what came within a millisecond shares a system call."""

    frames_a_call = BUFFERS_MAX // 2  # of two buffers each

    async def _pump(self) -> None:
        while True:
            await asyncio.sleep(LINGER_US / 1e6)
            sender = self._senders.get("bulk")
            frames: list[Sequence[Buffer]] = []
            while sender is not None and self.unacked < LINGER_FRAMES_MAX:
                frame = self.batcher.take(now_us())
                if frame is None:
                    break
                self._sent += 1
                self._sent_bytes[self._sent] = (frame.frame_bytes, frame.messages, now_us())
                frames.append(frame.buffers)
            for at in range(0, len(frames), self.frames_a_call):
                if sender is not None:
                    sender.write([buffer for frame in frames[at : at + self.frames_a_call] for buffer in frame])


class UnbatchedLink(LingerLink):
    """The other baseline: a system call a message."""

    frames_a_call = 1


LINKS: dict[str, type[PeerLink]] = {"1": LingerLink, "unbatched": UnbatchedLink}


def controller(name: str) -> SizeController:
    """A controller by name, or a constant size."""
    return CONTROLLERS[name]() if name in CONTROLLERS else FixedSize(1 if name in SINGLE else int(name))
