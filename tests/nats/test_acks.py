"""Publishing with acknowledgements: what each answer, and each silence, makes of a message."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest
from nats.aio.msg import Msg
from nats.errors import (
    BadHeaderError,
    BadSubjectError,
    ConnectionClosedError,
    MaxPayloadError,
    OutboundBufferLimitError,
)

from jetstream_bridge.core.config import ConnectionOptions
from jetstream_bridge.events.wire_rules import header_size
from jetstream_bridge.nats.connection import Connection
from jetstream_bridge.nats.outgoing import Outcome, Outgoing
from jetstream_bridge.nats.publishing import AckPublisher
from jetstream_bridge.testing import MockServer, VirtualClock
from jetstream_bridge.testing.barrier import barrier
from tests.waiting import eventually


class Publishing:
    """A publisher for the stream S, and the server that it talks to."""

    def __init__(self, server: MockServer, connection: Connection, *, window: int = 256) -> None:
        self.server = server
        self.connection = connection
        self.acks = AckPublisher(connection, stream="S", timeout=5.0, window=window)

    async def one(
        self, subject: str = "s.a", *, body: bytes = b"{}", headers: dict[str, str] | None = None
    ) -> Outgoing:
        return await self.acks.publish_one(Outgoing(1, subject, body, headers or {}))


@pytest.fixture
async def publishing(mock_nats: MockServer) -> AsyncIterator[Publishing]:
    client = await mock_nats.connect()
    await client.jetstream().add_stream(name="S", subjects=["s.>"])
    await client.close()
    connection = Connection(
        ConnectionOptions(urls=(mock_nats.url,)), name="orders", make_client=mock_nats.client
    )
    await connection.start()
    await connection.wait_connected(10)
    publishing = Publishing(mock_nats, connection)
    yield publishing
    publishing.acks.close()
    await connection.close(timeout=3)


def chains(*lengths: int) -> list[list[Outgoing]]:
    return [
        [Outgoing(n, f"s.{name}", str(n).encode(), {}) for n in range(length)]
        for name, length in enumerate(lengths)
    ]


async def test_a_stored_message_knows_its_place(publishing: Publishing) -> None:
    sent = await publishing.one()
    assert (sent.outcome, sent.seq, sent.duplicate) == (Outcome.STORED, 1, False)


async def test_a_second_message_with_the_id_is_stored_already(publishing: Publishing) -> None:
    await publishing.one(headers={"Nats-Msg-Id": "x"})
    sent = await publishing.one(headers={"Nats-Msg-Id": "x"})
    assert (sent.outcome, sent.seq, sent.duplicate) == (Outcome.STORED, 1, True)


async def test_messages_of_a_chain_are_stored_in_order(publishing: Publishing) -> None:
    sent = chains(5, 5)
    await publishing.acks.publish(sent, budget=5)
    for chain in sent:
        assert [m.outcome for m in chain] == [Outcome.STORED] * 5
        numbers = [m.seq for m in chain if m.seq is not None]
        assert numbers == sorted(numbers)


async def test_no_more_than_the_window_is_in_flight(publishing: Publishing) -> None:
    acks = AckPublisher(publishing.connection, stream="S", timeout=5.0, window=2)
    publishing.server.faults.delay_ack("1s", times=2)
    first, second = chains(1, 1, 1, 1), chains(1)
    both = asyncio.gather(acks.publish(first, budget=60), acks.publish(second, budget=60))
    await eventually(lambda: len(publishing.server.stored) == 2)
    await both
    assert {m.outcome for chain in (*first, *second) for m in chain} == {Outcome.STORED}
    acks.close()


async def test_no_more_bytes_than_the_window_takes_are_in_flight(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jetstream_bridge.nats.publishing.WINDOW_BYTES", 2500)
    publishing.server.faults.delay_ack("1s", times=3)
    sent = [[Outgoing(n, f"s.{n}", b"x" * 1000, {})] for n in range(6)]
    publish = asyncio.create_task(publishing.acks.publish(sent, budget=60))
    await eventually(lambda: len(publishing.server.stored) == 3)
    await publish
    assert {chain[0].outcome for chain in sent} == {Outcome.STORED}
    large = await publishing.one(body=b"x" * 5000)
    assert large.outcome is Outcome.STORED, "one may always be in flight"


async def test_a_chain_goes_on_for_its_time_only_and_all_chains_begin(
    publishing: Publishing, clock: VirtualClock
) -> None:
    publishing.server.faults.slow("1s")
    sent = chains(10, 10, 10)
    await publishing.acks.publish(sent, budget=60, turns=2.5)
    for chain in sent:
        assert [m.outcome for m in chain] == [Outcome.STORED] * 3 + [None] * 7
    publishing.acks._window = 1
    sent = chains(2, 2, 2)
    await publishing.acks.publish(sent, budget=60, turns=0.5)
    assert [[m.outcome for m in chain] for chain in sent] == [[Outcome.STORED, None]] * 3


async def test_without_an_answer_the_outcome_is_unknown(publishing: Publishing) -> None:
    publishing.server.faults.lose_ack()
    sent = await publishing.one()
    assert sent.outcome is Outcome.UNKNOWN
    assert "no acknowledgement within 5 s" in (sent.error or "")


async def test_without_a_connection_nothing_is_sent(publishing: Publishing) -> None:
    publishing.server.stop()
    await eventually(lambda: not publishing.connection.connected)
    sent = await publishing.one()
    assert (sent.outcome, sent.error) == (Outcome.NOT_SENT, "not connected to NATS")
    publishing.server.start()


async def test_what_is_in_flight_when_the_connection_goes_is_unknown(
    publishing: Publishing,
) -> None:
    publishing.server.faults.lose_ack()
    sending = asyncio.create_task(publishing.one())
    await eventually(lambda: len(publishing.server.stored) == 1)
    publishing.server.stop()
    sent = await sending
    assert sent.outcome is Outcome.UNKNOWN
    assert "connection was lost" in (sent.error or "")
    publishing.server.start()


async def test_closing_makes_what_is_in_flight_unknown(publishing: Publishing) -> None:
    publishing.server.faults.lose_ack()
    sending = asyncio.create_task(publishing.one())
    await eventually(lambda: len(publishing.server.stored) == 1)
    publishing.acks.close()
    sent = await sending
    assert (sent.outcome, sent.error) == (Outcome.UNKNOWN, "the bridge is closing")


async def test_after_an_outage_nothing_more_of_the_call_is_sent(publishing: Publishing) -> None:
    publishing.server.faults.refuse_publish(10077, times=1)
    [chain] = sent = chains(3)
    await publishing.acks.publish(sent, budget=60)
    assert [m.outcome for m in chain] == [Outcome.UNAVAILABLE, None, None]


async def test_when_the_budget_is_spent_nothing_more_is_sent(
    publishing: Publishing, clock: VirtualClock
) -> None:
    publishing.server.faults.delay_ack("2s", times=10)
    [chain] = sent = chains(10)
    await publishing.acks.publish(sent, budget=3)
    outcomes = [m.outcome for m in chain]
    assert outcomes[0] is Outcome.STORED
    assert outcomes[-1] is None


async def test_a_refusal_concerns_its_message_only(publishing: Publishing) -> None:
    publishing.server.faults.refuse_publish(10054)
    refused, stored = await publishing.one(), await publishing.one()
    assert (refused.outcome, stored.outcome) == (Outcome.REFUSED, Outcome.STORED)
    assert "(error 10054)" in (refused.error or "")


async def test_a_subject_without_a_stream_is_unrouted(publishing: Publishing) -> None:
    sent = await publishing.one("nowhere")
    assert (sent.outcome, sent.error) == (Outcome.UNROUTED, "no stream listens on nowhere")


@pytest.mark.parametrize("subject", ["", " ", "s.a b", "s.a\r\nPUB s.b", "s.*", "s.>", "s.\ud83d"])
async def test_a_subject_that_cannot_be_is_refused(publishing: Publishing, subject: str) -> None:
    refused, stored = await publishing.one(subject), await publishing.one()
    assert (refused.outcome, stored.outcome) == (Outcome.REFUSED, Outcome.STORED)
    assert "subject" in (refused.error or "")


async def test_a_subject_for_which_the_server_would_hang_up_is_refused(
    publishing: Publishing,
) -> None:
    refused, stored = await publishing.one("s." + "x" * 4000), await publishing.one()
    assert (refused.outcome, stored.outcome) == (Outcome.REFUSED, Outcome.STORED)
    assert publishing.connection.generation == 1


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"a/b": "x"}, "'a/b'"),
        ({"": "x"}, "''"),
        ({"a b": "x"}, "'a b'"),
        ({"a:b": "x"}, "'a:b'"),
        ({"ä": "x"}, r"'\\xe4'"),
        ({"a\r\nb": "x"}, r"'a\\r\\nb'"),
        ({5: "x"}, "5"),
        ({"x": 5}, "x has the value 5"),
        ({"x": None}, "x has the value None"),
        ({"x": "\ud83d"}, r"x has the value '\\ud83d'"),
    ],
)
async def test_a_header_that_cannot_be_sent_is_refused(
    publishing: Publishing, headers: dict[str, str], named: str
) -> None:
    refused, stored = await publishing.one(headers=headers), await publishing.one()
    assert (refused.outcome, stored.outcome) == (Outcome.REFUSED, Outcome.STORED)
    assert re.search(named, refused.error or "")


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (BadSubjectError(), Outcome.REFUSED),
        (BadHeaderError("x"), Outcome.REFUSED),
        (MaxPayloadError(), Outcome.REFUSED),
        (AttributeError("of the message"), Outcome.REFUSED),
        (OutboundBufferLimitError(), Outcome.NOT_SENT),
        (ConnectionClosedError(), Outcome.NOT_SENT),
        (ConnectionResetError(), Outcome.NOT_SENT),
    ],
)
async def test_whatever_the_client_raises_has_an_outcome(
    publishing: Publishing, error: Exception, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publishing.one()  # subscribed to its answers

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(publishing.connection.client, "send", fail)
    assert (await publishing.one()).outcome is outcome


async def test_a_message_known_to_be_flawed_is_refused_in_its_turn(publishing: Publishing) -> None:
    chain = chains(3)[0]
    chain[1].flaw = "no body"
    await publishing.acks.publish([chain], budget=5)
    outcomes = [(message.outcome, message.error) for message in chain]
    assert outcomes == [(Outcome.STORED, None), (Outcome.REFUSED, "no body"), (None, None)]


async def test_a_subject_without_a_stream_is_unrouted_though_somebody_listens(
    publishing: Publishing, clock: VirtualClock
) -> None:
    other = await publishing.server.connect()
    await other.subscribe(">")
    began = clock.time
    nowhere, lost = Outgoing(1, "nowhere", b"{}", {}), Outgoing(2, "s.a", b"{}", {})
    publishing.server.faults.lose_ack()
    await publishing.acks.publish([[lost], [nowhere]], budget=5)
    assert (nowhere.outcome, nowhere.error) == (
        Outcome.UNROUTED,
        "the stream S does not take nowhere",
    )
    assert lost.outcome is Outcome.UNKNOWN, "the stream takes its subject"
    assert nowhere.took < 2 < lost.took
    assert clock.time - began < 6
    await other.close()


async def test_while_jetstream_does_not_answer_nobody_knows_who_takes_a_subject(
    publishing: Publishing,
) -> None:
    other = await publishing.server.connect()
    await other.subscribe(">")
    publishing.server.faults.ignore_api(times=10)
    sent = await publishing.one("nowhere")
    assert sent.outcome is Outcome.UNKNOWN
    await other.close()


async def test_headers_count_towards_the_limit_of_a_message(publishing: Publishing) -> None:
    limit = publishing.acks.max_payload
    headers = {"Nats-Msg-Id": "x"}
    fits = limit - header_size(headers)
    too_large = await publishing.one(body=b"x" * (fits + 1), headers=headers)
    assert too_large.outcome is Outcome.REFUSED
    assert f"the server takes {limit}" in (too_large.error or "")
    assert (await publishing.one(body=b"x" * fits, headers=headers)).outcome is Outcome.STORED
    assert header_size({}) == 0


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"rubbish", "is no acknowledgement"),
        (b"[]", "is no acknowledgement"),
        (json.dumps({"stream": "T", "seq": 1}).encode(), "stored by stream 'T' and not by 'S'"),
        (json.dumps({"stream": "S", "seq": "1"}).encode(), "and not by 'S'"),
    ],
)
async def test_an_answer_of_somebody_else_does_not_count(
    publishing: Publishing, answer: bytes, error: str
) -> None:
    other = await publishing.server.connect()

    async def respond(msg: Msg) -> None:
        await msg.respond(answer)

    await other.subscribe("taken", cb=respond)
    await barrier(other)
    sent = await publishing.one("taken")
    assert sent.outcome is Outcome.REFUSED
    assert error in (sent.error or "")
    await other.close()
