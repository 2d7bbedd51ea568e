"""A handler of this service's own dead letters: each is handled once, and none breeds another."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Consumers, DeadLetter, Event, Metadata, Publisher, Retry, Unrecoverable
from jetstream_bridge.events.dead_letter import read_letter
from jetstream_bridge.inbox.middleware import Ended
from jetstream_bridge.inbox.store import Inbox
from tests.bridge.consuming import DURABLE, STREAM, Change, Service, insert
from tests.bridge.support import envelope, rows
from tests.brokers import MockBroker
from tests.events.test_envelope import VECTORS
from tests.waiting import eventually

LETTERS = f"{DURABLE}-dlq"


def refusing() -> Consumers:
    """A handler of events that puts each aside."""
    consumers = Consumers()

    @consumers.on("order.changed")
    async def refuse(event: Event[Change]) -> None:
        raise Unrecoverable(f"no {event.payload.n}")

    return consumers


async def letters_left(service: Service) -> int:
    return len(await service.dead_letters())


async def test_a_letter_is_handled_in_a_transaction_and_then_gone(service: Service) -> None:
    consumers = refusing()
    seen: list[DeadLetter] = []

    @consumers.on_dead_letter()
    async def record(letter: DeadLetter, session: AsyncSession, events: Publisher) -> None:
        seen.append(letter)
        assert letter.event is not None
        await insert(session, letter.event.payload["n"])
        await events.publish("order.lost", {"id": letter.event_id})

    sent = envelope("e1", n=1)
    await service.send(sent, headers={"x-custom": "kept"})

    async def gone() -> bool:
        return await service.effects() == [1] and await letters_left(service) == 0

    async with service.working(consumers):
        await eventually(gone)
        # The letter is stored before the event's own row says so, and may be handled first.
        await eventually(service.is_empty, what="the event itself is put aside")
    [letter] = seen
    assert (letter.reason, letter.error, letter.error_class) == (
        "unrecoverable",
        "no 1",
        "Unrecoverable",
    )
    assert (letter.event_id, letter.deliveries, letter.sequence) == ("e1", 1, 1)
    assert (letter.original_subject, letter.consumer) == ("test.orders.sync.billing", DURABLE)
    assert letter.body == sent.encode()
    assert letter.died_at is not None
    assert letter.metadata.subject == "test.billing.sync.dlq"
    assert letter.metadata.consumer == LETTERS
    assert letter.metadata.headers["x-custom"] == "kept"
    assert letter.event is not None
    assert (letter.event.type, letter.event.metadata.subject) == (
        "order.changed",
        "test.orders.sync.billing",
    )
    found = await rows(
        service.engine, "SELECT consumer, event_id, status FROM jetstream_inbox_events"
    )
    place = re.compile(r"(dlq:.*:1):\d{16}")
    assert {(row[0], place.sub(r"\1", row[1]), row[2]) for row in found} == {
        (DURABLE, "e1", "dead_lettered"),
        (LETTERS, f"dlq:{STREAM}:1", "processed"),
    }
    published = await rows(service.engine, "SELECT resource FROM jetstream_outbox_events")
    assert [row[0] for row in published] == ["order:e1"]


async def test_a_letter_whose_body_is_no_envelope_is_handled_too(service: Service) -> None:
    consumers = refusing()
    seen: list[DeadLetter] = []

    @consumers.on_dead_letter()
    async def record(letter: DeadLetter) -> None:
        seen.append(letter)

    await service.send(b"{broken")
    async with service.working(consumers):
        await eventually(lambda: seen)

        async def gone() -> bool:
            return await letters_left(service) == 0

        await eventually(gone)
    [letter] = seen
    assert (letter.reason, letter.body, letter.event) == ("malformed_json", b"{broken", None)
    assert letter.event_id.startswith("seq:1:")


async def test_only_a_registered_handler_makes_the_durable(service: Service) -> None:
    await service.send(envelope("e1", n=1))
    async with service.working(refusing()):
        await eventually(service.is_empty)
    names = [info.name for info in await service.client.jetstream().consumers_info(STREAM)]
    assert names == [DURABLE]
    assert await letters_left(service) == 1
    consumers = refusing()
    seen: list[str] = []

    @consumers.on_dead_letter(durable="undertaker")
    async def record(letter: DeadLetter) -> None:
        seen.append(letter.event_id)

    async with service.working(consumers):
        await eventually(lambda: seen == ["e1"], what="an older letter is handled as well")
    names = [info.name for info in await service.client.jetstream().consumers_info(STREAM)]
    assert sorted(names) == [DURABLE, "undertaker"]


async def test_without_dead_letters_the_handler_is_told_of_and_left_out(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    consumers = refusing()

    @consumers.on_dead_letter()
    async def record(letter: DeadLetter) -> None: ...

    async with service.working(consumers, use_dlq=False):
        pass
    assert "USE_DLQ=true" in caplog.text
    names = [info.name for info in await service.client.jetstream().consumers_info(STREAM)]
    assert names == [DURABLE]


async def test_a_letter_that_is_tried_again_is_handled_in_the_end(service: Service) -> None:
    consumers = refusing()
    tries: list[int] = []

    @consumers.on_dead_letter()
    async def record(letter: DeadLetter, session: AsyncSession) -> None:
        await insert(session, 1)
        tries.append(letter.metadata.deliveries)
        if len(tries) == 1:
            raise Retry(delay=0.1)

    await service.send(envelope("e1", n=1))

    async def gone() -> bool:
        return await service.effects() == [1] and await letters_left(service) == 0

    async with service.working(consumers):
        await eventually(gone)
    assert tries == [1, 2]


@pytest.mark.parametrize("how", [ValueError, Unrecoverable])
@pytest.mark.parametrize("use_inbox", [True, False])
async def test_a_letter_that_cannot_be_handled_stays_and_breeds_no_other(
    service: Service, how: type[Exception], use_inbox: bool, caplog: pytest.LogCaptureFixture
) -> None:
    consumers = refusing()
    tries: list[int] = []
    ends: list[Ended] = []

    class Watching:
        def ended(self, end: Ended) -> None:
            ends.append(end)

    @consumers.on_dead_letter(max_deliver=2, middlewares=[Watching()])
    async def fail(letter: DeadLetter) -> None:
        tries.append(letter.metadata.deliveries)
        raise how("not this one")

    await service.send(envelope("e1", n=1))
    async with service.working(consumers, backoff=(0.1,), use_inbox=use_inbox) as bridge:
        await eventually(lambda: [e for e in ends if e.outcome == "dead_lettered"])
        assert bridge.failures() == []
    assert tries == ([1, 2] if how is ValueError else [1])
    [left] = await service.dead_letters()
    assert (left.headers or {})["x-dlq-reason"] == "unrecoverable"
    [line] = [r for r in caplog.records if "stays in the stream" in r.getMessage()]
    assert line.levelname == "ERROR"
    assert "not this one" in line.getMessage()
    info = await service.client.jetstream().consumer_info(STREAM, LETTERS)
    assert info.num_ack_pending == 1, "it waits for its reminder"
    if use_inbox:
        found = await rows(
            service.engine,
            f"SELECT status, last_error FROM jetstream_inbox_events WHERE consumer = '{LETTERS}'",
        )
        [(status, told)] = found
        assert status == "failed"
        assert told.startswith(f"{how.__name__}: not this one (tests/inbox/")


async def test_a_letter_at_rest_is_laid_down_again_without_its_handler(
    service: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jetstream_bridge.inbox.dead_letter_handling.REST", 1.0)
    consumers = refusing()
    tries: list[int] = []

    @consumers.on_dead_letter(max_deliver=1)
    async def fail(letter: DeadLetter) -> None:
        tries.append(letter.metadata.deliveries)
        raise ValueError("not this one")

    def said() -> int:
        return caplog.text.count("stays in the stream")

    caplog.set_level(logging.ERROR)
    await service.send(envelope("e1", n=1))
    async with service.working(consumers):
        await eventually(lambda: said() == 3)
    assert tries == [1]
    assert await letters_left(service) == 1


@pytest.mark.parametrize("broker", ["mock"], indirect=True)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_letter_whose_acknowledgement_was_lost_is_not_handled_again(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    consumers = refusing()
    seen: list[str] = []

    @consumers.on_dead_letter(max_deliver=1, ack_wait="1s")
    async def record(letter: DeadLetter) -> None:
        assert isinstance(service.broker, MockBroker)
        service.broker.server.faults.lose_answer()
        seen.append(letter.event_id)

    await service.send(envelope("e1", n=1))

    async def gone() -> bool:
        return bool(seen) and await letters_left(service) == 0

    async with service.working(consumers):
        await eventually(gone)
    assert seen == ["e1"]
    assert "stays in the stream" not in caplog.text


async def test_a_letter_rests_though_its_failure_cannot_be_recorded(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    consumers = refusing()

    @consumers.on_dead_letter(max_deliver=1)
    async def fail(letter: DeadLetter) -> None:
        raise ValueError("not this one")

    async def full(*args: object, **options: object) -> bool:
        raise OSError("no room")

    async with service.working(consumers) as bridge:
        await service.send(envelope("e1", n=1))
        await eventually(lambda: letters_left(service))
        await eventually(lambda: "stays in the stream" in caplog.text)
        monkeypatch.setattr(Inbox, "record", full)
        await service.client.jetstream().publish(
            "test.billing.sync.dlq", b"{}", headers={"Nats-Msg-Id": "dlq:other:1"}
        )
        await eventually(lambda: "the failure of dlq:other:1 is not recorded" in caplog.text)
        assert bridge.failures() == []
    assert await letters_left(service) == 2


async def test_letters_are_handled_independently_of_each_other(service: Service) -> None:
    """They have no order to keep: one that waits for its next try holds up no other."""
    consumers = refusing()
    done: list[str] = []

    @consumers.on_dead_letter()
    async def record(letter: DeadLetter) -> None:
        if letter.event_id == "e1" and letter.metadata.deliveries == 1:
            raise Retry(delay=1.0)
        done.append(letter.event_id)

    await service.send(envelope("e1", n=1))
    async with service.working(consumers):
        await eventually(lambda: letters_left(service))
        await service.send(envelope("e2", n=2))
        await eventually(lambda: len(done) == 2)
    assert done == ["e2", "e1"]


async def test_a_replayed_event_that_dies_again_makes_a_letter_of_its_own(
    service: Service,
) -> None:
    consumers = refusing()
    seen: list[tuple[str, int | None]] = []

    @consumers.on_dead_letter()
    async def record(letter: DeadLetter) -> None:
        seen.append((letter.event_id, letter.sequence))

    async with service.working(consumers):
        for number in (1, 2):
            await service.send(envelope("e1", n=1))

            def handled(number: int = number) -> bool:
                return len(seen) == number

            await eventually(handled)
    assert [event_id for event_id, _ in seen] == ["e1", "e1"]
    assert seen[0] != seen[1]


async def test_global_middlewares_see_letters_too(service: Service) -> None:
    consumers = refusing()
    seen: list[tuple[str, type]] = []

    async def look(event: Event[Any], call_next: Any) -> None:
        await call_next(event)
        seen.append((event.type, type(event.payload)))

    consumers.use(look)
    done = asyncio.Event()

    @consumers.on_dead_letter()
    async def record(letter: DeadLetter) -> None:
        if letter.reason == "malformed_json":
            done.set()

    await service.send(envelope("e1", n=1))
    await service.send(b"{broken")
    async with service.working(consumers):
        await eventually(lambda: len(seen) == 2)
    assert sorted(seen) == [("order.changed", DeadLetter), ("unknown", DeadLetter)]


# --- reading a letter


def at(sequence: int = 9) -> Metadata:
    return Metadata(
        subject="gold.worker.sync.dlq",
        stream="gold",
        sequence=sequence,
        consumer="c",
        deliveries=1,
        timestamp=datetime(2026, 1, 2, tzinfo=UTC),
    )


def test_letters_that_the_gem_wrote_are_read() -> None:
    cases = json.loads((VECTORS / "dead_letters.json").read_text())["cases"]
    read = [read_letter(case["body"].encode(), case["headers"], at())[0] for case in cases]
    assert [(letter.event_id, letter.reason, letter.sequence) for letter in read] == [
        ("d-01", "malformed_json", 1),
        ("d-02", "unrecoverable", 2),
        ("d-03", "max_deliver_exceeded", 3),
    ]
    assert [letter.event is None for letter in read] == [True, False, False]
    assert read[2].error == "always\nfails"
    assert all(letter.original_subject == "gold.api.sync.worker" for letter in read)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-dlq-context": "{broken"},
        {"x-dlq-context": "[1]"},
        {"x-dlq-context": '{"event_id":7,"sequence":null,"deliveries":"many"}'},
        {"x-dlq-context": '{"event_id":"a\\nb","sequence":{"stream":"x"}}', "x-deliveries": "²"},
        {"x-dlq-context": "[" * 100_000},
    ],
)
def test_a_letter_that_tells_nothing_is_read_all_the_same(headers: dict[str, str]) -> None:
    letter, envelope_ = read_letter(b"5", headers, at())
    assert envelope_ is None
    assert (letter.reason, letter.event_id, letter.sequence) == ("unknown", "", None)
    assert (letter.deliveries, letter.error, letter.died_at) == (0, "", None)
    assert letter.body == b"5"


def test_a_letters_body_is_no_part_of_its_repr() -> None:
    letter, _ = read_letter(b'{"event_type":"a.b","payload":{"name":"secret"}}', {}, at())
    assert "secret" not in repr(letter)
    assert b"secret" in letter.body
