"""JSON of peers: whatever the bytes, there is a value that can be used, or a plain refusal."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetstream_bridge.core.errors import EnvelopeError, InvalidEventError, MalformedJSONError
from jetstream_bridge.events.dead_letter import read_letter
from jetstream_bridge.events.envelope import build
from jetstream_bridge.events.event import Metadata
from jetstream_bridge.events.frozen_json import frozen, thawed
from jetstream_bridge.events.json_documents import DEEPEST, is_deeper, read_json
from jetstream_bridge.events.received_envelope import is_usable_id, message_key, parse
from jetstream_bridge.operations.replaying import original_key

PIECES = st.sampled_from(
    [
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b":",
        b",",
        b"\\",
        b"\\ud83d",
        b"\\ude00",
        b"\\u0000",
        b"1e999",
        b"null",
        b"true",
        b"-0",
        b"NaN",
        b"9" * 400,
        b"\xff",
        b"\x00",
        b"\xef\xbb\xbf",
        b"\\\\",
    ]
)
TEXTS = st.lists(PIECES | st.binary(max_size=3), max_size=20).map(b"".join)
# Also halves of surrogate pairs, as a JavaScript that cuts a text in two writes them.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=5,
)
FIELDS = ["event_id", "schema_version", "producer", "resource_id", "occurred_at", "trace_id"]
ENVELOPES = st.fixed_dictionaries(
    {"event_type": VALUES, "payload": VALUES},
    optional=dict.fromkeys([*FIELDS, "resource_type", "more"], VALUES),
)


def is_unicode(value: Any) -> bool:
    json.dumps(value, ensure_ascii=False).encode()
    return True


@given(TEXTS)
def test_any_bytes_are_a_value_or_are_refused(body: bytes) -> None:
    try:
        value, text = read_json(body)
    except MalformedJSONError as error:
        str(error).encode()
    else:
        assert is_unicode(value)
        assert read_json(text) == (value, text)


@given(ENVELOPES)
def test_any_object_is_an_envelope_or_is_refused(document: dict[str, Any]) -> None:
    try:
        envelope = parse(json.dumps(document).encode())
    except EnvelopeError as error:
        str(error).encode()
        return
    assert is_unicode(envelope.raw)
    assert thawed(frozen(envelope.raw)) == envelope.raw
    key = message_key({}, envelope, "7:1")
    assert key == envelope.event_id or key.startswith("seq:7:1")
    assert is_usable_id(key)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (r'"\ud83d"', "\ufffd"),
        (r'"a\ud83db"', "a\ufffdb"),
        (r'"\ud83d\ude00"', "\U0001f600"),
        (r'"\ude00\ud83d"', "\ufffd\ufffd"),
        (r'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
        (r'"\\ud83d \ud83d"', "\\ud83d \ufffd"),
        (r'"\\\ud83d"', "\\\ufffd"),
        (r'{"\uD83D": 1}', {"\ufffd": 1}),
    ],
)
def test_half_of_a_surrogate_pair_is_read_as_a_replacement(text: str, read: object) -> None:
    value, valid = read_json(text.encode())
    assert value == read
    assert json.loads(valid) == read


@pytest.mark.parametrize("levels", [DEEPEST + 2, 600, 10_000, 200_000])
@pytest.mark.parametrize(("opens", "closes"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_what_is_nested_without_end_is_refused(levels: int, opens: bytes, closes: bytes) -> None:
    with pytest.raises(MalformedJSONError, match="recursion limit"):
        read_json(opens * levels + b"1" + closes * levels)
    with pytest.raises(MalformedJSONError):
        read_json(opens * levels)


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def test_what_is_read_can_be_copied_frozen_and_written_again() -> None:
    value, _ = read_json(json.dumps(nested(DEEPEST)).encode())
    assert thawed(frozen(value)) == copy.deepcopy(value) == value
    assert not is_deeper(value, DEEPEST)


def test_what_is_published_can_be_read() -> None:
    body = build("a.b", nested(DEEPEST - 1), producer="p").to_json()
    assert parse(body.encode()).payload == nested(DEEPEST - 1)
    with pytest.raises(InvalidEventError, match="nested too deeply"):
        build("a.b", nested(DEEPEST + 1), producer="p").to_json()
    wide: dict[str, Any] = {str(n): [[]] for n in range(DEEPEST)}
    assert parse(build("a.b", wide, producer="p").to_json().encode()).payload == wide


@pytest.mark.parametrize(
    "event_id",
    [rb'"a\ud83d"', rb'"\u0000a"', b'""', b'" "', b"1e999", b"true", b"{}", b'"%b"' % (b"x" * 256)],
)
def test_an_id_that_cannot_tell_events_apart_is_none(event_id: bytes) -> None:
    body = b'{"event_type":"a","payload":1,"event_id":%b}' % event_id
    assert message_key({}, parse(body), "7:1").startswith("seq:7:1")


@pytest.mark.parametrize("event_id", ["9" * 300, "seq:8"])
def test_an_id_of_the_senders_is_never_taken_for_the_place_of_another_event(event_id: str) -> None:
    body = json.dumps({"event_type": "a", "payload": 1, "event_id": event_id}).encode()
    assert message_key({"Nats-Msg-Id": event_id}, parse(body), "7:1").startswith("seq:7:1")


CONTEXTS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        [
            "event_id",
            "reason",
            "error_message",
            "error_class",
            "deliveries",
            "sequence",
            "original_subject",
            "consumer",
            "published_at",
            "raised_at",
        ],
        VALUES,
    ),
)
HEADERS = st.dictionaries(
    st.sampled_from(["Nats-Msg-Id", "nats-msg-id", "x-dlq-reason", "X-Deliveries", "x-replay-key"]),
    st.text(max_size=20),
)


@given(TEXTS | ENVELOPES.map(lambda d: json.dumps(d).encode()), CONTEXTS | TEXTS, HEADERS)
def test_any_letter_is_read_as_text_that_can_be_shown(
    body: bytes, context: dict[str, Any] | bytes, headers: dict[str, str]
) -> None:
    told = json.dumps(context) if isinstance(context, dict) else context.decode(errors="replace")
    at = Metadata(
        subject="s", stream="S", sequence=1, consumer="", deliveries=0, timestamp=datetime.now(UTC)
    )
    letter, _ = read_letter(body, headers | {"x-dlq-context": told}, at)
    assert letter.body == body
    for shown in (letter.reason, letter.error, letter.event_id, letter.original_subject):
        shown.encode()
    if letter.event is not None:
        assert is_unicode(letter.event.to_envelope())
    message_key(headers, None, "7")
    original_key(letter)
