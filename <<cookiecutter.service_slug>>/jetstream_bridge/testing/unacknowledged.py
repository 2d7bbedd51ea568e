"""Messages that a consumer of the mock has delivered, and that nobody has acknowledged yet."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from jetstream_bridge.testing.stream_config import NANOSECONDS, Json


@dataclass(slots=True)
class Pending:
    """A message that is out. `seq` is the consumer's own count at its first delivery."""

    seq: int
    due: float
    queued: bool = False  # it goes to whoever asks next


class Unacknowledged(dict[int, Pending]):
    """What is out, by sequence in the stream: when each is due again, and how often it was out."""

    def __init__(self, config: Json, now: Callable[[], float]) -> None:
        super().__init__()
        self.config = config
        self._now = now
        self.again: dict[int, int] = {}  # how often a message was delivered after the first time
        self._queue: deque[int] = deque()  # to be delivered again
        self._calendar: list[tuple[float, int]] = []  # a heap; entries may be out of date

    @property
    def ack_wait(self) -> float:
        """Seconds."""
        wait: float = self.config["ack_wait"] / NANOSECONDS
        return wait

    @property
    def queued(self) -> int:
        """How many wait to be delivered again."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        most: int = self.config["max_ack_pending"]
        return 0 < most <= len(self)

    @property
    def redelivered(self) -> int:
        if self.config["max_deliver"] == 1:
            return 0
        return sum(1 for times in self.again.values() if times > 0)

    def collect_due(self) -> None:
        """Queue what was not acknowledged in time; forget what was out often enough."""
        now = self._now()
        most = self.config["max_deliver"]
        while self.next_due() <= now:
            seq = heapq.heappop(self._calendar)[1]
            tries = self.again.get(seq, 0) + 1
            if 0 < most <= tries:
                # Never again: it is out no more, and stays in the stream.
                del self[seq]
                self.again.setdefault(seq, tries)
            else:
                self.set_due(seq, now + self.ack_wait)
                self.enqueue(seq)

    def next_due(self) -> float:
        """When the first of what is out is due again."""
        while self._calendar:
            due, seq = self._calendar[0]
            out = self.get(seq)
            if out is not None and out.due == due and not out.queued:
                return due
            heapq.heappop(self._calendar)
        return math.inf

    def set_due(self, seq: int, due: float) -> None:
        self[seq].due = due
        heapq.heappush(self._calendar, (due, seq))

    def enqueue(self, seq: int) -> None:
        """Let it be delivered again as soon as somebody asks."""
        out = self[seq]
        if not out.queued:
            out.queued = True
            self._queue.append(seq)

    def enqueue_first(self, seq: int) -> None:
        """It could not be delivered: it is the next one again, and was not out this time."""
        self[seq].queued = True
        self._queue.appendleft(seq)
        self.again[seq] = self.again.get(seq, 0) - 1

    def next_again(self) -> int | None:
        """Take the next one from the queue; forget those that were out often enough."""
        while self._queue:
            seq = self._queue.popleft()
            out = self.get(seq)
            if out is None or not out.queued:
                continue
            out.queued = False
            self.again[seq] = self.again.get(seq, 0) + 1
            if 0 < self.config["max_deliver"] <= self.again[seq]:
                del self[seq]
            else:
                return seq
        return None

    def done(self, seq: int) -> Pending | None:
        """It is out no more: return what it was, or None if it was not out."""
        self.again.pop(seq, None)
        return self.pop(seq, None)

    def empty_queue(self) -> None:
        """What is queued comes when its `ack_wait` is over."""
        for seq in self._queue:
            if (out := self.get(seq)) is not None:
                out.queued = False
                heapq.heappush(self._calendar, (out.due, seq))
        self._queue.clear()

    def reconfigure(self, config: Json) -> None:
        """Follow the consumer's new configuration."""
        if (longer := config["ack_wait"] - self.config["ack_wait"]) != 0:
            for seq, out in self.items():
                self.set_due(seq, out.due + longer / NANOSECONDS)
        self.config = config
