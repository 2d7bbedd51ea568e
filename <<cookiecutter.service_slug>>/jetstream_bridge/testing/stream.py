"""One stream: what is stored, what is known already, and what has to go.

Retention and the duplicate window are looked at whenever somebody looks at the stream, so nothing
is seen after its time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jetstream_bridge.core.subjects import covered, matches
from jetstream_bridge.testing.errors import ApiFault
from jetstream_bridge.testing.stream_config import NANOSECONDS, Json
from jetstream_bridge.testing.wire import header_values

if TYPE_CHECKING:
    from jetstream_bridge.testing.consumer import MockConsumer

_NEVER = "0001-01-01T00:00:00Z"
_RECORD = 30  # bytes of a stored message beside its parts


@dataclass(frozen=True, slots=True)
class Stored:
    """A message of a stream. `time` is the loop's, `ns` the moment since 1970."""

    seq: int
    subject: str
    headers: bytes
    data: bytes
    time: float
    ns: int

    @property
    def place(self) -> str:
        """As the metadata of its delivery says it."""
        return f"{self.seq}:{self.ns // 1000}"

    @property
    def size(self) -> int:
        head = len(self.headers) + 4 if self.headers else 0
        return _RECORD + len(self.subject) + head + len(self.data)


@dataclass(frozen=True, slots=True)
class Ack:
    """What the publisher is told."""

    seq: int
    duplicate: bool = False


class MockStream:
    """A stream with its consumers. `now` is the loop's clock, `wall_ns` the wall's."""

    def __init__(self, config: Json, now: Callable[[], float], wall_ns: Callable[[], int]) -> None:
        self.config = config
        self.created = rfc3339(wall_ns())
        self.consumers: dict[str, MockConsumer] = {}
        self.last_seq = 0
        self.bytes = 0
        self._now = now
        self._wall_ns = wall_ns
        self._messages: dict[int, Stored] = {}
        self._known: dict[str, tuple[int, float]] = {}  # by id, oldest first
        self._last_ns = 0
        self._last_id = ""
        self._purged = False
        self.full = False  # by a fault

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def is_work_queue(self) -> bool:
        return bool(self.config["retention"] == "workqueue")

    def takes(self, subject: str) -> bool:
        return covered(self.config["subjects"], subject)

    # --- storing

    def store(self, subject: str, headers: bytes, data: bytes) -> Ack:
        """Store a message, or say that it is known; raise `ApiFault` where the server refuses."""
        self.prune()
        values = header_values(headers)
        self._check_stream(values)
        self._check_sequences(values, subject)
        known = self._known.get(msg_id) if (msg_id := values.get("Nats-Msg-Id", "")) else None
        if known is not None:
            return Ack(known[0], duplicate=True)
        self._check_last_id(values)
        self._check_limits(subject, headers, data)
        self.last_seq += 1
        self._last_ns = max(self._wall_ns(), self._last_ns + 1)
        stored = Stored(self.last_seq, subject, headers, data, self._now(), self._last_ns)
        self._messages[stored.seq] = stored
        self.bytes += stored.size
        for consumer in self.consumers.values():
            consumer.count(stored)
        self._last_id = msg_id
        if msg_id:
            self._known[msg_id] = (stored.seq, self._now())
        self._discard_old()
        return Ack(stored.seq)

    def _check_stream(self, values: Mapping[str, str]) -> None:
        expected = values.get("Nats-Expected-Stream")
        if expected and expected != self.name:
            raise ApiFault(400, 10060, "expected stream does not match")

    def _check_sequences(self, values: Mapping[str, str], subject: str) -> None:
        of_subject = values.get("Nats-Expected-Last-Subject-Sequence")
        if of_subject is not None:
            about = values.get("Nats-Expected-Last-Subject-Sequence-Subject", subject)
            newest = self.last(about)
            last = newest.seq if newest is not None else 0
            if int(of_subject) != last:
                raise ApiFault(400, 10071, f"wrong last sequence: {last}")
        expected = values.get("Nats-Expected-Last-Sequence")
        if expected is not None and int(expected) != self.last_seq:
            raise ApiFault(400, 10071, f"wrong last sequence: {self.last_seq}")

    def _check_last_id(self, values: Mapping[str, str]) -> None:
        last_id = values.get("Nats-Expected-Last-Msg-Id")
        if last_id is not None and last_id != self._last_id:
            raise ApiFault(400, 10070, f"wrong last msg ID: {self._last_id}")

    def _check_limits(self, subject: str, headers: bytes, data: bytes) -> None:
        config = self.config
        if 0 <= config["max_msg_size"] < len(headers) + len(data):
            raise ApiFault(400, 10054, "message size exceeds maximum allowed")
        if self.full:
            raise ApiFault(503, 10077, "maximum messages exceeded")
        if config["discard"] != "new":
            return
        mine = self.matching(subject)
        limit = config["max_msgs_per_subject"]
        takes_a_place = 0 < limit <= len(mine)  # the oldest of its subject goes
        if takes_a_place and config.get("discard_new_per_subject"):
            raise ApiFault(503, 10077, "maximum messages per subject exceeded")
        if 0 < config["max_msgs"] <= len(self._messages) and not takes_a_place:
            raise ApiFault(503, 10077, "maximum messages exceeded")
        size = Stored(0, subject, headers, data, 0.0, 0).size
        freed = takes_a_place and mine[0].size > size
        if 0 < config["max_bytes"] < self.bytes + size and not freed:
            raise ApiFault(503, 10077, "maximum bytes exceeded")

    # --- what goes

    def prune(self) -> None:
        """Forget what is older than the stream keeps it, and ids older than the window."""
        now = self._now()
        window = self.config["duplicate_window"] / NANOSECONDS
        while self._known and now - next(iter(self._known.values()))[1] >= window:
            del self._known[next(iter(self._known))]
        age = self.config["max_age"] / NANOSECONDS
        while age and self._messages and now - next(iter(self._messages.values())).time >= age:
            self.remove(next(iter(self._messages)))

    def limit(self) -> None:
        """Apply limits that may have become tighter."""
        self.prune()
        self._discard_old()

    def _discard_old(self) -> None:
        config = self.config
        per_subject = config["max_msgs_per_subject"]
        if per_subject > 0:
            for subject in self.subjects():
                for seq in [m.seq for m in self.matching(subject)][:-per_subject]:
                    self.remove(seq)
        if config["discard"] == "new":
            return  # a limit that became tighter takes nothing away
        while 0 < config["max_msgs"] < len(self._messages):
            self.remove(next(iter(self._messages)))
        while 0 < config["max_bytes"] < self.bytes:
            self.remove(next(iter(self._messages)))

    def remove(self, seq: int) -> bool:
        stored = self._messages.pop(seq, None)
        if stored is None:
            return False
        self.bytes -= stored.size
        for consumer in self.consumers.values():
            consumer.forget(stored)
            consumer.terminated(seq)
        return True

    def purge(self, subject: str | None = None, *, before: int = 0, keep: int = 0) -> int:
        """Remove what matches `subject`, below sequence `before`, but for the last `keep`."""
        chosen = self.matching(subject or ">")
        if before:
            chosen = [stored for stored in chosen if stored.seq < before]
        if keep:
            chosen = chosen[:-keep]
        for stored in chosen:
            del self._messages[stored.seq]
            self.bytes -= stored.size
        if subject is None and not self._messages and (before > 1 or not keep):
            self.last_seq = max(self.last_seq, before - 1)
            self._purged = self._purged or before != 1
        remaining = self.matching(subject or ">")
        start = self.first_and_last()[0] if subject is None else 0
        for consumer in self.consumers.values():
            consumer.purged(subject, remaining[0].seq if remaining else start)
        return len(chosen)

    def restart(self) -> None:
        """The server restarts: it knows the ids of those messages that are still stored."""
        self.prune()
        still = {seq for seq, _ in self._known.values()} & self._messages.keys()
        self._known = {i: known for i, known in self._known.items() if known[0] in still}
        if self.last_seq not in self._messages:
            self._last_id = ""
        for consumer in self.consumers.values():
            consumer.restart()

    # --- looking

    def get(self, seq: int) -> Stored | None:
        self.prune()
        return self._messages.get(seq)

    def __iter__(self) -> Iterator[Stored]:
        return iter(tuple(self._messages.values()))

    def matching(self, pattern: str) -> list[Stored]:
        if pattern == ">":
            return list(self._messages.values())
        return [stored for stored in self._messages.values() if matches(pattern, stored.subject)]

    def last(self, pattern: str) -> Stored | None:
        self.prune()
        found = self.matching(pattern)
        return found[-1] if found else None

    def next(self, pattern: str, start: int) -> Stored | None:
        self.prune()
        return next((m for m in self.matching(pattern) if m.seq >= start), None)

    def subjects(self, pattern: str = ">") -> dict[str, int]:
        return dict(sorted(Counter(m.subject for m in self.matching(pattern)).items()))

    def first_and_last(self) -> tuple[int, int]:
        """The first and the last sequence, as the server counts them when nothing is stored."""
        if self._messages:
            return next(iter(self._messages)), self.last_seq
        return (self.last_seq + 1 if self.last_seq or self._purged else 0), self.last_seq

    def state(self, subjects: str | None = None) -> Json:
        self.prune()
        first, last = self.first_and_last()
        oldest = self._messages.get(first)
        found: dict[str, Any] = {
            "messages": len(self._messages),
            "bytes": self.bytes,
            "first_seq": first,
            "first_ts": rfc3339(oldest.ns) if oldest else _NEVER,
            "last_seq": last,
            "last_ts": rfc3339(self._last_ns) if last else _NEVER,
            "consumer_count": len(self.consumers),
        }
        if self._messages:
            found["num_subjects"] = len(self.subjects())
            deleted = last - first + 1 - len(self._messages)
            if deleted > 0:
                found["num_deleted"] = deleted
            if subjects:
                found["subjects"] = self.subjects(subjects)
        return found


def rfc3339(ns: int) -> str:
    """A moment as the server writes it, in nanoseconds."""
    whole, rest = divmod(ns, NANOSECONDS)
    moment = datetime.fromtimestamp(whole, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}".rstrip("0").rstrip(".") + "Z"
