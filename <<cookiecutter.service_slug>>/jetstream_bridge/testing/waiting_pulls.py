"""The pull requests that wait at a consumer of the mock, in the order in which they are served."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from jetstream_bridge.testing.errors import NotSimulated
from jetstream_bridge.testing.stream_config import NANOSECONDS, Json
from jetstream_bridge.testing.wire import status

_FIELDS = frozenset({"batch", "expires", "no_wait", "idle_heartbeat", "max_bytes"})


class Deliver(Protocol):
    """How messages leave the server; says whether anybody listened."""

    def __call__(
        self, inbox: str, headers: bytes, data: bytes, *, subject: str = "", reply: str = ""
    ) -> bool: ...


@dataclass(slots=True)
class Pull:
    """One request for messages. Times are seconds."""

    inbox: str
    left: int
    no_wait: bool
    expires: float  # 0: it does not
    expires_at: float | None
    heartbeat: float
    beat_at: float
    bytes_left: int | None = None  # None: of any size
    sent: int = 0

    def fits(self, size: int) -> bool:
        return self.bytes_left is None or size <= self.bytes_left


class WaitingPulls:
    """Requests for messages of one consumer."""

    def __init__(self, deliver: Deliver, now: Callable[[], float]) -> None:
        self._deliver = deliver
        self._now = now
        self._waiting: deque[Pull] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def wanted(self) -> int:
        """How many messages are asked for."""
        return sum(pull.left for pull in self._waiting)

    def add(self, pull: Pull) -> None:
        self._waiting.append(pull)

    def clear(self) -> None:
        self._waiting.clear()

    def refusal(self, pull: Pull, config: Json) -> tuple[int, str] | None:
        """Why the consumer does not take the request at all."""
        most, longest = config.get("max_batch", 0), config.get("max_expires", 0)
        if 0 < most < pull.left:
            return 409, f"Exceeded MaxRequestBatch of {most}"
        if 0 < longest < pull.expires * NANOSECONDS:
            return 409, f"Exceeded MaxRequestExpires of {longest / NANOSECONDS:g}s"
        if 0 < config.get("max_bytes", 0) < (pull.bytes_left or 0):
            return 409, f"Exceeded MaxRequestMaxBytes of {config['max_bytes']}"
        if pull.heartbeat and pull.heartbeat * 2 > pull.expires:
            return 400, "Bad Request - heartbeat value too large"
        if len(self._waiting) >= config["max_waiting"]:
            return 409, "Exceeded MaxWaiting"
        return None

    def take(self, size: int) -> Pull | None:
        """The next request that has room for so many bytes; one that has not is over."""
        while self._waiting:
            pull = self._waiting.popleft()
            if pull.fits(size):
                return pull
            self._end(pull, 409, "Message Size Exceeds MaxBytes")
        return None

    def end_one_shots(self) -> None:
        """A request that does not wait is over when there is nothing more for it."""
        for pull in [p for p in self._waiting if p.no_wait and (p.sent or p.expires_at is None)]:
            self._waiting.remove(pull)
            self.tell(pull.inbox, 404, "No Messages")

    def expire(self) -> None:
        """End the requests whose time is over."""
        now = self._now()
        for pull in [p for p in self._waiting if p.expires_at is not None and p.expires_at <= now]:
            self._waiting.remove(pull)
            self._end(pull, 408, "Request Timeout")

    def send_heartbeats(self, consumer_seq: int, stream_seq: int) -> None:
        """Send the heartbeats that are due; who does not listen any more asks for nothing."""
        now = self._now()
        fields = {"Nats_Last_Consumer": str(consumer_seq), "Nats_Last_Stream": str(stream_seq)}
        for pull in tuple(self._waiting):
            if pull.heartbeat and pull.beat_at <= now:
                pull.beat_at = now + pull.heartbeat
                if not self._deliver(pull.inbox, status(100, "Idle Heartbeat", **fields), b""):
                    self._waiting.remove(pull)

    def moments(self) -> Iterator[float]:
        """Yield when something has to be done for a request."""
        for pull in self._waiting:
            if pull.heartbeat:
                yield pull.beat_at
            if pull.expires_at is not None:
                yield pull.expires_at

    def close(self, reason: str) -> None:
        """Tell everybody that the consumer is gone."""
        while self._waiting:
            self.tell(self._waiting.popleft().inbox, 409, reason)

    def tell(self, inbox: str, code: int, description: str) -> None:
        self._deliver(inbox, status(code, description), b"")

    def _end(self, pull: Pull, code: int, description: str) -> None:
        fields = {
            "Nats_Pending_Messages": str(pull.left),
            "Nats_Pending_Bytes": str(pull.bytes_left or 0),
        }
        self._deliver(pull.inbox, status(code, description, **fields), b"")


def check_pull(payload: bytes) -> None:
    """Raise `NotSimulated` for a request that asks for what the mock does not do."""
    with contextlib.suppress(ValueError):
        _read(payload)


def read_pull(inbox: str, payload: bytes, now: float) -> Pull:
    """Read a request for messages that came at `now`; raise `ValueError` for one that is none."""
    request = _read(payload)
    expires = request.get("expires", 0) / NANOSECONDS
    heartbeat = request.get("idle_heartbeat", 0) / NANOSECONDS
    return Pull(
        inbox=inbox,
        left=max(1, request.get("batch", 1)),
        no_wait=bool(request.get("no_wait")),
        expires=expires,
        expires_at=now + expires if expires else None,
        heartbeat=heartbeat,
        beat_at=now + heartbeat,
        bytes_left=request.get("max_bytes", 0) or None,
    )


def _read(payload: bytes) -> Mapping[str, int]:
    """A request is JSON, a number, or nothing."""
    text = payload.decode().strip()
    if not text.startswith("{"):
        return {"batch": int(text)} if text else {}
    try:
        request: dict[str, int] = json.loads(text)
    except ValueError as error:
        raise ValueError("invalid JSON") from error
    unknown = set(request) - _FIELDS
    if unknown:
        raise NotSimulated(f"a pull request with {', '.join(sorted(unknown))}")
    return request
