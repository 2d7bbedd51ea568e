"""A durable pull consumer: who asked for messages, what is out, and when it is due again."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable

from jetstream_bridge.core.subjects import covered, matches
from jetstream_bridge.testing.consumer_config import check_explicit
from jetstream_bridge.testing.errors import NotSimulated
from jetstream_bridge.testing.stream import MockStream, Stored, rfc3339
from jetstream_bridge.testing.stream_config import NANOSECONDS, Json
from jetstream_bridge.testing.unacknowledged import Pending, Unacknowledged
from jetstream_bridge.testing.waiting_pulls import Deliver, WaitingPulls, read_pull


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
        self._pending = Unacknowledged(config, now)
        self._written = self._next - 1  # the last sequence delivered, as a restart finds it
        self._waiting = WaitingPulls(deliver, now)
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
            pull = read_pull(inbox, payload, self._now())
        except ValueError as error:
            self._waiting.tell(inbox, 400, f"Bad Request - {error}")
            return
        if refusal := self._waiting.refusal(pull, self.config):
            self._waiting.tell(inbox, *refusal)
            return
        self._waiting.expire()
        if pull.no_wait and (refusal := self._nothing_for_one_shot(bool(pull.expires))):
            self._waiting.tell(inbox, *refusal)
            return
        self._waiting.add(pull)
        self.work()

    def _nothing_for_one_shot(self, may_wait: bool) -> tuple[int, str] | None:
        """What a request that does not wait is told when there is nothing for it.

        A consumer that has as much out as it may is no such case: there the request waits.
        """
        self.stream.prune()
        self._pending.collect_due()
        there = self.num_pending + self._pending.queued
        if not there and not may_wait:
            return 404, "No Messages"
        if 0 < there < self._waiting.wanted:
            return 408, "Requests Pending"
        return None

    # --- working

    def work(self) -> None:
        """Deliver what can be, end what is over, and set the alarm for what comes next."""
        if self.closed:
            return
        self.stream.prune()
        self._pending.collect_due()
        self._waiting.expire()
        while self._waiting:
            seq = self._next_seq()
            if seq is None:
                break
            self._send(seq)
        if not self._pending.is_full:
            self._waiting.end_one_shots()
        self._waiting.send_heartbeats(self._delivered, self._next - 1)
        self._set_alarm()

    def _next_seq(self) -> int | None:
        while (seq := self._pending.next_again()) is not None:
            if self.stream.get(seq) is not None:
                return seq
        if self._pending.is_full or not self.num_pending:
            return None
        while self._next <= self.stream.last_seq:
            stored = self.stream.get(self._next)
            self._next += 1
            if stored is not None and matches(self._filter, stored.subject):
                self.num_pending -= 1
                return stored.seq
        return None

    def _send(self, seq: int) -> None:
        stored = self.stream.get(seq)
        assert stored is not None
        tries = self._pending.again.get(seq, 0) + 1
        reply = (
            f"$JS.ACK.{self.stream.name}.{self.name}.{tries}.{seq}"
            f".{self._delivered + 1}.{stored.ns}.{self.num_pending}"
        )
        size = len(stored.subject) + len(reply) + len(stored.headers) + len(stored.data)
        pull = self._waiting.take(size)
        if pull is None:
            self._put_back(seq)
            return
        now = self._now()
        self._delivered += 1
        self._pending.setdefault(seq, Pending(self._delivered, 0.0))
        self._pending.set_due(seq, now + self._pending.ack_wait)
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
            self._pending.enqueue_first(seq)
        elif pull.left:
            self._waiting.add(pull)

    def _put_back(self, seq: int) -> None:
        """Nobody has room for the message: it is the next one again."""
        if seq in self._pending:
            self._pending.enqueue_first(seq)
        else:
            self._next = seq
            self.num_pending += 1

    def _set_alarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = min(self._pending.next_due(), *self._waiting.moments(), math.inf)
        if at < math.inf:
            self._timer = asyncio.get_running_loop().call_at(at, self.work)

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
            self._pending.set_due(seq, self._now() + delay)
        elif word == "-NAK":
            self._pending.enqueue(seq)
        elif word == "+WPI":
            self._pending.set_due(seq, self._now() + self._pending.ack_wait)
        else:
            raise NotSimulated(f"the acknowledgement {body!r}")
        self.work()
        return True

    def _done(self, seq: int) -> None:
        """That may be said late, of a message that is out no more: it leaves a work queue."""
        if (out := self._pending.done(seq)) is not None:
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
        if (out := self._pending.done(seq)) is not None:
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
            self._pending.again.clear()
            self._floor = (self._delivered, self._next - 1)
        self._pending.empty_queue()
        self._written = self._next - 1
        self.num_pending = self._count()

    def _drop_below(self, start: int, *, wider: bool) -> None:
        own = self._floor[0]
        for seq, out in tuple(self._pending.items()):
            if seq < start or (wider and self.stream.get(seq) is None):
                own = max(own, out.seq)
                self._pending.done(seq)
        self._floor = (own, start - 1)

    def _count(self) -> int:
        return sum(1 for stored in self.stream.matching(self._filter) if stored.seq >= self._next)

    def update(self, config: Json) -> None:
        self._pending.reconfigure(config)
        self.config = config
        self.num_pending = self._count()
        self.work()

    def close(self, reason: str) -> None:
        """The consumer is deleted: those who wait are told."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.close(reason)

    def restart(self) -> None:
        """The server restarts: neither requests nor the queue of redeliveries survive that."""
        self._waiting.clear()
        self._pending.empty_queue()
        self._next = self._written + 1
        self.num_pending = self._count()

    def info(self) -> Json:
        self.stream.prune()
        self._pending.collect_due()
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
            "num_redelivered": self._pending.redelivered,
            "num_waiting": len(self._waiting),
            "num_pending": self.num_pending,
        }


def read_answer(body: bytes) -> tuple[str, float]:
    """What is said about a delivery, and in how many seconds it is wanted again."""
    word, _, rest = body.decode().partition(" ")
    known = {"": "+ACK", "+OK": "+ACK", "-ERR": "-NAK"}.get(word, word)
    delay = json.loads(rest)["delay"] / NANOSECONDS if known == "-NAK" and rest.strip() else 0.0
    return known, delay
