"""Names on the wire, and NATS' own rules of matching and overlap."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetstream_bridge.core.config import BridgeConfig, ConnectionOptions
from jetstream_bridge.core.errors import InvalidSubjectError
from jetstream_bridge.core.subjects import (
    AppNames,
    covered,
    matches,
    overlaps,
    validate_app,
    validate_component,
    validate_subject,
)
from jetstream_bridge.nats.connection import Connection
from jetstream_bridge.nats.management import StreamApi
from jetstream_bridge.testing.servers import NatsServer
from jetstream_bridge.topology.plan import new_stream

API = AppNames(env="production", app="api")
WORKER = AppNames(env="production", app="worker")

pattern = st.builds(
    lambda tokens, tail: ".".join([*tokens, *tail]),
    st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=4),
    st.sampled_from([[], [">"]]),
)
subject = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5).map(".".join)


# --- names


def test_names_are_those_of_the_wire_format() -> None:
    assert API.stream() == "production-jetstream-bridge-stream"
    assert API.publish("worker") == "production.api.sync.worker"
    assert API.subscribe("worker") == "production.worker.sync.api"
    assert API.dead_letter == "production.api.sync.dlq"
    assert API.durable() == "production-api-workers"
    assert API.durable("billing") == "production-api-workers-billing"
    assert API.stream("shared") == "shared"


def test_what_one_side_publishes_the_other_subscribes_to() -> None:
    assert API.publish("worker") == WORKER.subscribe("api")
    assert WORKER.publish("api") == API.subscribe("worker")
    assert API.dead_letter != WORKER.dead_letter


@pytest.mark.parametrize("value", ["a", "orders-service", "Orders_2", "é", "a" * 255, "$x", "a/b"])
def test_a_component_of_ordinary_characters_is_kept(value: str) -> None:
    assert validate_component("APP_NAME", value) == value


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "a.b", "a*", "*", ">", "a>b", "a b", "a\tb", "a\nb", "a\r", "\x00", "a\x7f"),
        *("a\x85", "a\u00a0b", "a\u2028", "\ud800", "a" * 256),
    ],
)
def test_a_component_that_would_change_the_subject_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidSubjectError, match=r"APP_NAME .* write 1 to 255"):
        validate_component("APP_NAME", value)
    with pytest.raises(InvalidSubjectError, match="APP_NAME"):
        AppNames(env="test", app=value)
    with pytest.raises(InvalidSubjectError, match="NATS_ENV"):
        AppNames(env=value, app="api")
    with pytest.raises(InvalidSubjectError, match="destination"):
        API.publish(value)
    with pytest.raises(InvalidSubjectError, match="source"):
        API.durable(value)


@pytest.mark.parametrize("value", [None, 5, ["billing"]])
def test_a_destination_that_is_no_text_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidSubjectError, match="destination"):
        API.publish(value)


def test_no_application_is_called_as_the_dead_letters() -> None:
    with pytest.raises(InvalidSubjectError, match="'dlq' would make the dead-letter subject"):
        validate_app("APP_NAME", "dlq")
    with pytest.raises(InvalidSubjectError):
        AppNames(env="test", app="dlq")
    with pytest.raises(InvalidSubjectError):
        API.publish("dlq")
    with pytest.raises(InvalidSubjectError):
        API.subscribe("dlq")


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a/b", "a\\b", "a>", "a" * 256])
def test_a_stream_name_that_nats_refuses_is_refused(name: str) -> None:
    with pytest.raises(InvalidSubjectError, match="NATS_STREAM"):
        API.stream(name)


def test_a_name_that_grows_too_long_is_refused_with_its_length() -> None:
    long = AppNames(env="e" * 200, app="a" * 200)
    with pytest.raises(InvalidSubjectError, match="has 409 characters"):
        long.durable()


# --- subjects


@pytest.mark.parametrize("value", ["a", "a.b.c", "production.api.sync.worker", "$JS.API.INFO", "é"])
def test_a_literal_subject_may_be_published_on(value: str) -> None:
    assert validate_subject(value) == value


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("", "empty"),
        (".", "empty token"),
        ("a.", "empty token"),
        (".a", "empty token"),
        ("a..b", "empty token"),
        ("a b", "contains ' '"),
        ("a\tb", "contains"),
        ("a\r\nPUB x", "contains"),
        ("a\x00", "contains"),
        ("a.*", "wildcard"),
        ("a.>", "wildcard"),
        ("a.b*", "wildcard"),
        ("a" * 3001, "3001 bytes"),
    ],
)
def test_a_subject_that_nats_would_misread_is_refused(value: str, fault: str) -> None:
    with pytest.raises(InvalidSubjectError, match=fault):
        validate_subject(value)


# --- matching


@pytest.mark.parametrize(
    ("pattern_", "subject_", "expected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a.b", "a", False),
        ("a", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*.b", "a.b", True),
        ("*.*", "a.b", True),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c.d", True),
        ("a.>", "a", False),
        (">", "a", True),
        (">", "a.b", True),
        ("a.*.>", "a.b.c", True),
        ("a.*.>", "a.b", False),
        # patterns in the place of the subject
        ("a.*", "a.*", True),
        ("a.*", "a.>", False),
        ("a.>", "a.*", True),
        ("a.>", "a.>", True),
        ("a.b", "a.*", False),
        (">", "a.>", True),
        ("a.>", ">", False),
        ("*", ">", False),
    ],
)
def test_matching(pattern_: str, subject_: str, expected: bool) -> None:
    assert matches(pattern_, subject_) is expected


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "*.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a", False),
        ("a.>", "a.b", True),
        ("a.>", "*.b", True),
        ("a.>", "b.>", False),
        ("a.*.c.>", "a.b.*", False),
        ("a.*.c.>", "a.b.*.d", True),
        ("a.*.c.>", "a.b.>", True),
        (">", "a", True),
        ("*", "a.b", False),
    ],
)
def test_overlap(left: str, right: str, expected: bool) -> None:
    assert overlaps(left, right) is expected
    assert overlaps(right, left) is expected


def test_covered_looks_at_each_pattern() -> None:
    assert covered(["x", "a.*"], "a.b")
    assert not covered(["x", "a.*"], "a.b.c")
    assert not covered([], "a")


@given(pattern, pattern)
def test_overlap_is_symmetric_and_follows_from_matching(left: str, right: str) -> None:
    assert overlaps(left, right) == overlaps(right, left)
    if matches(left, right):
        assert overlaps(left, right)


@given(pattern, pattern, subject)
def test_a_subject_that_matches_both_is_an_overlap(left: str, right: str, literal: str) -> None:
    if matches(left, literal) and matches(right, literal):
        assert overlaps(left, right)


@given(pattern, pattern, subject)
def test_a_pattern_takes_in_what_the_patterns_it_takes_in_do(
    wide: str, narrow: str, literal: str
) -> None:
    if matches(wide, narrow) and matches(narrow, literal):
        assert matches(wide, literal)


async def test_overlap_is_decided_as_the_server_decides_it(nats_server: NatsServer) -> None:
    tokens = [list(itertools.product("a*", repeat=length)) for length in range(3)]
    ends: list[tuple[str, ...]] = [("b",), ("*",), (">",)]
    patterns = [
        ".".join(["x", *middle, *end]) for group in tokens for middle in group for end in ends
    ]
    connection = Connection(ConnectionOptions(urls=(nats_server.url,)), name="subjects")
    await connection.start()
    try:
        await connection.wait_connected(10)
        api = StreamApi(connection)
        config = BridgeConfig(app_name="a", destination_app="b", stream_name="s")
        await api.create_stream(new_stream(config, ["y"]))
        for left in patterns:
            await api.update_stream(new_stream(config, [left]))
            for right in patterns:
                found = await api.streams_with(right) == ["s"]
                assert overlaps(left, right) is found, (left, right)
    finally:
        await connection.close()
