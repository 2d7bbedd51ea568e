"""What a publisher is told, and what is in the stream then."""

from __future__ import annotations

import asyncio
import json

import nats.errors
import nats.js.errors
import pytest

from tests.contract.lab import SECOND, Lab
from tests.waiting import eventually


async def test_a_message_is_acknowledged_with_its_place(lab: Lab) -> None:
    await lab.stream()
    assert await lab.publish() == {"stream": "S", "seq": 1}
    assert await lab.publish() == {"stream": "S", "seq": 2}


async def test_the_same_id_again_is_a_duplicate_with_the_first_place(lab: Lab) -> None:
    await lab.stream()
    await lab.publish()
    await lab.publish(headers={"Nats-Msg-Id": "x"})
    again = await lab.publish("s.other", "another body", headers={"Nats-Msg-Id": "x"})
    assert again == {"stream": "S", "seq": 2, "duplicate": True}
    assert (await lab.state())["messages"] == 2


async def test_the_id_header_is_known_by_its_exact_name(lab: Lab) -> None:
    await lab.stream()
    for _ in range(2):
        await lab.publish(headers={"nats-msg-id": "x"})
        await lab.publish(headers={"Nats-Msg-Id": ""})
    assert (await lab.state())["messages"] == 4


async def test_an_id_is_known_for_the_duplicate_window(lab: Lab) -> None:
    await lab.stream(duplicate_window=2 * SECOND)
    await lab.publish(headers={"Nats-Msg-Id": "x"})
    await lab.broker.passes(0.2)
    assert "duplicate" in await lab.publish(headers={"Nats-Msg-Id": "x"})
    await lab.broker.passes(2.0)

    async def is_new() -> bool:
        answer = await lab.publish(headers={"Nats-Msg-Id": "x"})
        return answer == {"stream": "S", "seq": 2}

    await eventually(is_new)


async def test_an_id_outlives_its_message(lab: Lab) -> None:
    await lab.stream()
    await lab.publish(headers={"Nats-Msg-Id": "x"})
    await lab.api("STREAM.MSG.DELETE.S", {"seq": 1})
    assert "duplicate" in await lab.publish(headers={"Nats-Msg-Id": "x"})
    await lab.api("STREAM.PURGE.S")
    assert "duplicate" in await lab.publish(headers={"Nats-Msg-Id": "x"})


async def test_an_id_outlives_a_restart_of_the_server(lab: Lab) -> None:
    await lab.stream()
    await lab.publish(headers={"Nats-Msg-Id": "x"})
    await lab.client.close()
    lab.broker.terminate()
    lab.broker.start()
    other = await lab.broker.connect()
    after = Lab(lab.broker, other)
    assert (await after.publish(headers={"Nats-Msg-Id": "x"}))["duplicate"] is True
    await other.close()


@pytest.mark.parametrize(
    ("headers", "err_code"),
    [
        ({"Nats-Expected-Stream": "other"}, 10060),
        ({"Nats-Expected-Last-Sequence": "7"}, 10071),
        ({"Nats-Expected-Last-Subject-Sequence": "7"}, 10071),
        ({"Nats-Expected-Last-Msg-Id": "other"}, 10070),
    ],
)
async def test_an_expectation_that_fails_stores_nothing(
    lab: Lab, headers: dict[str, str], err_code: int
) -> None:
    await lab.stream()
    await lab.publish(headers={"Nats-Msg-Id": "x"})
    answer = await lab.publish(headers=headers)
    assert answer["error"]["err_code"] == err_code
    assert answer["error"]["code"] == 400
    assert (await lab.state())["last_seq"] == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Nats-Expected-Stream": "S"},
        {"Nats-Expected-Last-Sequence": "2"},
        {"Nats-Expected-Last-Subject-Sequence": "1"},
        {"Nats-Expected-Last-Msg-Id": "y"},
    ],
)
async def test_an_expectation_that_holds_is_no_hindrance(lab: Lab, headers: dict[str, str]) -> None:
    await lab.stream()
    await lab.publish("s.a", headers={"Nats-Msg-Id": "x"})
    await lab.publish("s.b", headers={"Nats-Msg-Id": "y"})
    assert (await lab.publish("s.a", headers=headers))["seq"] == 3


async def test_a_message_over_the_streams_limit_is_refused(lab: Lab) -> None:
    await lab.stream(max_msg_size=50)
    assert (await lab.publish(data="x" * 51))["error"]["err_code"] == 10054
    assert (await lab.publish(data="x" * 30, headers={"a": "b" * 20}))["error"]["err_code"] == 10054
    assert "error" not in await lab.publish(data="x" * 50)


async def test_a_full_stream_refuses_or_forgets_as_configured(lab: Lab) -> None:
    await lab.stream("N", max_msgs=2, discard="new")
    await lab.stream("O", max_msgs=2, discard="old")
    for n in range(3):
        newest = await lab.publish("n.a", str(n))
        await lab.publish("o.a", str(n))
    assert (newest["error"]["code"], newest["error"]["err_code"]) == (503, 10077)
    assert ((await lab.state("N"))["first_seq"], (await lab.state("N"))["last_seq"]) == (1, 2)
    assert ((await lab.state("O"))["first_seq"], (await lab.state("O"))["last_seq"]) == (2, 3)


async def test_bytes_are_counted_and_limited(lab: Lab) -> None:
    await lab.stream(max_bytes=300, discard="new")
    await lab.publish("s.a", "x" * 100)
    await lab.publish("s.bb", "x" * 50, headers={"k": "v"})
    state = await lab.state()
    assert state["bytes"] == (30 + 3 + 100) + (30 + 4 + 4 + 18 + 50)
    assert (await lab.publish("s.a", "x" * 100))["error"]["err_code"] == 10077


async def test_only_so_many_messages_for_each_subject(lab: Lab) -> None:
    await lab.stream(max_msgs_per_subject=1)
    for n in range(3):
        await lab.publish("s.a", str(n))
        await lab.publish("s.b", str(n))
    assert (await lab.state())["messages"] == 2
    assert (await lab.js.get_last_msg("S", "s.a")).data == b"2"


@pytest.mark.since("2.11")
async def test_a_message_ages_out(lab: Lab) -> None:
    await lab.stream(max_age=SECOND // 2)
    await lab.publish()
    await lab.broker.passes(0.5)

    async def is_gone() -> bool:
        state = await lab.state()
        return (state["messages"], state["first_seq"], state["last_seq"]) == (0, 2, 1)

    await eventually(is_gone)


async def test_a_subject_without_a_stream_has_no_responders(lab: Lab) -> None:
    with pytest.raises(nats.errors.NoRespondersError):
        await lab.client.request("nobody.there", b"", timeout=10)
    with pytest.raises(nats.js.errors.NoStreamResponseError):
        await lab.js.publish("nobody.there", b"")


@pytest.mark.parametrize("pattern", ["somebody.there", "somebody.*", ">"])
async def test_a_subscriber_without_a_stream_hides_that_there_is_none(
    lab: Lab, pattern: str
) -> None:
    await lab.client.subscribe(pattern)
    with pytest.raises(asyncio.TimeoutError):
        await lab.js.publish("somebody.there", b"", timeout=0.3)


async def test_no_ack_streams_store_and_say_nothing(lab: Lab) -> None:
    await lab.stream(no_ack=True)
    with pytest.raises(asyncio.TimeoutError):
        await lab.js.publish("s.a", b"", timeout=0.3)
    assert (await lab.state())["messages"] == 1


async def test_publishing_without_a_reply_stores_too(lab: Lab) -> None:
    await lab.stream()
    await lab.client.publish("s.a", b"quiet")

    async def is_stored() -> bool:
        return bool((await lab.state())["messages"] == 1)

    await eventually(is_stored)


async def test_subscribers_hear_what_the_stream_stores(lab: Lab) -> None:
    await lab.stream()
    heard = await lab.client.subscribe("s.*")
    await lab.publish("s.a", "x", headers={"k": "v"})
    message = await heard.next_msg(timeout=10)
    assert (message.subject, message.data, message.headers) == ("s.a", b"x", {"k": "v"})


async def test_nats_pys_publish_knows_acks_and_errors(lab: Lab) -> None:
    await lab.stream()
    ack = await lab.js.publish("s.a", b"x", headers={"Nats-Msg-Id": "x"})
    assert (ack.stream, ack.seq, ack.duplicate) == ("S", 1, None)
    ack = await lab.js.publish("s.a", b"x", headers={"Nats-Msg-Id": "x"})
    assert (ack.seq, ack.duplicate) == (1, True)
    with pytest.raises(nats.js.errors.BadRequestError) as refused:
        await lab.js.publish("s.a", b"x", stream="other")
    assert refused.value.err_code == 10060
    with pytest.raises(nats.errors.MaxPayloadError):
        await lab.js.publish("s.a", b"x" * (lab.client.max_payload + 1))


async def test_publish_async_collects_its_acks(lab: Lab) -> None:
    await lab.stream()
    acks = [await lab.js.publish_async("s.a", str(n).encode()) for n in range(20)]
    assert [(await ack).seq for ack in acks] == list(range(1, 21))


async def test_the_body_and_the_headers_come_back_as_they_were(lab: Lab) -> None:
    await lab.stream()
    body = json.dumps({"text": "Ünïcode ☃"}, ensure_ascii=False)
    await lab.publish("s.a", body, headers={"x-Mixed-Case": "a: b", "Nats-Msg-Id": "1"})
    message = await lab.js.get_msg("S", 1)
    assert (message.data or b"").decode() == body
    assert message.headers == {"x-Mixed-Case": "a: b", "Nats-Msg-Id": "1"}
