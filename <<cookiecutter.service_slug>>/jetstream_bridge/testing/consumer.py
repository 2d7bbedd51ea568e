"""A durable pull consumer: who asked for messages, what is out, and when it is due again."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from jetstream_bridge.core.subjects import covered, matches
from jetstream_bridge.testing.consumer_config import check_explicit
from jetstream_bridge.testing.errors import NotSimulated
from jetstream_bridge.testing.stream import MockStream, Stored, rfc3339
from jetstream_bridge.testing.stream_config import NANOSECONDS, Json
from jetstream_bridge.testing.wire import status

_PULL_FIELDS = frozenset({"batch", "expires", "no_wait", "idle_heartbeat", "max_bytes"})


class Deliver(Protocol):
    """How messages leave the server; says whether anybody listened."""

    def __call__(
        self, inbox: str, headers: bytes, data: bytes, *, subject: str = "", reply: str = ""
    ) -> bool: ...


@dataclass(slots=True)
class Pull:
    """One request for messages."""

    inbox: str
    left: int
    no_wait: bool
    expires_at: float | None
    heartbeat: float
    beat_at: float
    bytes_left: int | None = None  # None: of any size
    sent: int = 0

    def fits(self, size: int) -> bool:
        return self.bytes_left is None or size <= self.bytes_left


@dataclass(slots=True)
class Pending:
    """A message that is out. `seq` is the consumer's own count at its first delivery."""

    seq: int
    due: float
    queued: bool = False  # it goes to whoever asks next


class MockConsumer:
    """One consumer of `stream`."""

    def __init__(
        self,
        stream: MockStream,
        config: Json,
        *,
        deliver: Deliver,
        now: Callable[[], float],
        wall_ns: Callable[[], int],
    ) -> None:
        check_explicit(config)
        self.stream = stream
        self.config = config
        self.created = rfc3339(wall_ns())
        self.closed = False
        self._deliver = deliver
        self._now = now
        self._wall_ns = wall_ns
        first, last = stream.first_and_last()
        self._next = max(1, first) if config["deliver_policy"] == "all" else last + 1
        if config["deliver_policy"] == "last":
            newest = stream.last(self._filter)
            self._next = newest.seq if newest else last + 1
        self._delivered = 0  # the consumer's own sequence
        self._floor = (0, self._next - 1)
        self._pending: dict[int, Pending] = {}
        self._written = self._next - 1  # the last sequence delivered, as a restart finds it
        self._again: dict[int, int] = {}  # how often a message was delivered after the first time
        self._due: deque[int] = deque()  # to be delivered again
        self._calendar: list[tuple[float, int]] = []  # a heap; entries may be out of date
        self._waiting: deque[Pull] = deque()
        self._last_active_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self.num_pending = self._count()

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def _filter(self) -> str:
        return str(self.config.get("filter_subject") or ">")

    # --- asking

    def ask(self, inbox: str, payload: bytes) -> None:
        """Take a request for messages; answer what can be answered."""
        try:
            request = _read_request(payload)
        except ValueError as error:
            self._status(inbox, 400, f"Bad Request - {error}")
            return
        now = self._now()
        expires = request.get("expires", 0) / NANOSECONDS
        heartbeat = request.get("idle_heartbeat", 0) / NANOSECONDS
        batch = max(1, request.get("batch", 1))
        most_bytes = request.get("max_bytes", 0)
        if refusal := self._refusal(batch, expires, heartbeat, most_bytes):
            self._status(inbox, *refusal)
            return
        no_wait = bool(request.get("no_wait"))
        self._expire()
        if no_wait and (refusal := self._nothing_for_one_shot(bool(expires))):
            self._status(inbox, *refusal)
            return
        self._waiting.append(
            Pull(
                inbox=inbox,
                left=batch,
                no_wait=no_wait,
                expires_at=now + expires if expires else None,
                heartbeat=heartbeat,
                beat_at=now + heartbeat,
                bytes_left=most_bytes or None,
            )
        )
        self.work()

    def _refusal(
        self, batch: int, expires: float, heartbeat: float, most_bytes: int
    ) -> tuple[int, str] | None:
        most, longest = self.config.get("max_batch", 0), self.config.get("max_expires", 0)
        if 0 < most < batch:
            return 409, f"Exceeded MaxRequestBatch of {most}"
        if 0 < longest < expires * NANOSECONDS:
            return 409, f"Exceeded MaxRequestExpires of {longest / NANOSECONDS:g}s"
        if 0 < self.config.get("max_bytes", 0) < most_bytes:
            return 409, f"Exceeded MaxRequestMaxBytes of {self.config['max_bytes']}"
        if heartbeat and heartbeat * 2 > expires:
            return 400, "Bad Request - heartbeat value too large"
        if len(self._waiting) >= self.config["max_waiting"]:
            return 409, "Exceeded MaxWaiting"
        return None

    def _nothing_for_one_shot(self, may_wait: bool) -> tuple[int, str] | None:
        """What a request that does not wait is told when there is nothing for it.

        A consumer that has as much out as it may is no such case: there the request waits.
        """
        self.stream.prune()
        self._collect_due()
        there = self.num_pending + len(self._due)
        if not there and not may_wait:
            return 404, "No Messages"
        if 0 < there < sum(pull.left for pull in self._waiting):
            return 408, "Requests Pending"
        return None

    # --- working

    def work(self) -> None:
        """Deliver what can be, end what is over, and set the alarm for what comes next."""
        if self.closed:
            return
        self.stream.prune()
        self._collect_due()
        self._expire()
        while self._waiting:
            seq = self._next_seq()
            if seq is None:
                break
            self._send(seq)
        self._end_one_shots()
        self._heartbeats()
        self._set_alarm()

    def _collect_due(self) -> None:
        now = self._now()
        most = self.config["max_deliver"]
        while self._next_due() <= now:
            seq = heapq.heappop(self._calendar)[1]
            tries = self._again.get(seq, 0) + 1
            if 0 < most <= tries:
                # Never again: it is out no more, and stays in the stream.
                del self._pending[seq]
                self._again.setdefault(seq, tries)
            else:
                self._set_due(seq, now + self._ack_wait)
                self._queue(seq)

    @property
    def _ack_wait(self) -> float:
        wait: float = self.config["ack_wait"] / NANOSECONDS
        return wait

    def _queue(self, seq: int) -> None:
        out = self._pending[seq]
        if not out.queued:
            out.queued = True
            self._due.append(seq)

    def _next_due(self) -> float:
        """When the first of what is out is due again."""
        while self._calendar:
            due, seq = self._calendar[0]
            out = self._pending.get(seq)
            if out is not None and out.due == due and not out.queued:
                return due
            heapq.heappop(self._calendar)
        return math.inf

    def _set_due(self, seq: int, due: float) -> None:
        out = self._pending[seq]
        out.due = due
        heapq.heappush(self._calendar, (due, seq))

    def _next_seq(self) -> int | None:
        while self._due:
            seq = self._due.popleft()
            out = self._pending.get(seq)
            if out is None or not out.queued:
                continue
            out.queued = False
            self._again[seq] = self._again.get(seq, 0) + 1
            if 0 < self.config["max_deliver"] <= self._again[seq]:
                del self._pending[seq]
            elif self.stream.get(seq) is not None:
                return seq
        if self._is_full() or not self.num_pending:
            return None
        while self._next <= self.stream.last_seq:
            stored = self.stream.get(self._next)
            self._next += 1
            if stored is not None and matches(self._filter, stored.subject):
                self.num_pending -= 1
                return stored.seq
        return None

    def _is_full(self) -> bool:
        most: int = self.config["max_ack_pending"]
        return 0 < most <= len(self._pending)

    def _send(self, seq: int) -> None:
        stored = self.stream.get(seq)
        assert stored is not None
        tries = self._again.get(seq, 0) + 1
        reply = (
            f"$JS.ACK.{self.stream.name}.{self.name}.{tries}.{seq}"
            f".{self._delivered + 1}.{stored.ns}.{self.num_pending}"
        )
        size = len(stored.subject) + len(reply) + len(stored.headers) + len(stored.data)
        pull = self._who_takes(size)
        if pull is None:
            self._put_back(seq)
            return
        now = self._now()
        self._delivered += 1
        self._pending.setdefault(seq, Pending(self._delivered, 0.0))
        self._set_due(seq, now + self._ack_wait)
        self._written = max(self._written, seq)
        self._last_active_ns = self._wall_ns()
        heard = self._deliver(
            pull.inbox, stored.headers, stored.data, subject=stored.subject, reply=reply
        )
        pull.left -= 1
        if pull.bytes_left is not None:
            pull.bytes_left -= size
        pull.sent += 1
        pull.beat_at = now + pull.heartbeat
        if not heard:
            # The one who asked is gone: somebody else has it at once.
            self._pending[seq].queued = True
            self._due.appendleft(seq)
            self._again[seq] = self._again.get(seq, 0) - 1
        elif pull.left:
            self._waiting.append(pull)

    def _who_takes(self, size: int) -> Pull | None:
        """The next request that has room for so many bytes; one that has not is over."""
        while self._waiting:
            pull = self._waiting.popleft()
            if pull.fits(size):
                return pull
            self._end(pull, 409, "Message Size Exceeds MaxBytes")
        return None

    def _put_back(self, seq: int) -> None:
        """Nobody has room for the message: it is the next one again."""
        if (out := self._pending.get(seq)) is not None:
            out.queued = True
            self._due.appendleft(seq)
            self._again[seq] -= 1
        else:
            self._next = seq
            self.num_pending += 1

    def _end(self, pull: Pull, code: int, description: str) -> None:
        fields = {
            "Nats_Pending_Messages": str(pull.left),
            "Nats_Pending_Bytes": str(pull.bytes_left or 0),
        }
        self._deliver(pull.inbox, status(code, description, **fields), b"")

    def _end_one_shots(self) -> None:
        """A request that does not wait is over when there is nothing more for it."""
        if self._is_full():
            return
        for pull in [p for p in self._waiting if p.no_wait and (p.sent or p.expires_at is None)]:
            self._waiting.remove(pull)
            self._status(pull.inbox, 404, "No Messages")

    def _expire(self) -> None:
        now = self._now()
        for pull in [p for p in self._waiting if p.expires_at is not None and p.expires_at <= now]:
            self._waiting.remove(pull)
            self._end(pull, 408, "Request Timeout")

    def _heartbeats(self) -> None:
        now = self._now()
        for pull in tuple(self._waiting):
            if pull.heartbeat and pull.beat_at <= now:
                pull.beat_at = now + pull.heartbeat
                fields = {
                    "Nats_Last_Consumer": str(self._delivered),
                    "Nats_Last_Stream": str(self._next - 1),
                }
                if not self._deliver(pull.inbox, status(100, "Idle Heartbeat", **fields), b""):
                    self._waiting.remove(pull)

    def _set_alarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        times = [self._next_due()]
        for pull in self._waiting:
            times += [pull.beat_at] if pull.heartbeat else []
            times += [pull.expires_at] if pull.expires_at is not None else []
        if min(times) < math.inf:
            self._timer = asyncio.get_running_loop().call_at(min(times), self.work)

    def _status(self, inbox: str, code: int, description: str) -> None:
        self._deliver(inbox, status(code, description), b"")

    # --- answers to deliveries

    def answer(self, seq: int, own: int, body: bytes) -> bool:
        """Take `+ACK`, `-NAK`, `+WPI` or `+TERM` for a message that is out; say whether it counts.

        `own` is the consumer's count at that delivery, by which it knows what an earlier consumer
        of this name delivered.
        """
        word, delay = read_answer(body)
        out = self._pending.get(seq)
        if word in ("+ACK", "+TERM"):
            if seq >= self._next:
                return False  # an earlier consumer of this name delivered it
            self._done(seq)
        elif out is None:
            pass  # acknowledged already, or never delivered
        elif word == "-NAK" and not self._floor[0] < own <= self._delivered + 1:
            pass
        elif word == "-NAK" and delay:
            self._set_due(seq, self._now() + delay)
        elif word == "-NAK":
            self._queue(seq)
        elif word == "+WPI":
            self._set_due(seq, self._now() + self._ack_wait)
        else:
            raise NotSimulated(f"the acknowledgement {body!r}")
        self.work()
        return True

    def _done(self, seq: int) -> None:
        """That may be said late, of a message that is out no more: it leaves a work queue."""
        out = self._pending.pop(seq, None)
        self._again.pop(seq, None)
        if out is not None:
            self._raise_floor(seq, out.seq)
        if self.stream.is_work_queue:
            self.stream.remove(seq)

    def _raise_floor(self, seq: int, own: int) -> None:
        if not self._pending:
            self._floor = (self._delivered, self._next - 1)
        elif own == self._floor[0] + 1:
            lowest = min(self._pending)
            if lowest > seq:
                self._floor = (self._pending[lowest].seq - 1, lowest - 1)
            else:
                self._floor = (own, seq)

    # --- what the stream tells

    def wants(self, subject: str) -> bool:
        return matches(self._filter, subject)

    def count(self, stored: Stored) -> None:
        """A message was stored."""
        if stored.seq >= self._next and matches(self._filter, stored.subject):
            self.num_pending += 1

    def forget(self, stored: Stored) -> None:
        """A message is gone from the stream."""
        if stored.seq >= self._next and matches(self._filter, stored.subject):
            self.num_pending -= 1

    def terminated(self, seq: int) -> None:
        """A message that may be out was deleted."""
        self._again.pop(seq, None)
        if (out := self._pending.pop(seq, None)) is not None:
            self._raise_floor(seq, out.seq)

    def purged(self, subject: str | None, start: int) -> None:
        """The stream was purged (of `subject`); what remains of that begins at `start`.

        What is queued to be delivered again is taken out of the queue, as nats-server does, and
        comes when its `ack_wait` is over.
        """
        whole = subject is None or (self._filter != ">" and covered([subject], self._filter))
        wider = not whole and covered([self._filter], subject or ">")
        if not whole and not wider:
            return
        if wider:
            start = self.stream.first_and_last()[0]
        elif not start:
            start = self.stream.last_seq + 1
        self._next = max(self._next, start)
        if self._floor[1] < start:
            self._drop_below(start, wider=wider)
        if not self._pending:
            self._again.clear()
            self._floor = (self._delivered, self._next - 1)
        self._unqueue()
        self._written = self._next - 1
        self.num_pending = self._count()

    def _drop_below(self, start: int, *, wider: bool) -> None:
        own = self._floor[0]
        for seq, out in tuple(self._pending.items()):
            if seq < start or (wider and self.stream.get(seq) is None):
                own = max(own, out.seq)
                del self._pending[seq]
                self._again.pop(seq, None)
        self._floor = (own, start - 1)

    def _unqueue(self) -> None:
        for seq in self._due:
            if (out := self._pending.get(seq)) is not None:
                out.queued = False
                heapq.heappush(self._calendar, (out.due, seq))
        self._due.clear()

    def _count(self) -> int:
        return sum(1 for stored in self.stream.matching(self._filter) if stored.seq >= self._next)

    def update(self, config: Json) -> None:
        if (longer := config["ack_wait"] - self.config["ack_wait"]) != 0:
            for seq, out in self._pending.items():
                self._set_due(seq, out.due + longer / NANOSECONDS)
        self.config = config
        self.num_pending = self._count()
        self.work()

    def close(self, reason: str) -> None:
        """The consumer is deleted: those who wait are told."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting:
            self._status(self._waiting.popleft().inbox, 409, reason)

    def restart(self) -> None:
        """The server restarts: neither requests nor the queue of redeliveries survive that."""
        self._waiting.clear()
        self._unqueue()
        self._next = self._written + 1
        self.num_pending = self._count()

    def _redelivered(self) -> int:
        if self.config["max_deliver"] == 1:
            return 0
        return sum(1 for times in self._again.values() if times > 0)

    def info(self) -> Json:
        self.stream.prune()
        self._collect_due()
        active = {"last_active": rfc3339(self._last_active_ns)} if self._last_active_ns else {}
        return {
            "stream_name": self.stream.name,
            "name": self.name,
            "created": self.created,
            "config": self.config,
            "delivered": {
                "consumer_seq": self._delivered,
                "stream_seq": self._next - 1,
                **active,
            },
            "ack_floor": {"consumer_seq": self._floor[0], "stream_seq": self._floor[1]},
            "num_ack_pending": len(self._pending),
            "num_redelivered": self._redelivered(),
            "num_waiting": len(self._waiting),
            "num_pending": self.num_pending,
        }


def check_pull(payload: bytes) -> None:
    """Raise `NotSimulated` for a request that asks for what the mock does not do."""
    with contextlib.suppress(ValueError):
        _read_request(payload)


def _read_request(payload: bytes) -> Mapping[str, int]:
    """A request is JSON, a number, or nothing."""
    text = payload.decode().strip()
    if not text.startswith("{"):
        return {"batch": int(text)} if text else {}
    try:
        request: dict[str, int] = json.loads(text)
    except ValueError as error:
        raise ValueError("invalid JSON") from error
    unknown = set(request) - _PULL_FIELDS
    if unknown:
        raise NotSimulated(f"a pull request with {', '.join(sorted(unknown))}")
    return request


def read_answer(body: bytes) -> tuple[str, float]:
    """What is said about a delivery, and in how many seconds it is wanted again."""
    word, _, rest = body.decode().partition(" ")
    known = {"": "+ACK", "+OK": "+ACK", "-ERR": "-NAK"}.get(word, word)
    delay = json.loads(rest)["delay"] / NANOSECONDS if known == "-NAK" and rest.strip() else 0.0
    return known, delay
