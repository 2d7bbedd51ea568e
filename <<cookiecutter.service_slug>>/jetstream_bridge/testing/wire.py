"""The protocol of NATS, seen from the server: bytes of a client in, commands out, and back.

nats-py's own client talks to the mock through this, byte for byte as it does through a socket, so
that its states, callbacks, buffers and time limits are its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_CRLF = b"\r\n"
_STATUS_LINE = b"NATS/1.0"


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a client: its name, its words, and for a publish what it carries."""

    name: str
    words: tuple[str, ...] = ()
    headers: bytes = b""
    data: bytes = b""
    text: str = ""  # all that follows the name


class CommandReader:
    """Cuts what a client sends into commands."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Command]:
        self._buffer += data
        while (command := self._next()) is not None:
            yield command

    def _next(self) -> Command | None:
        end = self._buffer.find(_CRLF)
        if end < 0:
            return None
        line = self._buffer[:end].decode()
        name, _, text = line.partition(" ")
        words = tuple(text.split())
        if name not in ("PUB", "HPUB"):
            del self._buffer[: end + 2]
            return Command(name, words, text=text)
        size = int(words[-1])
        start = end + 2
        if len(self._buffer) < start + size + 2:
            return None
        body = bytes(self._buffer[start : start + size])
        del self._buffer[: start + size + 2]
        head = int(words[-2]) if name == "HPUB" else 0
        return Command(name, words, headers=body[:head], data=body[head:])


def message(subject: str, sid: str, reply: str | None, headers: bytes, data: bytes) -> bytes:
    """A message as the server sends it to a subscription."""
    back = f" {reply}" if reply else ""
    if headers:
        line = f"HMSG {subject} {sid}{back} {len(headers)} {len(headers) + len(data)}"
    else:
        line = f"MSG {subject} {sid}{back} {len(data)}"
    return line.encode() + _CRLF + headers + data + _CRLF


def status(code: int, description: str = "", **fields: str) -> bytes:
    """The headers of a status message; keywords are further headers, `_` standing for `-`."""
    head = f"NATS/1.0 {code} {description}".rstrip()
    lines = [head, *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def header_block(headers: Mapping[str, str]) -> bytes:
    """Headers as a client sends them."""
    if not headers:
        return b""
    lines = ["NATS/1.0", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def header_values(headers: bytes) -> dict[str, str]:
    """The first value of each header; names are as they were sent."""
    found: dict[str, str] = {}
    if not headers.startswith(_STATUS_LINE):
        return found
    for line in headers.decode(errors="replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found
