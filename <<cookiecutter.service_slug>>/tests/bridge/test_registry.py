"""Handlers: which one gets an event, and what it may ask for."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from pydantic import BaseModel
from sqlmodel.ext.asyncio.session import AsyncSession

from app.bridge import Consumers, Event, Publisher
from app.bridge.envelope import ReceivedEnvelope, parse
from app.bridge.errors import InvalidSubjectError, PayloadError, RegistrationError


class Change(BaseModel):
    n: int


def received(event_type: str, resource_type: str = "", **payload: object) -> ReceivedEnvelope:
    body = {"event_type": event_type, "resource_type": resource_type, "payload": payload}
    return parse(json.dumps(body).encode())


async def handle(event: Event[dict[str, Any]]) -> None:
    """Does nothing."""


@pytest.mark.parametrize(
    ("pattern", "event_type", "resource_type", "taken"),
    [
        ("user.created", "user.created", "user", True),
        ("user.created", "created", "user", True),
        ("user.created", "user.updated", "user", False),
        ("user.*", "user.updated", "user", True),
        ("user.*", "user.address.changed", "user", True),
        ("user.*", "updated", "user", True),
        ("user.*", "users.updated", "users", False),
        ("user.*", "user", "", False),
        ("heartbeat", "heartbeat", "event", True),
        ("*", "anything", "", True),
    ],
)
def test_a_handler_takes_what_its_pattern_says(
    pattern: str, event_type: str, resource_type: str, taken: bool
) -> None:
    consumers = Consumers()
    consumers.on(pattern)(handle)
    assert (consumers.find(received(event_type, resource_type), None) is not None) is taken


def test_sources_are_kept_apart() -> None:
    consumers = Consumers()
    consumers.on("invoice.paid", source="billing")(handle)
    consumers.on("invoice.paid", source="archive")(handle)
    assert consumers.sources == ("archive", "billing")
    assert consumers.find(received("invoice.paid"), None) is None
    assert consumers.find(received("invoice.paid"), "billing") is not None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("user.created", "user.created"),
        ("user.*", "user.created"),
        ("user.created", "user.*"),
        ("user.*", "user.address.*"),
        ("*", "user.created"),
        ("user.created", "*"),
    ],
)
def test_two_handlers_of_one_event_are_refused_with_both_places(first: str, second: str) -> None:
    consumers = Consumers()
    consumers.on(first)(handle)
    with pytest.raises(RegistrationError) as refused:
        consumers.on(second)(handle)
    assert str(refused.value).count("test_registry.py:") == 2


@pytest.mark.parametrize("pattern", ["", ".*", "a.*.b", "*.created", "user*", " user.created"])
def test_a_pattern_that_means_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(RegistrationError, match="no pattern"):
        Consumers().on(pattern)


@pytest.mark.parametrize("source", ["dlq", "a.b", "", "*"])
def test_a_source_that_is_no_name_is_refused(source: str) -> None:
    with pytest.raises(InvalidSubjectError):
        Consumers().on("a.b", source=source)


def test_a_handler_may_ask_for_what_there_is() -> None:
    consumers = Consumers()

    @consumers.on("a.b", isolated=True)
    async def everything(
        event: Event[Change], session: AsyncSession, events: Publisher, log: logging.Logger
    ) -> None:
        """Does nothing."""

    handler = consumers.find(received("a.b"), None)
    assert handler is not None
    assert handler.options.isolated
    assert [name for name, _ in handler.wants] == ["event", "session", "events", "log"]


def test_a_handler_that_asks_for_something_else_is_refused() -> None:
    def not_async(event: Event[Change]) -> None: ...

    async def no_event(session: AsyncSession) -> None: ...

    async def unknown(event: Event[Change], n: int) -> None: ...

    async def unannotated(event: Event[Change], session) -> None: ...  # type: ignore[no-untyped-def]

    async def no_model(event: Event[int]) -> None: ...

    for function, named in [
        (not_async, "async def"),
        (no_event, "takes no event"),
        (unknown, "'n'"),
        (unannotated, "'session'"),
        (no_model, "int"),
    ]:
        with pytest.raises(RegistrationError, match=named):
            Consumers().on("a.b")(function)  # type: ignore[type-var]


def test_a_payload_is_what_the_annotation_says() -> None:
    consumers = Consumers()

    @consumers.on("a.b")
    async def typed(event: Event[Change]) -> None: ...

    handler = consumers.find(received("a.b"), None)
    assert handler is not None
    assert handler.payload(received("a.b", n="7")) == Change(n=7)


def test_an_unfitting_payload_is_named_without_its_values() -> None:
    consumers = Consumers()

    @consumers.on("a.b")
    async def typed(event: Event[Change]) -> None: ...

    handler = consumers.find(received("a.b"), None)
    assert handler is not None
    with pytest.raises(PayloadError, match=r"n: .*integer") as refused:
        handler.payload(received("a.b", n="secret"))
    assert "secret" not in str(refused.value)
