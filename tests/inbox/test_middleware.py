"""Middlewares wrap handlers, in order and in the transaction; ends are told after the commit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession
from structlog.contextvars import get_contextvars

from jetstream_bridge import Consumers, Event, Publisher, Retry, Unrecoverable
from jetstream_bridge.core.errors import (
    ConfigurationError,
    HandlerTimeoutError,
    RegistrationError,
    TransactionControlError,
)
from jetstream_bridge.inbox.middleware import (
    CallNext,
    Ended,
    ErrorHandling,
    Logging,
    Metrics,
    Timeout,
    Tracing,
)
from jetstream_bridge.inbox.middleware import tracing as tracing_module
from tests.bridge.consuming import Change, Service, insert, letter
from tests.bridge.support import envelope, rows
from tests.waiting import eventually


class Note:
    """Writes down when it is passed on the way in and on the way out."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self.notes = notes

    async def __call__(self, event: Event[Any], call_next: CallNext) -> None:
        self.notes.append(f"{self.name} in")
        await call_next(event)
        self.notes.append(f"{self.name} out")


class Ends:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Ended] = []

    def ended(self, end: Ended) -> None:
        self.told.append(end)

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return sorted((end.event_id, end.outcome) for end in self.told)


def changing(consumers: Consumers, **options: Any) -> None:
    """Register a handler that writes the event's number, and fails for number 7."""

    @consumers.on("order.changed", **options)
    async def change(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)
        if event.payload.n == 7:
            raise ValueError("no seven")


async def handled(service: Service, consumers: Consumers, *bodies: str, **changes: Any) -> None:
    for body in bodies:
        await service.send(body)
    async with service.working(consumers, **changes) as bridge:
        await eventually(service.is_empty, limit=20)
        assert bridge.failures() == []


async def test_the_first_added_is_the_outermost_and_global_ones_come_before_a_handlers_own(
    service: Service,
) -> None:
    consumers = Consumers()
    notes: list[str] = []

    @consumers.on("order.changed", middlewares=[Note("c", notes), Note("d", notes)])
    async def handle(event: Event[Change]) -> None:
        notes.append("handler")

    @consumers.on("invoice.changed")
    async def other(event: Event[dict[str, Any]]) -> None:
        notes.append("other")

    consumers.use(Note("a", notes))
    consumers.use(Note("b", notes))
    await handled(service, consumers, envelope("e1", n=1))
    assert notes == [
        *("a in", "b in", "c in", "d in", "handler"),
        *("d out", "c out", "b out", "a out"),
    ]
    notes.clear()
    await handled(service, consumers, envelope("e2", kind="invoice"))
    assert notes == ["a in", "b in", "other", "b out", "a out"]


async def test_a_function_is_a_middleware_too_and_may_ask_for_what_handlers_may(
    service: Service,
) -> None:
    consumers = Consumers()
    changing(consumers)

    async def audit(
        event: Event[Any],
        call_next: CallNext,
        session: AsyncSession,
        events: Publisher,
        log: logging.Logger,
    ) -> None:
        await insert(session, 1000 + event.payload.n)
        await events.publish("order.audited", {"id": event.payload.n})
        assert log.name == __name__
        await call_next()

    consumers.use(audit)
    await handled(
        service, consumers, envelope("e1", n=1), envelope("e7", resource="7", n=7), max_deliver=1
    )
    assert sorted(await service.effects()) == [1, 1001], "its writes share the event's fate"
    found = await rows(service.engine, "SELECT resource FROM jetstream_outbox_events")
    assert [row[0] for row in found] == ["order:1"]


async def test_a_middleware_may_hand_on_another_event(service: Service) -> None:
    consumers = Consumers()
    changing(consumers)

    async def double(event: Event[Change], call_next: CallNext) -> None:
        await call_next(replace(event, payload=Change(n=2 * event.payload.n)))

    consumers.use(double)
    await handled(service, consumers, envelope("e1", n=21))
    assert await service.effects() == [42]


async def test_a_middleware_that_does_not_go_on_ends_the_event_as_processed(
    service: Service,
) -> None:
    consumers = Consumers()
    changing(consumers)

    async def skip(event: Event[Any], call_next: CallNext) -> None:
        if event.payload.n != 1:
            await call_next(event)

    consumers.use(skip)
    await handled(service, consumers, envelope("e1", n=1), envelope("e2", resource="2", n=2))
    assert await service.effects() == [2]
    assert (await service.inbox())["e1"] == ("processed", None)


async def test_a_middleware_that_fails_fails_the_event(service: Service) -> None:
    consumers = Consumers()
    changing(consumers)

    async def refuse(event: Event[Any], call_next: CallNext) -> None:
        await call_next(event)
        raise Unrecoverable("not here")

    consumers.use(refuse)
    await handled(service, consumers, envelope("e1", n=1))
    assert await service.effects() == []
    [dead] = await service.dead_letters()
    assert letter(dead)["error_message"] == "not here"


async def test_an_error_kept_back_without_a_savepoint_fails_the_event_all_the_same(
    service: Service,
) -> None:
    """Half of the handler's writes would be committed with the rest of the batch."""
    consumers = Consumers()
    changing(consumers)

    async def silence(event: Event[Any], call_next: CallNext) -> None:
        with contextlib.suppress(ValueError):
            await call_next(event)

    consumers.use(silence)
    await handled(
        service, consumers, envelope("e7", n=7), envelope("e1", resource="1", n=1), max_deliver=1
    )
    assert await service.effects() == [1]
    [dead] = await service.dead_letters()
    assert letter(dead)["error_class"] == TransactionControlError.__name__
    assert "no seven" in letter(dead)["error_message"]
    assert "begin_nested" in letter(dead)["error_message"]


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (Logging, r"Logging is a class; give an object: Logging\(\)"),
        (object(), "no middleware"),
        (lambda event, call_next: None, "not a coroutine function"),
    ],
)
def test_what_is_no_middleware_is_refused(part: Any, named: str) -> None:
    with pytest.raises(RegistrationError, match=named):
        Consumers().use(part)


def test_a_middleware_of_the_wrong_form_is_refused() -> None:
    async def alone(event: Event[Any]) -> None: ...

    async def greedy(event: Event[Any], call_next: CallNext, n: int) -> None: ...

    class Waiting:
        async def ended(self, end: Ended) -> None: ...

    with pytest.raises(RegistrationError, match="takes no event and no call_next"):
        Consumers().use(alone)
    with pytest.raises(RegistrationError, match=r"'n'.*AsyncSession"):
        Consumers().use(greedy)
    with pytest.raises(RegistrationError, match="returns at once"):
        Consumers().use(Waiting())  # type: ignore[arg-type]


# --- how events end


async def test_each_end_is_told_once_and_after_the_commit(service: Service) -> None:
    consumers = Consumers()
    changing(consumers)
    ends = Ends()
    committed: list[bool] = []

    class Looking(Ends):
        def ended(self, end: Ended) -> None:
            committed.append(
                end.outcome != "processed" or not sessions[end.event_id].in_transaction()
            )

    sessions: dict[str, AsyncSession] = {}

    async def keep(event: Event[Any], call_next: CallNext, session: AsyncSession) -> None:
        sessions[event.event_id] = session
        await call_next(event)

    consumers.use(keep, ends, Looking())
    bodies = [envelope(f"e{n}", resource=str(n), n=n) for n in range(6, 9)]
    await handled(
        service,
        consumers,
        *bodies,
        bodies[0],
        envelope("x", kind="unknown"),
        "{broken",
        '{"event_type":"order.changed","event_id":"typo","payload":{"n":"many"}}',
        max_deliver=2,
    )
    [broken] = [end.event_id for end in ends.told if end.event_id.startswith("seq:6:")]
    assert ends.outcomes == [
        ("e6", "duplicate"),
        ("e6", "processed"),
        ("e7", "dead_lettered"),
        ("e7", "retried"),
        ("e8", "processed"),
        (broken, "dead_lettered"),
        ("typo", "dead_lettered"),
        ("x", "ignored"),
    ]
    assert all(committed)
    told = {(end.event_id, end.outcome): end for end in ends.told}
    assert told["e8", "processed"].pattern == "order.changed"
    assert told["e8", "processed"].seconds is not None
    assert told["e8", "processed"].event is not None
    assert told["e7", "retried"].delay is not None
    assert isinstance(told["e7", "retried"].error, ValueError)
    assert (told["x", "ignored"].pattern, told["x", "ignored"].event_type) == (
        "other",
        "unknown.changed",
    )
    assert told["typo", "dead_lettered"].event is None
    assert told["typo", "dead_lettered"].seconds is None


async def test_an_observer_of_one_registration_hears_of_its_events_only(service: Service) -> None:
    consumers = Consumers()
    ends = Ends()
    changing(consumers, middlewares=[ends])

    @consumers.on("invoice.changed")
    async def other(event: Event[dict[str, Any]]) -> None: ...

    await handled(service, consumers, envelope("e1", n=1), envelope("e2", kind="invoice"))
    assert ends.outcomes == [("e1", "processed")]


async def test_an_observer_that_fails_harms_nothing(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    consumers = Consumers()
    changing(consumers)
    ends = Ends()

    class Broken:
        def ended(self, end: Ended) -> None:
            raise RuntimeError("of its own")

    consumers.use(Broken(), ends)
    await handled(service, consumers, envelope("e1", n=1))
    assert await service.effects() == [1]
    assert ends.outcomes == [("e1", "processed")]
    assert "Broken" in caplog.text


async def test_without_observers_nothing_is_measured(service: Service) -> None:
    consumers = Consumers()
    changing(consumers)
    [handler] = consumers
    assert consumers.middlewares.chain(handler) is None
    assert consumers.middlewares.observers(handler) == ()


# --- those that come with the bridge


async def test_logging_writes_one_line_for_each_event_and_never_its_payload(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    consumers = Consumers()
    consumers.use(Logging())

    @consumers.on("order.changed")
    async def change(event: Event[dict[str, Any]]) -> None:
        if event.resource_id == "2":
            raise Unrecoverable("no two")

    await handled(
        service,
        consumers,
        envelope("e1", resource="1", name="secret"),
        envelope("e2", resource="2", name="secret"),
    )
    lines = [r for r in caplog.records if getattr(r, "event_id", None) is not None]
    assert len(lines) == 2
    by_id = {r.__dict__["event_id"]: r for r in lines}
    fields = by_id["e1"].__dict__
    assert (fields["event_type"], fields["resource"], fields["trace_id"], fields["outcome"]) == (
        "order.changed",
        "order:1",
        "t",
        "processed",
    )
    assert fields["milliseconds"] >= 0
    assert by_id["e1"].levelname == "INFO"
    assert by_id["e2"].levelname == "ERROR"
    assert "no two" in by_id["e2"].getMessage()
    assert "secret" not in "".join(str(r.__dict__) for r in lines)


async def test_logging_says_when_an_event_is_tried_again_and_keeps_to_its_level(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    consumers = Consumers()
    consumers.use(Logging(level=logging.DEBUG))
    answers = iter([Retry(delay=0.25)])

    @consumers.on("order.changed")
    async def change(event: Event[dict[str, Any]]) -> None:
        for error in answers:
            raise error

    await handled(service, consumers, envelope("e1"))
    [line] = [r for r in caplog.records if getattr(r, "event_id", None) is not None]
    assert (line.levelname, line.__dict__["again_in_seconds"]) == ("WARNING", 0.25)


async def test_error_handling_is_told_and_the_error_goes_on(service: Service) -> None:
    consumers = Consumers()
    changing(consumers)
    told: list[tuple[str, str]] = []

    async def on_error(event: Event[Any], error: Exception) -> bool:
        told.append((event.event_id, str(error)))
        raise RuntimeError("a callback's own")

    consumers.use(ErrorHandling(on_error))  # type: ignore[arg-type]
    await handled(service, consumers, envelope("e7", n=7), max_deliver=1)
    assert told == [("e7", "no seven")]
    [dead] = await service.dead_letters()
    assert letter(dead)["error_class"] == "ValueError"


async def test_error_handling_may_declare_errors_harmless_and_then_undoes_the_handlers_writes(
    service: Service,
) -> None:
    consumers = Consumers()
    told: list[str] = []

    @consumers.on("order.changed")
    async def change(event: Event[Change], session: AsyncSession, events: Publisher) -> None:
        await insert(session, event.payload.n)
        await events.publish("invoice.made", {"id": event.payload.n})
        if event.payload.n == 7:
            raise ValueError("no seven")
        if event.payload.n == 8:
            raise KeyError("eight")

    consumers.use(ErrorHandling(lambda event, _: told.append(event.event_id), swallow=(KeyError,)))
    await handled(
        service,
        consumers,
        *(envelope(f"e{n}", resource=str(n), n=n) for n in (6, 7, 8)),
        max_deliver=1,
    )
    assert await service.effects() == [6]
    found = await rows(service.engine, "SELECT resource FROM jetstream_outbox_events")
    assert [row[0] for row in found] == ["invoice:6"]
    assert (await service.inbox())["e8"] == ("processed", None)
    assert [letter(dead)["event_id"] for dead in await service.dead_letters()] == ["e7"]
    assert set(told) == {"e7", "e8"}


def test_error_handling_refuses_what_it_cannot_use() -> None:
    with pytest.raises(RegistrationError, match="on_error"):
        ErrorHandling("tell me")  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match="swallow"):
        ErrorHandling(print, swallow=("ValueError",))  # type: ignore[arg-type]


async def test_metrics_count_ends_by_registered_pattern_and_never_by_what_a_sender_wrote(
    service: Service,
) -> None:
    consumers = Consumers()
    registry = CollectorRegistry()
    consumers.use(Metrics(registry=registry))

    @consumers.on("order.*")
    async def change(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)
        if event.payload.n == 7:
            raise ValueError("no seven")

    bodies = [envelope(f"e{n}", resource=str(n), n=n) for n in range(6, 9)]
    await handled(
        service, consumers, *bodies, bodies[0], envelope("x", kind="free text"), max_deliver=2
    )

    def count(pattern: str, outcome: str) -> float | None:
        labels = {"event_type": pattern, "outcome": outcome}
        return registry.get_sample_value("bridge_consumed_total", labels)

    assert count("order.*", "processed") == 2
    assert count("order.*", "duplicate") == 1
    assert count("order.*", "retried") == 1
    assert count("order.*", "dead_lettered") == 1
    assert count("other", "ignored") == 1
    names = {
        sample.labels.get("event_type")
        for metric in registry.collect()
        for sample in metric.samples
    }
    assert names == {"order.*", "other", None}
    assert (
        registry.get_sample_value("bridge_handler_seconds_count", {"event_type": "order.*"}) == 4
    ), "processed twice, retried once, dead-lettered once; a duplicate runs no handler"
    assert registry.get_sample_value("bridge_end_to_end_seconds_count") == 2


async def test_metrics_call_back_on_success_and_on_failure(service: Service) -> None:
    consumers = Consumers()
    changing(consumers)
    successes: list[tuple[str, float]] = []
    failures: list[tuple[str, str]] = []
    consumers.use(
        Metrics(
            on_success=lambda event, seconds: successes.append((event.event_id, seconds)),
            on_failure=lambda event, error: failures.append((event.event_id, str(error))),
            registry=CollectorRegistry(),
        )
    )
    await handled(
        service, consumers, envelope("e1", n=1), envelope("e7", resource="7", n=7), max_deliver=2
    )
    assert [event_id for event_id, _ in successes] == ["e1"]
    assert successes[0][1] > 0
    assert failures == [("e7", "no seven")] * 2


def test_metrics_can_be_made_more_than_once_and_refuse_callbacks_that_wait() -> None:
    registry = CollectorRegistry()
    Metrics(registry=registry)
    Metrics(registry=registry)

    async def waits(event: Event[Any], seconds: float) -> None: ...

    with pytest.raises(RegistrationError, match="on_success"):
        Metrics(on_success=waits, registry=registry)  # type: ignore[arg-type]


async def test_tracing_continues_the_trace_of_the_headers_and_binds_it_to_log_lines(
    service: Service,
) -> None:
    consumers = Consumers()
    consumers.use(Tracing())
    seen: dict[str, tuple[str, dict[str, Any]]] = {}

    @consumers.on("order.changed")
    async def change(event: Event[dict[str, Any]], events: Publisher) -> None:
        context = trace.get_current_span().get_span_context()
        seen[event.event_id] = (f"{context.trace_id:032x}", dict(get_contextvars()))
        await events.publish("invoice.made", {"id": event.event_id})
        if event.event_id == "e3":
            raise ValueError("no")

    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await service.send(envelope("e1"), headers={"Traceparent": traceparent})
    await service.send(envelope("e2", resource="2"))
    await service.send(envelope("e3", resource="3"))
    await handled(service, consumers, max_deliver=1)
    assert seen["e1"][0] == "0af7651916cd43dd8448eb211c80319c"
    assert seen["e1"][1] == {"event_id": "e1", "trace_id": "t", "traceparent": traceparent}
    assert seen["e2"] == ("0" * 32, {"event_id": "e2", "trace_id": "t"})
    assert get_contextvars() == {}, "nothing stays behind, after an error either"
    found = await rows(
        service.engine, "SELECT resource, headers, payload FROM jetstream_outbox_events"
    )
    sent = {row[0]: (str(row[1]), str(row[2])) for row in found}
    assert "0af7651916cd43dd8448eb211c80319c" in sent["invoice:e1"][0]
    assert "0af7651916cd43dd8448eb211c80319c" in sent["invoice:e1"][1], "its trace_id, too"
    assert "traceparent" not in sent["invoice:e2"][0]


async def test_tracing_records_a_span_where_opentelemetry_is_configured(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    consumers = Consumers()
    consumers.use(Tracing())
    changing(consumers, isolated=True)
    await handled(
        service, consumers, envelope("e1", n=1), envelope("e7", resource="7", n=7), max_deliver=1
    )
    spans = [s for s in exporter.get_finished_spans() if s.kind is trace.SpanKind.CONSUMER]
    assert [span.name for span in spans] == ["handle order.changed"] * 2
    by_id = {(span.attributes or {})["messaging.message.id"]: span for span in spans}
    assert by_id["e1"].status.status_code is trace.StatusCode.UNSET
    [error] = by_id["e7"].events
    assert (error.attributes or {})["exception.message"] == "no seven"
    assert by_id["e7"].status.status_code is trace.StatusCode.ERROR
    assert not trace.get_current_span().get_span_context().is_valid


def test_tracing_looks_once_a_second_whether_spans_are_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracing, now, looks = Tracing(), [100.0], []

    def look() -> bool:
        looks.append(now[0])
        return len(looks) > 1

    monkeypatch.setattr("jetstream_bridge.inbox.middleware.tracing.time.monotonic", lambda: now[0])
    monkeypatch.setattr(tracing_module, "recording", look)
    assert [tracing._recording() for _ in range(3)] == [False] * 3
    now[0] += tracing_module.LOOK_EVERY
    assert [tracing._recording() for _ in range(3)] == [True] * 3
    assert len(looks) == 2


async def test_a_handler_past_its_timeout_is_cancelled_and_tried_again(service: Service) -> None:
    consumers = Consumers()
    cancelled: list[int] = []

    @consumers.on("order.changed", middlewares=[Timeout("200ms")], isolated=True)
    async def change(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)
        if event.metadata.deliveries == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(event.payload.n)
                raise

    ends = Ends()
    consumers.use(ends)
    await handled(service, consumers, envelope("e1", n=1))
    assert cancelled == [1]
    assert await service.effects() == [1]
    assert ends.outcomes == [("e1", "processed"), ("e1", "retried")]
    [error] = [end.error for end in ends.told if end.outcome == "retried"]
    assert isinstance(error, HandlerTimeoutError)
    assert str(error) == "the handler of 'order.changed' did not finish within 200ms"


async def test_a_timeout_in_the_middle_of_a_statement_harms_no_other_event(
    service: Service,
) -> None:
    """The connection that is cancelled in a statement is not used for anybody else's work."""
    consumers = Consumers()

    @consumers.on("order.changed", middlewares=[Timeout("300ms")])
    async def change(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)
        if event.payload.n == 3:
            if service.engine.dialect.name == "postgresql":
                await (await session.connection()).execute(text("SELECT pg_sleep(60)"))
            await asyncio.Event().wait()

    await handled(
        service,
        consumers,
        *(envelope(f"e{n}", resource=str(n), n=n) for n in range(8)),
        max_deliver=1,
        worker_concurrency=1,
    )
    assert sorted(await service.effects()) == [0, 1, 2, 4, 5, 6, 7]
    [dead] = await service.dead_letters()
    assert letter(dead)["error_class"] == "HandlerTimeoutError"


async def test_a_handlers_own_timeout_error_is_its_own(service: Service) -> None:
    consumers = Consumers()

    @consumers.on("order.changed", middlewares=[Timeout(5)])
    async def change(event: Event[Change]) -> None:
        raise TimeoutError("upstream")

    await handled(service, consumers, envelope("e1", n=1), max_deliver=1)
    [dead] = await service.dead_letters()
    assert (letter(dead)["error_class"], letter(dead)["error_message"]) == (
        "TimeoutError",
        "upstream",
    )


@pytest.mark.parametrize("limit", [0, "0s"])
def test_a_timeout_leaves_some_time(limit: str | float) -> None:
    with pytest.raises(RegistrationError, match="leaves no time"):
        Timeout(limit)
    with pytest.raises(ConfigurationError, match="soon"):
        Timeout("soon")


async def test_a_timeout_that_is_swallowed_leaves_nothing_of_its_handler(service: Service) -> None:
    """Where the connection did not survive the cancelled statement, the event fails instead."""
    consumers = Consumers()
    ends = Ends()
    harmless = ErrorHandling(lambda *_: None, swallow=(HandlerTimeoutError,))
    consumers.use(ends, harmless, Timeout("300ms"))

    @consumers.on("order.changed")
    async def change(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)
        if event.payload.n == 3:
            if service.engine.dialect.name == "postgresql":
                await (await session.connection()).execute(text("SELECT pg_sleep(60)"))
            await asyncio.Event().wait()

    await handled(
        service,
        consumers,
        *(envelope(f"e{n}", resource=str(n), n=n) for n in range(6)),
        max_deliver=1,
        worker_concurrency=1,
    )
    assert sorted(await service.effects()) == [0, 1, 2, 4, 5]
    [outcome] = [outcome for event_id, outcome in ends.outcomes if event_id == "e3"]
    assert outcome == ("processed" if service.engine.dialect.name == "sqlite" else "dead_lettered")
