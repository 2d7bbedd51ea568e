"""Handlers: which one gets an event, and what it may ask for."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from pydantic import BaseModel
from sqlmodel.ext.asyncio.session import AsyncSession
from structlog.stdlib import BoundLogger

from jetstream_bridge import BridgeConfig, Consumers, DeadLetter, Event, Exponential, Publisher
from jetstream_bridge.core.errors import InvalidSubjectError, PayloadError, RegistrationError
from jetstream_bridge.events.received_envelope import ReceivedEnvelope, parse
from jetstream_bridge.inbox.assembly import warn_of_unused


class Change(BaseModel):
    n: int


def received(event_type: str, resource_type: str = "", **payload: object) -> ReceivedEnvelope:
    body = {"event_type": event_type, "resource_type": resource_type, "payload": payload}
    return parse(json.dumps(body).encode())


async def handle(event: Event[dict[str, Any]]) -> None:
    """Does nothing."""


async def mourn(letter: DeadLetter) -> None:
    """Does nothing."""


def config(**changes: Any) -> BridgeConfig:
    return BridgeConfig(app_name="billing", destination_app="orders", env="test", **changes)


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


@pytest.mark.parametrize("event_type", ["user.created", "user.updated", "team.joined"])
def test_one_handler_may_take_several_types(event_type: str) -> None:
    consumers = Consumers()
    consumers.on("user.created", "user.updated", "team.*")(handle)
    handler = consumers.find(received(event_type), None)
    assert handler is not None
    assert consumers.find(received("user.deleted"), None) is None
    assert handler.pattern_of(received(event_type)) in ("user.created", "user.updated", "team.*")
    assert handler.pattern_of(received("team.joined")) == "team.*"


def test_the_dotted_type_decides_before_the_senders_spelling() -> None:
    consumers = Consumers()

    async def short(event: Event[dict[str, Any]]) -> None: ...

    consumers.on("created")(short)
    consumers.on("user.created")(handle)
    found = consumers.find(received("created", "user"), None)
    assert found is not None and found.function is handle
    found = consumers.find(received("created", "team"), None)
    assert found is not None and found.function is short


@pytest.mark.parametrize(
    ("event_types", "named"),
    [
        ((), "no event type"),
        ((handle,), "no text"),
        (("user.created", "user.created"), "same events"),
        (("user.created", "user.*"), "drop the narrower"),
        (("*", "user.*"), "drop the narrower"),
        (("user.created", "user**"), "no pattern"),
    ],
)
def test_types_that_do_not_go_together_are_refused(
    event_types: tuple[Any, ...], named: str
) -> None:
    with pytest.raises(RegistrationError, match=named):
        Consumers().on(*event_types)


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
        ("team.joined user.created", "order.placed user.created"),
        ("team.joined user.*", "order.placed user.created"),
    ],
)
def test_two_handlers_of_one_event_are_refused_with_both_places(first: str, second: str) -> None:
    consumers = Consumers()
    consumers.on(*first.split())(handle)
    with pytest.raises(RegistrationError) as refused:
        consumers.on(*second.split())(handle)
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
        event: Event[Change],
        session: AsyncSession,
        events: Publisher,
        log: logging.Logger,
        bound: BoundLogger,
    ) -> None:
        """Does nothing."""

    handler = consumers.find(received("a.b"), None)
    assert handler is not None
    assert handler.options.isolated
    assert [name for name, _ in handler.wants] == [
        "event",
        "session",
        "events",
        "log",
        "bound",
    ]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"concurrency": True}, "concurrency=True"),
        ({"max_deliver": -1}, "max_deliver=-1"),
        ({"schema_version": 1.5}, "schema_version=1.5"),
        ({"isolated": True, "batch_size": 5}, "isolated=True .* batch_size=5"),
        ({"retry": 5.0}, "no retry strategy"),
        ({"retry": Exponential}, "no retry strategy"),
        ({"ack_wait": "soon"}, "ack_wait='soon'"),
        ({"ack_wait": 0}, "no time at all"),
        ({"middlewares": [object()]}, "no middleware"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(RegistrationError, match=named):
        Consumers().on("a.b", **options)


@pytest.mark.parametrize("option", ["batch_size", "concurrency", "max_deliver"])
def test_the_options_of_a_dead_letter_handler_are_checked_too(option: str) -> None:
    with pytest.raises(RegistrationError, match=f"{option}=0"):
        Consumers().on_dead_letter(**{option: 0})  # type: ignore[arg-type]


def test_a_durable_that_nats_would_refuse_is_refused() -> None:
    with pytest.raises(InvalidSubjectError, match=r"durable 'a\.b'"):
        Consumers().on("a.b", durable="a.b")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"durable": "one"}, {"durable": "two"}),
        ({"ack_wait": "30s"}, {"ack_wait": "31s"}),
    ],
)
def test_handlers_of_one_source_that_want_different_durables_are_refused_with_both_places(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    consumers = Consumers()
    consumers.on("a.b", **first)(handle)
    consumers.on("a.c", source="other", **second)(handle)  # a durable of its own
    consumers.on("a.d", **first)(handle)  # the same again
    consumers.on("a.e")(handle)
    with pytest.raises(RegistrationError, match="through one durable") as refused:
        consumers.on("a.f", **second)(handle)
    assert str(refused.value).count("test_registry.py:") == 2


def test_a_durable_is_named_once_for_all_handlers_of_its_source() -> None:
    consumers = Consumers()
    consumers.on("a.b")(handle)
    consumers.on("a.c", durable="own", ack_wait="5m")(handle)
    consumers.on("a.b", source="crm")(handle)
    consumers.on_dead_letter()(mourn)
    own, crm, letters = consumers.durables(config(ack_wait=10.0))
    assert (own.name, own.subject, own.ack_wait) == ("own", "test.orders.sync.billing", 300.0)
    assert (crm.name, crm.ack_wait) == ("test-billing-workers-crm", 10.0)
    assert (letters.name, letters.subject) == (
        "test-billing-workers-dlq",
        "test.billing.sync.dlq",
    )


def test_one_durable_cannot_read_two_sources() -> None:
    consumers = Consumers()
    consumers.on("a.b", durable="own")(handle)
    consumers.on("a.b", source="crm", durable="own")(handle)
    with pytest.raises(RegistrationError, match=r"'own' .* test\.orders\.sync.* test\.crm\.sync"):
        consumers.durables(config())


def test_the_default_destination_is_no_further_source() -> None:
    consumers = Consumers()
    consumers.on("a.b", source="orders")(handle)
    with pytest.raises(RegistrationError, match="leave it out"):
        consumers.durables(config())


def test_without_dead_letters_there_is_no_durable_for_them() -> None:
    consumers = Consumers()
    consumers.on_dead_letter()(mourn)
    assert [spec.name for spec in consumers.durables(config(use_dlq=False))] == [
        "test-billing-workers"
    ]


def test_two_handlers_of_dead_letters_are_refused_with_both_places() -> None:
    consumers = Consumers()
    consumers.on_dead_letter()(mourn)
    with pytest.raises(RegistrationError) as refused:
        consumers.on_dead_letter()(mourn)
    assert str(refused.value).count("test_registry.py:") == 2


def test_limits_beyond_the_workers_own_are_told(caplog: pytest.LogCaptureFixture) -> None:
    consumers = Consumers()
    consumers.on("a.b", concurrency=9, batch_size=200)(handle)
    consumers.on("a.c", concurrency=8, batch_size=201)(handle)
    consumers.on_dead_letter()(mourn)
    warn_of_unused(consumers, config(use_dlq=False))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert "USE_DLQ" in told[0]
    assert "concurrency=9" in told[1] and "WORKER_CONCURRENCY is 8" in told[1]
    assert "batch_size=201" in told[2] and "WORKER_BATCH_SIZE is 200" in told[2]


def test_a_handler_of_dead_letters_asks_for_the_letter() -> None:
    async def no_letter(session: AsyncSession) -> None: ...

    async def event_instead(event: Event[dict[str, Any]]) -> None: ...

    async def letter_of_events(event: Event[dict[str, Any]], letter: DeadLetter) -> None: ...

    with pytest.raises(RegistrationError, match="letter: DeadLetter"):
        Consumers().on_dead_letter()(no_letter)
    with pytest.raises(RegistrationError, match=r"'event'.*annotate it as DeadLetter"):
        Consumers().on_dead_letter()(event_instead)
    with pytest.raises(RegistrationError, match=r"on_dead_letter\(\)"):
        Consumers().on("a.b")(letter_of_events)


def test_an_annotation_that_does_not_exist_at_run_time_is_named() -> None:
    async def late(event: Event[Nowhere]) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(RegistrationError, match=r"'Nowhere'.*TYPE_CHECKING"):
        Consumers().on("a.b")(late)


def test_parameters_that_cannot_be_named_are_refused() -> None:
    async def by_place(event: Event[dict[str, Any]], /) -> None: ...

    async def many(event: Event[dict[str, Any]], *sessions: AsyncSession) -> None: ...

    for function in (by_place, many):
        with pytest.raises(RegistrationError, match="cannot be passed by name"):
            Consumers().on("a.b")(function)


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
