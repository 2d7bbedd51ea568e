"""A source of messages that no sender of ours would write, the same ones for the same seed.

Each is drawn from what has broken readers before: shapes, depths, numbers, bytes that are no text,
ids that are missing, odd or contradict each other, header blocks of every kind, and events that
were fine until some of their bytes were changed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

LARGEST = 1_000_000  # bytes; the server takes 1 MiB with headers and all
TYPES = ("typed", "strict", "loose", "cast", "fails", "refuses", "nobody")

ODD_TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "\ud83d",
    "a\udc00b",
    "\ufffe",
    "\u202e",
    "line\r\nbreak",
    "x" * 255,
    "x" * 256,
    "\u00fc" * 255,
    "x" * 20_000,
    "'; DROP TABLE effect; --",
    "%s%n{}{0}",
    "seq:1",
    "dlq:S:1",
    "replay:S:1",
    "NaN",
    "*",
    ">",
    "a.b.*",
    "..",
    "\U0001f600",
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2, 10**30, -(10**400), 1.5, -0.0, 1e308, 5e-324),
    *([], {}, [[]], {"": None}, ["x"], {"id": {}}),
)
ODD_TIMES = (
    "2026-01-02T03:04:05Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "2026-02-30T00:00:00Z",
    "2026-01-02",
    "\u0662\u0660\u0662\u0666-01-02T03:04:05Z",
    "now",
)
RAW = (
    b"",
    b" ",
    b"\n",
    b"null",
    b"true",
    b"0",
    b"-",
    b"NaN",
    b"Infinity",
    b"1e999",
    b'"',
    b'"text"',
    b"[]",
    b"{}",
    b"[1,]",
    b"{,}",
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b"\x00" * 64,
    b"\x80" * 64,
    b"\x1f\x8b\x08\x00",
    b"{'a': 1}",
    b"{} {}",
    b"9" * 4301,
    b"[" + b"9" * 5000 + b"]",
)
BLOCKS = (
    b"X: y",
    b"X",
    b":",
    b"\r\n",
    b"NATS/1.0",
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 \xff\xff\r\n\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 1\r\n\r\n",
    b"NATS/1.0\r\nStatus: 408\r\nNats-Pending-Messages: 5\r\n\r\n",
    b"NATS/1.0\r\nno end: here",
    b"NATS/1.0\r\n\xff\xfe: \xff\r\n\r\n",
    b"NATS/1.0\r\n: nameless\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\na/b: 1\r\ntwo words: 2\r\nn\xc3\xa4me: 3\r\n\r\n",
    b"NATS/1.0\r\ntraceparent: 00-zz-zz-zz\r\ntracestate: \x00\r\n\r\n",
    b"NATS/1.0\r\nnats-ttl: 1s\r\nNATS-ROLLUP: all\r\nnats-schedule: @every 1s\r\n\r\n",
    b'NATS/1.0\r\nx-dlq-context: {"event_id":"\\ud83d"\r\nx-dead-letter: true\r\n\r\n',
    b"NATS/1.0\r\nX-DLQ-Reason: forged\r\nx-deliveries: 99999999999999999999\r\n\r\n",
    b"NATS/1.0\r\nNats-Msg-Id: replay:S:1\r\nx-replay-key: {\r\n\r\n",
    b"NATS/1.0\r\n" + b"".join(b"h%d: v\r\n" % n for n in range(2000)) + b"\r\n",
    b"NATS/1.0\r\nlong: " + b"v" * 60_000 + b"\r\n\r\n",
)


@dataclass(frozen=True, slots=True)
class Hostile:
    """One message: its header block and its body, byte for byte."""

    block: bytes
    body: bytes


def hostile(seed: int, number: int, *, large_every: int = 2000) -> Iterator[Hostile]:
    """Yield `number` messages; one of `large_every` is about as large as the server takes."""
    source = _Source(random.Random(seed))
    for n in range(number):
        if n % large_every == large_every - 1:
            yield Hostile(b"", source.large())
        else:
            yield Hostile(source.block(), source.body())


class _Source:
    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._number = 0
        self._kinds: tuple[Callable[[], bytes], ...] = (
            *(self._plain, self._odd_fields, self._odd_fields, self._odd_payload),
            *(self._raw, self._deep, self._twice, self._broken, self._broken, self._anything),
        )

    def body(self) -> bytes:
        self._number += 1
        return self._dice.choice(self._kinds)()

    def block(self) -> bytes:
        dice = self._dice
        if dice.random() < 0.6:
            return b""
        if dice.random() < 0.1:
            return dice.randbytes(dice.randrange(1, 40))
        if dice.random() < 0.3:  # an id that contradicts the body's, or one that came before
            name = dice.choice(("Nats-Msg-Id", "nats-msg-id", "NATS-MSG-ID"))
            value = dice.choice((f"h{self._number}", f"e{dice.randrange(self._number + 1)}", "\0"))
            return f"NATS/1.0\r\n{name}: {value}\r\n{name}: other\r\n\r\n".encode()
        return dice.choice(BLOCKS)

    def large(self) -> bytes:
        self._number += 1
        size = LARGEST - 400
        filler = self._dice.choice(("x", "\\u0000", "[", "9", "\\ud83d"))
        document = json.dumps(self._envelope(payload={"n": self._number, "fill": "FILL"}))
        fill = filler * (size // len(filler))
        wanted = fill if filler not in "[9" else f'"{fill}"'[1:-1]
        return document.replace("FILL", wanted).encode()

    def _envelope(self, **changes: Any) -> dict[str, Any]:
        n = self._number
        document: dict[str, Any] = {
            "event_id": f"e{n}",
            "schema_version": self._dice.choice((1, 1, 1, 2, 3)),
            "event_type": f"{self._dice.choice(TYPES)}.changed",
            "producer": "hostile",
            "resource_id": str(self._dice.randrange(40)),
            "occurred_at": "2026-01-02T03:04:05Z",
            "trace_id": "t",
            "resource_type": "thing",
            "payload": {"n": n},
        }
        return document | changes

    def _plain(self) -> bytes:
        return json.dumps(self._envelope()).encode()

    def _odd_fields(self) -> bytes:
        """Fields of every type, or missing."""
        document = self._envelope()
        for name in self._dice.sample(list(document), self._dice.randrange(1, 4)):
            if self._dice.random() < 0.2:
                del document[name]
            else:
                document[name] = self._odd(name)
        return json.dumps(document).encode()

    def _odd(self, name: str = "") -> Any:
        if name == "occurred_at":
            return self._dice.choice(ODD_TIMES)
        return self._dice.choice((*ODD_TEXTS, *ODD_VALUES))

    def _odd_payload(self) -> bytes:
        payload: Any = {"n": self._number}
        for _ in range(self._dice.randrange(1, 4)):
            key = self._dice.choice(("n", "at", "name", *ODD_TEXTS))
            payload[key] = self._odd()
        return json.dumps(self._envelope(payload=payload)).encode()

    def _raw(self) -> bytes:
        return self._dice.choice(RAW)

    def _deep(self) -> bytes:
        levels = self._dice.choice((100, 190, 199, 201, 600, 10_000, 10_000))
        opens, closes = self._dice.choice((("[", "]"), ('{"a":', "}")))
        inner = opens * levels + "1" + closes * (levels if self._dice.random() < 0.8 else 0)
        document = json.dumps(self._envelope(payload="INNER"))
        return document.replace('"INNER"', inner).encode()

    def _twice(self) -> bytes:
        """A key that comes twice, the second time with another value."""
        document = json.dumps(self._envelope())
        name = self._dice.choice(("event_id", "event_type", "payload", "resource_id"))
        return f"{document[:-1]}, {json.dumps(name)}: {json.dumps(self._odd())}}}".encode()

    def _broken(self) -> bytes:
        """A good event, of which some bytes were changed, lost or added."""
        body = bytearray(self._plain())
        for _ in range(self._dice.randrange(1, 5)):
            at = self._dice.randrange(len(body))
            what = self._dice.randrange(4)
            if what == 0:
                body[at] = self._dice.randrange(256)
            elif what == 1:
                del body[at : at + self._dice.randrange(1, 20)]
            elif what == 2:
                body[at:at] = self._dice.choice((b"\xff", b"\xc3", b"\\ud83d", b"\0", b"\\u0000"))
            else:
                del body[at:]
            if not body:
                break
        return bytes(body)

    def _anything(self) -> bytes:
        return json.dumps(self._envelope(payload=self._document(4))).encode()

    def _document(self, levels: int) -> Any:
        dice = self._dice
        if levels == 0 or dice.random() < 0.3:
            return self._odd()
        if dice.random() < 0.5:
            return [self._document(levels - 1) for _ in range(dice.randrange(4))]
        keys = ("n", *ODD_TEXTS)
        return {dice.choice(keys): self._document(levels - 1) for _ in range(dice.randrange(4))}
