"""Letters of events whose headers speak to JetStream, on the mock and on a real server."""

from __future__ import annotations

from typing import Any

import pytest

from jetstream_bridge import Consumers, Event, Unrecoverable
from jetstream_bridge.operations.dead_letter_queue import BulkOperation
from tests.bridge.consuming import STREAM, SUBJECT, Service, letter
from tests.bridge.raw import publish_raw
from tests.bridge.support import envelope
from tests.brokers import on_nats_server
from tests.waiting import eventually

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

ODD_BLOCK = (
    b"NATS/1.0\r\nNats-Msg-Id: e1\r\nnats-ttl: 1s\r\nNats-Expected-Last-Subject-Sequence: 0\r\n"
    b"a/b: 1\r\ntwo words: 2\r\nx-custom: kept\r\nX-DLQ-Reason: forged\r\n\r\n"
)


def refusing(seen: list[dict[str, str]] | None = None) -> Consumers:
    """A handler that refuses events, and notes the headers of those that are replayed."""
    consumers = Consumers()

    @consumers.on("order.changed")
    async def refuse(event: Event[dict[str, Any]]) -> None:
        if seen is None or "x-replay-key" not in event.metadata.headers:
            raise Unrecoverable("no")
        seen.append(dict(event.metadata.headers))

    return consumers


async def has_letters(service: Service, number: int) -> bool:
    return len(await service.dead_letters()) == number


async def test_a_letter_says_nothing_to_jetstream_and_tells_what_its_original_said(
    service: Service,
) -> None:
    async with service.working(refusing()):
        await service.send(envelope("e0"))
        await eventually(service.is_empty)
        # The event is the first of its subject, as it expects; its letter is not.
        await publish_raw(service.client, SUBJECT.encode(), ODD_BLOCK, envelope("e1").encode())
        await eventually(lambda: has_letters(service, 2))
    _, odd = await service.dead_letters()
    headers = odd.headers or {}
    assert headers["x-custom"] == "kept"
    assert headers["x-dlq-reason"] == "unrecoverable"
    assert {name.lower() for name in headers} == {
        *("nats-msg-id", "x-custom", "x-dead-letter", "x-dlq-reason", "x-deliveries"),
        "x-dlq-context",
    }
    context = letter(odd)
    assert context["event_id"] == "e1"
    assert context["headers"] == {
        "nats-ttl": "1s",
        "Nats-Expected-Last-Subject-Sequence": "0",
        "a/b": "1",
        "two words": "2",
    }


@on_nats_server
async def test_no_letter_erases_others_or_vanishes(service: Service) -> None:
    js = service.client.jetstream()
    allowing = (await js.stream_info(STREAM)).config.evolve(
        allow_rollup_hdrs=True, allow_msg_ttl=True
    )
    await js.update_stream(allowing)
    async with service.working(refusing()):
        await service.send(envelope("e0"))
        await eventually(service.is_empty)
        await service.send(envelope("e1"), headers={"Nats-Rollup": "sub"})
        await eventually(service.is_empty)
        await service.send(envelope("e2"), headers={"Nats-TTL": "1h"})
        await eventually(service.is_empty)
    letters = await service.dead_letters()
    assert [letter(one)["event_id"] for one in letters] == ["e0", "e1", "e2"]
    assert all(
        "nats-" not in name.lower() or name == "Nats-Msg-Id"
        for one in letters
        for name in one.headers or {}
    )


async def test_a_replay_brings_the_senders_headers_and_none_that_speak_to_jetstream(
    service: Service,
) -> None:
    seen: list[dict[str, str]] = []
    async with service.working(refusing(seen)) as bridge:
        await publish_raw(service.client, SUBJECT.encode(), ODD_BLOCK, envelope("e1").encode())
        await eventually(lambda: has_letters(service, 1))
        await bridge.letters.replay_many(BulkOperation(limit=1))
        await eventually(lambda: seen)
    assert {n: v for n, v in seen[0].items() if n != "Nats-Msg-Id"} == {
        "x-custom": "kept",
        "x-replay-key": '"e1"',
    }
