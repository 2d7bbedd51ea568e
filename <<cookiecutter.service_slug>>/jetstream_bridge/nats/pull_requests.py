"""What a pull loop has asked the server for, within the worker's room and the server's limits.

The server names a limit only when a request breaks it: `Exceeded MaxRequestBatch of 100`. It is
kept then, and the next request obeys it; that is no failure. Requests are taken as answered one
after another. The server takes turns among them, so this is exact for their sum and near enough
for each.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

EXPIRES = 30.0  # seconds that the server keeps a request open
HEARTBEAT = 5.0  # seconds between signs of life on an idle request
OVERHEAD = 4096  # bytes that the server counts beside body and headers: subject and reply

_NANOSECONDS = 1_000_000_000
_LIMIT = re.compile(r"Exceeded (MaxRequestBatch|MaxRequestExpires|MaxRequestMaxBytes) of (\S+)")
_GO_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)")  # of a duration like 1m30s
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True, slots=True)
class PullCapacity:
    """What the worker can take, what was asked for not counted."""

    messages: int
    bytes: int
    takes_any: bool = True  # one message of any size may come, whatever the bytes


@dataclass(slots=True)
class _PullRequest:
    messages: int
    bytes: int  # 0: of any size


class PullRequests:
    """The open requests of one loop."""

    def __init__(self) -> None:
        self._open: deque[_PullRequest] = deque()
        self._batch: int | None = None  # the server's limits, as far as it has named them
        self._expires = EXPIRES
        self._bytes: int | None = None
        self._requests: int | None = None
        self._came = False  # anything since the last request
        self._does_not_fit = False  # the next message is larger than a request may say

    @property
    def messages(self) -> int:
        return sum(ask.messages for ask in self._open)

    @property
    def heartbeat(self) -> float:
        return min(HEARTBEAT, self._expires / 2.5)  # the server refuses more than half

    def forget(self) -> None:
        """The requests are gone, with their connection or their consumer."""
        self._open.clear()

    def more(self, room: PullCapacity, *, max_payload: int) -> Iterator[dict[str, int]]:
        """Yield the requests to send now; each counts as sent."""
        wanted = room.messages - self.messages
        # Ask again at half, so that messages flow while the next request is on its way.
        if wanted <= 0 or (self._open and wanted < room.messages // 2):
            return
        least = max_payload + OVERHEAD  # a smaller request may be one that no message fits
        free = room.bytes - sum(ask.bytes for ask in self._open)
        if free < least or self._does_not_fit:
            if room.takes_any and not self._open:
                yield self._request(1, 0)
            return
        free = min(free, max(least, room.bytes // 2))  # so that the next one has room beside it
        each = wanted if self._batch is None else min(wanted, self._batch)
        number = min(-(-wanted // each), free // least)
        if self._requests is not None:
            number = min(number, self._requests - len(self._open))
        for _ in range(number):
            size = free // number
            yield self._request(
                min(each, wanted), size if self._bytes is None else min(size, self._bytes)
            )
            wanted -= each

    def _request(self, messages: int, size: int) -> dict[str, int]:
        self._open.append(_PullRequest(messages, size))
        self._came = self._does_not_fit = False
        request = {
            "batch": messages,
            "expires": int(self._expires * _NANOSECONDS),
            "idle_heartbeat": int(self.heartbeat * _NANOSECONDS),
        }
        return request | {"max_bytes": size} if size else request

    def came(self, size: int) -> None:
        """A message arrived."""
        self._came = True
        if not self._open:
            return
        first = self._open[0]
        first.messages -= 1
        if first.bytes:
            first.bytes = max(1, first.bytes - size)
        if first.messages <= 0:
            self._open.popleft()

    def ended(self, status: str, headers: Mapping[str, str]) -> bool:
        """A request is over; say whether that is in order, and others may follow at once."""
        description = headers.get("Description", "")
        left = headers.get("Nats-Pending-Messages")
        if status in ("404", "408") or left is not None:  # its time or its bytes were used up
            self._does_not_fit = "MaxBytes" in description and not self._came
            self._close(int(left) if left is not None and left.isdigit() else self.messages)
            return True
        if "Exceeded MaxWaiting" in description and len(self._open) > 1:
            self._open.pop()
            self._requests = len(self._open)
            return True
        found = _LIMIT.search(description)
        in_order = found is not None and self._obey(found[1], found[2])
        self.forget()
        return in_order

    def _close(self, messages: int) -> None:
        """Take back what a request was not given, from those asked first."""
        while messages > 0 and self._open:
            first = self._open[0]
            taken = min(first.messages, messages)
            first.messages -= taken
            messages -= taken
            if first.messages <= 0:
                self._open.popleft()

    def _obey(self, what: str, limit: str) -> bool:
        """Keep a limit that the server named; False where it cannot be met.

        One that is known already was met by what is open now. Without anything open it is said of
        an older request.
        """
        if what == "MaxRequestExpires":
            named = sum(float(n) * _SECONDS[unit] for n, unit in _GO_PART.findall(limit))
            before, self._expires = self._expires, min(self._expires, named or EXPIRES)
        elif not limit.isdigit() or int(limit) < 1:
            return False
        elif what == "MaxRequestBatch":
            before, self._batch = self._batch or math.inf, int(limit)
            named = self._batch
        else:
            before, self._bytes = self._bytes or math.inf, int(limit)
            named = self._bytes
        return 0 < named < before or (named == before and not self._open)
