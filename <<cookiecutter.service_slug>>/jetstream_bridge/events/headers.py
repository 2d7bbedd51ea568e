"""Headers of messages: read from whatever a peer sent, and which of them may travel on.

Reading never fails. A block of headers is bytes that any peer may have written; an error that
leaves nats-py's own reader ends its read loop, and with it everything else on the connection.
"""

from __future__ import annotations

from collections.abc import Mapping

from jetstream_bridge.events.wire_rules import HEADER_NAME, RESERVED

VERSION = b"NATS/1.0"


def parse_block(block: bytes) -> dict[str, str]:
    """Return the headers of a block `NATS/1.0[ status[ description]]`, then a line for each.

    What is no header is passed over. Of a name that comes twice the first value counts, as it
    does for the server. Values are valid text: bytes that are not become U+FFFD.
    """
    found: dict[str, str] = {}
    if block.startswith(VERSION):
        first, _, block = block.partition(b"\r\n")
        _read_status(first[len(VERSION) :], found)
    # Of the whole block at once: what is no UTF-8 ends at a line's end at the latest.
    for line in block.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon and (key := name.strip()):
            found.setdefault(key, value.strip())
    return found


_BREAKS = str.maketrans("\r\n", "  ")


def write_block(headers: Mapping[str, str]) -> bytes:
    """Return `headers` as they travel, nothing for none: values have no blanks at their ends, and
    blanks in place of line breaks. Names are those that `wire_rules.sending_flaw` lets pass."""
    if not headers:
        return b""
    lines = [f"{name}: {value.strip().translate(_BREAKS)}\r\n" for name, value in headers.items()]
    return f"NATS/1.0\r\n{''.join(lines)}\r\n".encode()


def _read_status(text: bytes, found: dict[str, str]) -> None:
    """Read the server's own word, such as ` 408 Request Timeout`, where there is one."""
    status, _, description = text.strip().partition(b" ")
    if status.isdigit():
        found["Status"] = status.decode("ascii")
    if description := description.strip():
        found["Description"] = description.decode("utf-8", "replace")


def is_control(name: str) -> bool:
    """Whether a header speaks to JetStream and not to the receiver of the event.

    `Nats-Rollup` erases other messages, `Nats-TTL` lets one vanish, `Nats-Expected-*` has it
    refused: said of one message, they must not be said again of another, in whatever case.
    """
    return name.strip().lower().startswith(RESERVED)


def carriable(headers: Mapping[str, str]) -> dict[str, str]:
    """Return those headers that an event keeps on its further way: no control, no odd names."""
    return {
        name: value
        for name, value in headers.items()
        if HEADER_NAME.fullmatch(name) and not is_control(name)
    }


def left_behind(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that `carriable` leaves out, for a person to look at."""
    kept = carriable(headers)
    return {name: value for name, value in headers.items() if name not in kept}
