"""Pull requests and their answers, acknowledgements, and what is delivered again when."""

from __future__ import annotations

import asyncio
import contextlib
import json

import nats.errors
import nats.js.errors
import pytest
from nats.aio.msg import Msg

from tests.contract.lab import SECOND, Lab, RefusedError
from tests.waiting import eventually


async def test_messages_come_in_order_with_what_is_known_of_them(lab: Lab) -> None:
    await lab.stream()
    await lab.publish("s.a", "0", headers={"k": "v"})
    await lab.publish("s.b", "1")
    await lab.durable()
    pulled = await lab.pull(5, least=2)
    assert pulled.data == ["0", "1"]
    first, second = pulled.messages
    assert (first.subject, first.headers) == ("s.a", {"k": "v"})
    assert (second.subject, second.headers) == ("s.b", None)
    metadata = second.metadata
    assert (metadata.stream, metadata.consumer) == ("S", "c")
    assert (metadata.sequence.stream, metadata.sequence.consumer) == (2, 2)
    assert (metadata.num_delivered, metadata.num_pending) == (1, 0)
    stored = await lab.api("STREAM.MSG.GET.S", {"seq": 2})
    assert metadata.timestamp.strftime("%Y-%m-%dT%H:%M:%S") == stored["message"]["time"][:19]


@pytest.mark.since("2.11")
async def test_a_request_that_does_not_wait_says_when_there_is_nothing(lab: Lab) -> None:
    await lab.stream()
    await lab.durable()
    assert (await lab.pull(5)).statuses == [("404", "No Messages")]
    await lab.publish_many(2)
    pulled = await lab.pull(5, least=2)
    assert (pulled.data, pulled.statuses) == (["m0", "m1"], [("404", "No Messages")])


async def test_a_batch_that_is_full_ends_without_a_word(lab: Lab) -> None:
    await lab.stream()
    await lab.durable()
    await lab.publish_many(3)
    inbox = await lab.inbox()
    await inbox.ask(2, expires=30 * SECOND)
    pulled = await inbox.take(messages=2)
    assert (pulled.data, pulled.statuses) == (["m0", "m1"], [])
    assert (await lab.info())["num_waiting"] == 0


async def test_a_request_waits_for_its_messages_and_then_for_its_end(lab: Lab) -> None:
    await lab.stream()
    await lab.durable()
    inbox = await lab.inbox()
    await inbox.ask(3, expires=2 * SECOND)
    await lab.waiting()
    await lab.publish_many(2)
    assert (await inbox.take(messages=2)).data == ["m0", "m1"]
    pulled = await inbox.take(statuses=1)
    assert pulled.statuses == [("408", "Request Timeout")]
    assert pulled.headers[0]["Nats-Pending-Messages"] == "1"
    assert pulled.headers[0]["Nats-Pending-Bytes"] == "0"
    assert (await lab.info())["num_waiting"] == 0


@pytest.mark.since("2.11")
async def test_a_one_shot_waits_for_the_first_message_only(lab: Lab) -> None:
    await lab.stream()
    await lab.durable()
    inbox = await lab.inbox()
    await inbox.ask(5, no_wait=True, expires=30 * SECOND)
    await lab.waiting()
    assert (await inbox.take()).statuses == []
    await lab.publish("s.a", "x")
    pulled = await inbox.take(messages=1, statuses=1)
    assert pulled.data == ["x"]
    assert [code for code, _ in pulled.statuses] == ["404"]


async def test_heartbeats_while_nothing_comes(lab: Lab) -> None:
    await lab.stream()
    await lab.durable()
    inbox = await lab.inbox()
    await inbox.ask(1, expires=3 * SECOND, idle_heartbeat=SECOND // 2)
    pulled = await inbox.take(statuses=3)
    assert pulled.statuses[:3] == [("100", "Idle Heartbeat")] * 3
    while ("100", "Idle Heartbeat") in pulled.statuses:
        pulled = await inbox.take(statuses=1, quiet=0)
    assert pulled.statuses == [("408", "Request Timeout")]


async def test_a_heartbeat_has_to_fit_twice(lab: Lab) -> None:
    await lab.stream()
    await lab.durable()
    inbox = await lab.inbox()
    await inbox.ask(1, expires=SECOND, idle_heartbeat=SECOND)
    [(code, description)] = (await inbox.take(statuses=1)).statuses
    assert (code, description) == ("400", "Bad Request - heartbeat value too large")


@pytest.mark.parametrize("body", [b"", b"1", b'{"batch": 0}'])
async def test_a_request_may_be_short(lab: Lab, body: bytes) -> None:
    await lab.stream()
    await lab.durable()
    await lab.publish_many(2)
    inbox = await lab.inbox()
    await inbox.ask_raw(body)
    assert (await inbox.take(messages=1)).data == ["m0"]


async def test_a_request_that_is_no_json(lab: Lab) -> None:
    await lab.stream()
    await lab.durable()
    inbox = await lab.inbox()
    await inbox.ask_raw(b"{bad")
    [(code, _)] = (await inbox.take(statuses=1)).statuses
    assert code == "400"


async def test_limits_of_requests(lab: Lab) -> None:
    await lab.stream()
    await lab.durable(max_batch=5, max_expires=SECOND)
    inbox = await lab.inbox()
    await inbox.ask(6, expires=SECOND)
    await inbox.ask(1, expires=2 * SECOND)
    statuses = (await inbox.take(statuses=2)).statuses
    assert [code for code, _ in statuses] == ["409", "409"]
    assert "MaxRequestBatch" in statuses[0][1]
    assert "MaxRequestExpires" in statuses[1][1]


@pytest.mark.parametrize("bodies", [[100, 100, 100], [100, 900, 100], [900], [100, 900, 900]])
async def test_a_request_is_over_when_a_message_does_not_fit_any_more(
    lab: Lab, bodies: list[int]
) -> None:
    await lab.stream()
    await lab.durable()
    for size in bodies:
        await lab.publish("s.a", "x" * size)
    inbox = await lab.inbox()
    await inbox.ask(10, expires=30 * SECOND, max_bytes=400)
    fits = next((n for n in range(len(bodies)) if bodies[n] > 400 or n == 2), len(bodies))
    pulled = await inbox.take(messages=fits, statuses=1)
    assert [len(data) for data in pulled.data] == bodies[:fits]
    assert pulled.statuses == [("409", "Message Size Exceeds MaxBytes")]
    assert pulled.headers[0]["Nats-Pending-Messages"] == str(10 - fits)
    # What the server counts beside the body is the subject, and that of the acknowledgement.
    counted = sum(len(m.data) + len(m.subject) + len(m.reply) for m in pulled.messages)
    assert pulled.headers[0]["Nats-Pending-Bytes"] == str(400 - counted)
    rest = await lab.pull(10, least=len(bodies) - fits)
    assert [len(data) for data in rest.data] == bodies[fits:]


async def test_a_request_with_room_for_all_of_a_large_message(lab: Lab) -> None:
    await lab.stream()
    await lab.durable()
    await lab.publish("s.a", "x" * 900)
    inbox = await lab.inbox()
    await inbox.ask(1, expires=30 * SECOND, max_bytes=400)
    await inbox.ask(1, expires=30 * SECOND, max_bytes=1000)
    pulled = await inbox.take(messages=1, statuses=1)
    assert [len(data) for data in pulled.data] == [900]
    assert pulled.tries == [1]


async def test_a_limit_of_bytes_for_requests(lab: Lab) -> None:
    await lab.stream()
    await lab.durable(max_bytes=1000)
    inbox = await lab.inbox()
    await inbox.ask(1, expires=SECOND, max_bytes=1001)
    [(code, text)] = (await inbox.take(statuses=1)).statuses
    assert (code, text) == ("409", "Exceeded MaxRequestMaxBytes of 1000")


async def test_a_stream_limits_what_its_consumers_have_out(lab: Lab) -> None:
    await lab.stream(consumer_limits={"max_ack_pending": 77})
    with pytest.raises(RefusedError, match="exceeds system limit of 77") as refused:
        await lab.durable(max_ack_pending=78)
    assert (refused.value.code, refused.value.err_code) == (400, 10121)
    await lab.durable(max_ack_pending=77)
    with pytest.raises(RefusedError, match="exceeds system limit of 77"):
        await lab.durable(max_ack_pending=100)
    await lab.durable(name="d")
    assert (await lab.info(durable="d"))["config"]["max_ack_pending"] == 77


async def test_too_many_requests(lab: Lab) -> None:
    await lab.stream()
    await lab.durable(max_waiting=2)
    inbox = await lab.inbox()
    for _ in range(3):
        await inbox.ask(1, expires=30 * SECOND)
    assert (await inbox.take(statuses=1)).statuses == [("409", "Exceeded MaxWaiting")]


async def test_a_consumer_that_is_not_there_has_no_responders(lab: Lab) -> None:
    await lab.stream()
    inbox = await lab.inbox()
    await inbox.ask(1, expires=SECOND)
    assert [code for code, _ in (await inbox.take(statuses=1)).statuses] == ["503"]
    with pytest.raises(nats.js.errors.ServiceUnavailableError):
        await (await lab.js.pull_subscribe_bind("c", "S")).fetch(1, timeout=1)


@pytest.mark.parametrize("what", ["CONSUMER.DELETE.S.c", "STREAM.DELETE.S"])
async def test_who_waits_is_told_that_the_consumer_is_deleted(lab: Lab, what: str) -> None:
    await lab.stream()
    await lab.durable()
    inbox = await lab.inbox()
    await inbox.ask(1, expires=30 * SECOND)
    await lab.waiting()
    await lab.api(what)
    assert (await inbox.take(statuses=1)).statuses == [("409", "Consumer Deleted")]


async def test_a_request_ends_with_its_inbox(lab: Lab) -> None:
    await lab.stream()
    await lab.durable(ack_wait=SECOND)
    inbox = await lab.inbox()
    await inbox.ask(5, expires=30 * SECOND)
    await inbox.close()
    await lab.publish_many(1)

    async def another_gets_it() -> bool:
        """At once, or after `ack_wait` if the server had not noticed the closed inbox yet."""
        return (await lab.pull()).data == ["m0"]

    await eventually(another_gets_it)


async def test_those_who_ask_take_turns(lab: Lab) -> None:
    await lab.stream()
    await lab.durable()
    one, other = await lab.inbox(), await lab.inbox()
    await one.ask(2, expires=30 * SECOND)
    await lab.waiting(1)
    await other.ask(2, expires=30 * SECOND)
    await lab.waiting(2)
    await lab.publish_many(4)
    assert (await one.take(messages=2)).data == ["m0", "m2"]
    assert (await other.take(messages=2)).data == ["m1", "m3"]


# --- acknowledgements


async def test_an_acknowledged_message_is_not_delivered_again(lab: Lab) -> None:
    await lab.stream()
    await lab.durable(ack_wait=SECOND // 2)
    await lab.publish_many(1)
    [message] = (await lab.pull(least=1)).messages
    await message.ack()
    await lab.broker.passes(0.8)
    assert (await lab.pull()).data == []
    assert (await lab.state())["messages"] == 1
    with pytest.raises(nats.errors.MsgAlreadyAckdError):
        await message.ack()


async def test_an_acknowledged_message_leaves_a_work_queue(lab: Lab) -> None:
    await lab.stream(retention="workqueue")
    await lab.durable()
    await lab.publish_many(2)
    pulled = await lab.pull(2, least=2)
    await pulled.messages[1].ack_sync(timeout=10)
    state = await lab.state()
    assert (state["messages"], state["first_seq"], state["last_seq"]) == (1, 1, 2)
    await pulled.messages[0].ack_sync(timeout=10)
    state = await lab.state()
    assert (state["messages"], state["first_seq"]) == (0, 3)


async def test_a_confirmed_acknowledgement_is_confirmed_twice(lab: Lab) -> None:
    await lab.stream()
    await lab.durable()
    await lab.publish_many(1)
    [message] = (await lab.pull(least=1)).messages
    for _ in range(2):
        await lab.answer(message, b"+ACK")


@pytest.mark.parametrize("word", [b"+ACK", b"-NAK", b"+WPI", b"+TERM"])
async def test_every_answer_can_be_confirmed(lab: Lab, word: bytes) -> None:
    await lab.stream()
    await lab.durable()
    await lab.publish_many(1)
    [message] = (await lab.pull(least=1)).messages
    await lab.answer(message, word)
    assert (await lab.pull(least=int(word == b"-NAK"))).data == (["m0"] if word == b"-NAK" else [])


async def test_a_confirmed_acknowledgement_without_a_consumer(lab: Lab) -> None:
    await lab.stream()
    await lab.durable()
    await lab.publish_many(1)
    [message] = (await lab.pull(least=1)).messages
    await lab.api("CONSUMER.DELETE.S.c")
    with pytest.raises(nats.errors.NoRespondersError):
        await lab.client.request(message.reply, b"+ACK", timeout=10)


async def test_what_is_not_acknowledged_comes_again(lab: Lab) -> None:
    await lab.stream()
    await lab.durable(ack_wait=2 * SECOND)
    await lab.publish_many(1)
    await lab.pull(least=1)
    assert (await lab.pull()).data == []
    pulled = await lab.pull_waiting()
    assert (pulled.data, pulled.tries) == (["m0"], [2])
    assert pulled.messages[0].metadata.sequence.consumer == 2


async def test_a_late_acknowledgement_counts(lab: Lab) -> None:
    await lab.stream()
    await lab.durable(ack_wait=SECOND // 2)
    await lab.publish_many(1)
    [first] = (await lab.pull(least=1)).messages
    await lab.pull_waiting()
    await first.ack_sync(timeout=10)
    assert (await lab.info())["num_ack_pending"] == 0
    await lab.broker.passes(0.6)
    assert (await lab.pull()).data == []


async def test_nak_brings_it_back_at_once(lab: Lab) -> None:
    await lab.stream()
    await lab.durable()
    await lab.publish_many(3)
    pulled = await lab.pull(2, least=2)
    await lab.answer(pulled.messages[0], b"-NAK")
    again = await lab.pull(3, least=2)
    assert (again.data, again.tries) == (["m0", "m2"], [2, 1])


async def test_nak_with_a_delay_brings_it_back_then(lab: Lab) -> None:
    await lab.stream()
    await lab.durable(ack_wait=SECOND // 2)
    await lab.publish_many(1)
    inbox = await lab.inbox()
    await inbox.ask(5, expires=30 * SECOND)
    [message] = (await inbox.take(messages=1, quiet=0)).messages
    await message.nak(delay=2.0)
    assert (await inbox.take(quiet=1.0)).data == []
    assert (await inbox.take(messages=1, quiet=0)).tries == [2]


async def test_in_progress_puts_off_the_next_delivery(lab: Lab) -> None:
    await lab.stream()
    await lab.durable(ack_wait=2 * SECOND)
    await lab.publish_many(1)
    [message] = (await lab.pull(least=1)).messages
    for _ in range(3):
        await lab.broker.passes(0.8)
        await message.in_progress()
    assert (await lab.pull()).data == []
    assert (await lab.pull_waiting()).tries == [2]


async def test_term_ends_it(lab: Lab) -> None:
    await lab.stream()
    await lab.durable(ack_wait=SECOND // 2)
    await lab.publish_many(1)
    [message] = (await lab.pull(least=1)).messages
    await message.term()
    await lab.broker.passes(0.7)
    assert (await lab.pull()).data == []

    async def is_done() -> bool:
        return bool((await lab.info())["num_ack_pending"] == 0)

    await eventually(is_done)
    assert (await lab.state())["messages"] == 1


async def test_term_deletes_from_a_work_queue(lab: Lab) -> None:
    await lab.stream(retention="workqueue")
    await lab.durable()
    await lab.publish_many(1)
    [message] = (await lab.pull(least=1)).messages
    await lab.answer(message, b"+TERM")

    async def is_empty() -> bool:
        return bool((await lab.state())["messages"] == 0)

    await eventually(is_empty)


@pytest.mark.parametrize("retention", ["limits", "workqueue"])
async def test_after_max_deliver_it_is_left_where_it_is(lab: Lab, retention: str) -> None:
    await lab.stream(retention=retention)
    await lab.durable(ack_wait=SECOND // 4, max_deliver=2)
    await lab.publish_many(2)
    inbox = await lab.inbox()
    await inbox.ask(10, expires=30 * SECOND)
    pulled = await inbox.take(messages=4, quiet=0.8)
    assert pulled.data == ["m0", "m1", "m0", "m1"]
    assert pulled.tries == [1, 1, 2, 2]

    async def has_given_up() -> bool:
        info = await lab.info()
        return (info["num_ack_pending"], info["num_pending"]) == (0, 0)

    await eventually(has_given_up)
    assert (await lab.state())["messages"] == 2
    await lab.publish("s.a", "later")
    assert (await inbox.take(messages=1, quiet=0)).data == ["later"]


async def test_only_so_many_are_out_at_once(lab: Lab) -> None:
    await lab.stream()
    await lab.durable(max_ack_pending=2)
    await lab.publish_many(4)
    inbox = await lab.inbox()
    await inbox.ask(10, expires=30 * SECOND)
    pulled = await inbox.take(messages=2)
    assert pulled.data == ["m0", "m1"]
    await pulled.messages[0].ack()
    assert (await inbox.take(messages=1)).data == ["m2"]
    await pulled.messages[1].nak()
    assert (await inbox.take(messages=1)).data == ["m1"]


async def test_a_filter_takes_its_own_only(lab: Lab) -> None:
    await lab.stream()
    await lab.durable(filter_subject="s.*.x")
    for subject in ("s.a", "s.a.x", "s.b.x", "s.a.y", "s.a.x.z"):
        await lab.publish(subject, subject)
    pulled = await lab.pull(10, least=2)
    assert pulled.data == ["s.a.x", "s.b.x"]
    assert [m.metadata.num_pending for m in pulled.messages] == [1, 0]


async def test_two_consumers_of_a_stream_have_each_message_both(lab: Lab) -> None:
    await lab.stream()
    await lab.durable(name="one")
    await lab.durable(name="other")
    await lab.publish_many(2)
    for name in ("one", "other"):
        pulled = await lab.pull(5, durable=name, least=2)
        assert pulled.data == ["m0", "m1"]


async def test_a_message_that_is_deleted_while_it_is_out(lab: Lab) -> None:
    await lab.stream()
    await lab.durable(ack_wait=SECOND // 4)
    await lab.publish_many(2)
    pulled = await lab.pull(1, least=1)
    await lab.api("STREAM.MSG.DELETE.S", {"seq": 1})
    await lab.broker.passes(0.5)
    assert (await lab.pull(5, least=1)).data == ["m1"]
    await pulled.messages[0].ack()


async def test_a_purged_stream_delivers_what_comes_after(lab: Lab) -> None:
    await lab.stream()
    await lab.durable()
    await lab.publish_many(3)
    await lab.api("STREAM.PURGE.S")
    assert (await lab.info())["num_pending"] == 0
    await lab.publish("s.a", "after")
    assert (await lab.pull(5, least=1)).data == ["after"]


# --- nats-py's own fetch, which tests use


async def test_fetch(lab: Lab) -> None:
    await lab.stream(retention="workqueue")
    await lab.durable()
    subscription = await lab.js.pull_subscribe_bind("c", "S")
    with pytest.raises(asyncio.TimeoutError):
        await subscription.fetch(1, timeout=0.3)
    await lab.publish_many(5)
    assert [m.data for m in await subscription.fetch(1, timeout=5)] == [b"m0"]
    messages = await subscription.fetch(10, timeout=5)
    assert [m.data for m in messages] == [b"m1", b"m2", b"m3", b"m4"]
    await asyncio.gather(*(message.ack_sync(timeout=10) for message in messages))
    assert (await lab.state())["messages"] == 1
    await subscription.unsubscribe()


async def test_a_message_that_arrives_while_somebody_waits_comes_at_once(lab: Lab) -> None:
    await lab.stream()
    await lab.durable()
    came = asyncio.Event()
    inbox = lab.client.new_inbox()

    async def deliver(message: Msg) -> None:
        if message.reply:
            came.set()

    await lab.client.subscribe(inbox, cb=deliver)
    request = json.dumps({"batch": 1, "expires": 30 * SECOND}).encode()
    await lab.client.publish("$JS.API.CONSUMER.MSG.NEXT.S.c", request, reply=inbox)
    await lab.publish_many(1)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(came.wait(), 5)
    assert came.is_set()
