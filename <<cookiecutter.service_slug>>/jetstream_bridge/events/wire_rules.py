"""What the wire carries unchanged: the rules for headers and event ids, each in one place.

nats-py strips blanks at both ends of a header, turns line breaks into blanks, leaves out a header
without a name and refuses other names; a value beyond ASCII reaches a Python reader as no text.
So the ids `x` and ` x ` would be one message to the stream, and the second a duplicate that is
dropped. What would not arrive as it was given is refused, and the refusal names it.

Nothing here raises: each function returns what is wrong, as a sentence with the remedy, or None.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from nats.aio.msg import Msg

from jetstream_bridge.core.errors import InvalidSubjectError
from jetstream_bridge.core.subjects import validate_subject

ID_HEADER = "Nats-Msg-Id"
GEM_ID_HEADER = "nats-msg-id"  # what jetstream_bridge peers write; the server ignores it
# A replayed event has an id of its own in the stream, and says here which event it is: the JSON
# text of its key, since a header's value is ASCII.
REPLAY_ID = "replay:"
REPLAY_KEY_HEADER = "x-replay-key"
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

MAX_ID = 255  # characters of an event id, a resource id, a type
MAX_HEADERS = 65535  # bytes of all headers together; nats-server's limit for a stream's message
# What the server does something about. It belongs to whoever sends, and not to an event: it would
# expire it unread, erase others, or make the stream refuse it.
RESERVED = "nats-"

HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")


def header_size(headers: Mapping[str, str]) -> int:
    """Return the bytes that `headers` take on the wire; the server counts them as payload."""
    if not headers:
        return 0
    return 12 + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())


def message_size(msg: Msg) -> int:
    """Return about the bytes that the server counts for a message, and that it takes here."""
    return len(msg.data) + len(msg.subject) + len(msg.reply) + header_size(msg.headers or {})


@functools.lru_cache(
    maxsize=1024
)  # a service has few subjects, and each costs a look at every letter
def subject_flaw(subject: str) -> str | None:
    """What is wrong with the subject of a message."""
    try:
        validate_subject(subject)
    except InvalidSubjectError as error:
        return str(error)
    return None


def sending_flaw(subject: str, headers: Mapping[str, str]) -> str | None:
    """What makes the client refuse to send this, or the server close the connection."""
    if (flaw := subject_flaw(subject)) is not None:
        return flaw
    for name, value in headers.items():
        if not isinstance(name, str) or not HEADER_NAME.fullmatch(name):
            return _name_flaw(name)
        if not isinstance(value, str):
            return f"header {name} has the value {value!a:.200}, which is no text"
        if not value.isascii() and not _is_unicode(value):
            return f"header {name} has the value {value!a:.200}, which is not valid Unicode"
    return None


def header_flaw(name: object, value: object) -> str | None:
    """What is wrong with one header that a publisher or a row gives."""
    if not isinstance(name, str) or not HEADER_NAME.fullmatch(name):
        return _name_flaw(name)
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        return (
            f"header {name} has the value {value!a:.200}; "
            "write printable ASCII on one line, without blanks at its ends"
        )
    if name.lower() == GEM_ID_HEADER:
        return f"header {name} is the event id; give event_id instead"
    if name.lower().startswith(RESERVED):
        return (
            f"header {name} is an order to the server and not a part of the event; "
            "leave out names that begin with Nats-"
        )
    return None


def headers_flaw(headers: object) -> str | None:
    """What is wrong with the headers of an event, together or one by one."""
    if not isinstance(headers, Mapping):
        return f"the headers are {headers!a:.200}; write an object of names and texts"
    for name, value in headers.items():
        if (flaw := header_flaw(name, value)) is not None:
            return flaw
    size = header_size(headers)
    if size > MAX_HEADERS:
        return f"the headers have {size} bytes; the server takes {MAX_HEADERS}"
    return None


def event_id_flaw(event_id: object) -> str | None:
    """What is wrong with an event's id, which is also the value of a header."""
    if not isinstance(event_id, str) or not event_id.strip() or len(event_id) > MAX_ID:
        return f"event_id {event_id!a:.300} is not a text of 1 to {MAX_ID} characters"
    if not _VALUE.fullmatch(event_id):
        return f"event_id {event_id!a} is not plain ASCII without outer blanks"
    return None


def _name_flaw(name: object) -> str:
    return (
        f"header name {name!a:.200} is not plain ASCII without ':', '/' or space; "
        "write letters, digits and '-'"
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
