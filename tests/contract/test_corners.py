"""Corners of JetStream that random histories found, each by name, on the mock and on the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.brokers import Broker
from tests.contract.lab import LIMIT, SECOND, Json
from tests.contract.pair import Side
from tests.waiting import eventually

pytestmark = pytest.mark.since("2.15")

NO_WAIT: Json = {"no_wait": True}
HOUR = 3600 * SECOND
NOTHING = {"status": ("404", "No Messages")}


class Corner:
    """One stream called S, and its consumer c."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.came: list[Json] = []

    async def stream(self, **config: Any) -> None:
        body = {"name": "S", "subjects": ["S.>"], **config}
        assert "error" not in await self.side.api("STREAM.CREATE.S", body)

    async def durable(self, **config: Any) -> None:
        settings = {"durable_name": "c", "ack_policy": "explicit", "ack_wait": HOUR, **config}
        body = {"stream_name": "S", "config": settings}
        assert "error" not in await self.side.api("CONSUMER.DURABLE.CREATE.S.c", body)

    async def publish(self, *subjects: str, **headers: str) -> list[Json]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return [await self.side.publish(subject, subject, named) for subject in subjects]

    async def ask(self, batch: int = 1, **request: Any) -> None:
        await self.side.ask("c", {"batch": batch, **(request or NO_WAIT)})

    async def gets(self, *expected: str | Json) -> None:
        """Wait until as much came as is expected: subjects of messages, and statuses.

        A consumer hears of a message a moment after the stream has acknowledged it, so a request
        that does not wait may come too early for it: it is asked again for what is missing.
        """
        deadline = asyncio.get_running_loop().time() + LIMIT
        while True:
            await eventually(lambda: self._are_here(len(expected)))
            came, self.came = self.came, []
            missing = len(expected) - len([one for one in came if one != NOTHING])
            early = NOTHING in came and NOTHING not in expected
            if not early or asyncio.get_running_loop().time() > deadline:
                break
            self.came = [one for one in came if one != NOTHING]
            await self.ask(missing)
        assert [one if "status" in one else one["subject"] for one in came] == [*expected]

    def _are_here(self, number: int) -> bool:
        self.came += self.side.taken("c")
        return len(self.came) >= number or self.came[-1:] == [NOTHING]

    async def consumer(self) -> Json:
        found: Json = (await self.side.state(["c"]))["c"]
        return found

    async def becomes(self, **numbers: int) -> None:
        """Wait until what is known of the consumer has these numbers."""

        async def alike() -> bool:
            found = await self.consumer()
            return {name: found[name] for name in numbers} == numbers

        await eventually(alike, what=f"{numbers}")


@pytest.fixture
async def corner(broker: Broker) -> AsyncIterator[Corner]:
    side = Side(broker, asyncio.get_running_loop(), "S")
    await side.connect()
    await side.listen(["c"])
    yield Corner(side)
    await side.close()


def code(answer: Json) -> int:
    number: int = answer.get("error", {}).get("err_code", 0)
    return number


# --- publishing


@pytest.mark.parametrize("what", ["Last-Sequence", "Last-Subject-Sequence"])
async def test_an_expected_sequence_counts_before_the_id_does(corner: Corner, what: str) -> None:
    await corner.stream()
    await corner.publish("a", Nats_Msg_Id="x")
    headers = {"Nats-Msg-Id": "x", f"Nats-Expected-{what}": "7"}
    assert code(await corner.side.publish("a", "", headers)) == 10071


async def test_the_id_counts_before_the_expected_last_id_does(corner: Corner) -> None:
    await corner.stream()
    await corner.publish("a", Nats_Msg_Id="x")
    headers = {"Nats-Msg-Id": "x", "Nats-Expected-Last-Msg-Id": "y"}
    assert (await corner.side.publish("a", "", headers)).get("duplicate") is True


async def test_a_full_stream_takes_a_message_in_the_place_of_one_of_its_subject(
    corner: Corner,
) -> None:
    await corner.stream(discard="new", max_msgs=2, max_msgs_per_subject=1)
    await corner.publish("a", "b")
    refused, taken = await corner.publish("c", "a")
    assert (code(refused), taken["seq"]) == (10077, 3)
    assert (await corner.side.state([]))["subjects"] == {"a": 1, "b": 1}


async def test_a_tighter_limit_takes_nothing_from_a_stream_that_discards_new(
    corner: Corner,
) -> None:
    await corner.stream(discard="new")
    await corner.publish("a", "a", "a")
    body = {"name": "S", "subjects": ["S.>"], "discard": "new", "max_msgs": 1}
    await corner.side.api("STREAM.UPDATE.S", body)
    assert (await corner.side.state([]))["messages"] == 3


# --- deleting, purging, restarting


async def test_deleting_no_message_and_deleting_nothing_are_two_errors(corner: Corner) -> None:
    await corner.stream()
    await corner.publish("a")
    assert code(await corner.side.api("STREAM.MSG.DELETE.S", {"seq": 0})) == 10057
    assert code(await corner.side.api("STREAM.MSG.DELETE.S")) == 10003


@pytest.mark.parametrize(
    ("request_", "first", "last"),
    [(None, 1, 0), ({"seq": 1}, 0, 0), ({"seq": 5}, 5, 4), ({"keep": 1}, 0, 0)],
)
async def test_purging_an_empty_stream(
    corner: Corner, request_: Json | None, first: int, last: int
) -> None:
    await corner.stream()
    await corner.side.api("STREAM.PURGE.S", request_)
    state = await corner.side.state([])
    assert (state["first_seq"], state["last_seq"]) == (first, last)


async def test_purging_beyond_the_end_moves_the_end(corner: Corner) -> None:
    await corner.stream()
    await corner.publish("a", "a")
    assert (await corner.side.api("STREAM.PURGE.S", {"seq": 9}))["purged"] == 2
    [ack] = await corner.publish("a")
    assert ack["seq"] == 9


async def test_a_purge_up_to_a_sequence_that_also_keeps_some_is_refused(corner: Corner) -> None:
    await corner.stream()
    await corner.publish("a", "a")
    answer = await corner.side.api("STREAM.PURGE.S", {"seq": 2, "keep": 1})
    assert (code(answer), answer["purged"]) == (10003, 0)


async def test_ids_outlive_a_purge_and_not_a_restart_after_it(corner: Corner) -> None:
    await corner.stream()
    await corner.publish("a", Nats_Msg_Id="x")
    await corner.publish("b", Nats_Msg_Id="y")
    await corner.side.api("STREAM.PURGE.S", {"filter": "S.a"})
    [still_known] = await corner.publish("a", Nats_Msg_Id="x")
    await corner.side.restart()
    [kept] = await corner.publish("b", Nats_Msg_Id="y")
    [forgotten] = await corner.publish("a", Nats_Msg_Id="x")
    assert (still_known.get("duplicate"), kept.get("duplicate")) == (True, True)
    assert forgotten == {"seq": 3}


async def test_the_last_id_is_that_of_the_last_stored_message_after_a_restart(
    corner: Corner,
) -> None:
    await corner.stream()
    await corner.publish("a", Nats_Msg_Id="x")
    await corner.side.api("STREAM.PURGE.S")
    await corner.side.restart()
    headers = {"Nats-Expected-Last-Msg-Id": "x"}
    assert code(await corner.side.publish("a", "", headers)) == 10070


async def test_what_was_given_back_waits_for_its_ack_wait_after_a_restart(corner: Corner) -> None:
    await corner.stream()
    await corner.durable()
    await corner.publish("a")
    await corner.ask()
    await corner.gets("a")
    assert await corner.side.answer(-1, b"-NAK")
    await corner.side.restart()
    await corner.becomes(num_ack_pending=1)
    await corner.ask()
    await corner.gets(NOTHING)


@pytest.mark.parametrize("purged", [{"filter": "S.b"}, {"seq": 1}])
async def test_a_purge_takes_what_was_given_back_out_of_the_queue(
    corner: Corner, purged: Json
) -> None:
    await corner.stream()
    await corner.durable()
    await corner.publish("a", "b")
    await corner.ask(2)
    await corner.gets("a", "b")
    assert await corner.side.answer(-2, b"-NAK")
    await corner.side.api("STREAM.PURGE.S", purged)
    left = 2 if "seq" in purged else 1
    await corner.becomes(num_ack_pending=left)
    await corner.ask()
    await corner.gets(NOTHING)


async def test_a_purge_of_what_is_out_moves_the_floor(corner: Corner) -> None:
    await corner.stream()
    await corner.durable()
    await corner.publish("a", "a", "b")
    await corner.ask(3)
    await corner.gets("a", "a", "b")
    await corner.side.api("STREAM.PURGE.S", {"seq": 3})
    await corner.becomes(num_ack_pending=1, num_pending=0)
    found = await corner.consumer()
    assert found["ack_floor"] == {"consumer_seq": 2, "stream_seq": 2}


async def test_a_purge_of_another_subject_leaves_a_filtered_consumer_alone(
    corner: Corner,
) -> None:
    await corner.stream()
    await corner.durable(filter_subject="S.a")
    await corner.publish("a", "b", "a")
    await corner.ask()
    await corner.gets("a")
    await corner.side.api("STREAM.PURGE.S", {"filter": "S.b"})
    await corner.becomes(num_ack_pending=1, num_pending=1)
    await corner.side.api("STREAM.PURGE.S", {"filter": "S.>"})
    await corner.becomes(num_ack_pending=0, num_pending=0)


# --- requests


async def test_a_request_that_does_not_wait_does_so_while_no_more_may_be_out(
    corner: Corner,
) -> None:
    await corner.stream()
    await corner.durable(max_ack_pending=1)
    await corner.publish("a", "b")
    await corner.ask()
    await corner.gets("a")
    await corner.ask()
    await corner.becomes(num_waiting=1)
    assert await corner.side.answer(-1, b"+ACK")
    await corner.gets("b")


async def test_a_request_that_does_not_wait_is_refused_when_others_will_have_it_all(
    corner: Corner,
) -> None:
    await corner.stream()
    await corner.durable(max_ack_pending=1)
    await corner.publish("a", "b")
    await corner.ask()
    await corner.gets("a")
    await corner.ask(5, expires=HOUR)
    await corner.becomes(num_waiting=1)
    await corner.ask()
    await corner.gets({"status": ("408", "Requests Pending")})


async def test_what_other_consumers_are_for_disturbs_no_request(corner: Corner) -> None:
    await corner.stream()
    await corner.durable(filter_subject="S.a")
    await corner.ask(2, expires=HOUR)
    await corner.becomes(num_waiting=1)
    await corner.publish("b", "a", "b", "a")
    await corner.gets("a", "a")


# --- answers


async def test_an_earlier_consumer_of_that_name_cannot_be_answered_for(corner: Corner) -> None:
    await corner.stream()
    await corner.durable()
    await corner.publish("a", "a")
    await corner.ask(2)
    await corner.gets("a", "a")
    await corner.side.api("CONSUMER.DELETE.S.c")
    await corner.durable()
    before = await corner.consumer()
    assert await corner.side.answer(-1, b"-NAK")
    await corner.side.say(-1, b"+TERM")
    assert await corner.consumer() == before
    await corner.ask(2)
    await corner.gets("a", "a")


async def test_a_message_given_back_for_the_last_time_is_out_until_somebody_asks(
    corner: Corner,
) -> None:
    await corner.stream()
    await corner.durable(max_deliver=1)
    await corner.publish("a")
    await corner.ask()
    await corner.gets("a")
    assert await corner.side.answer(-1, b"-NAK")
    await corner.becomes(num_ack_pending=1)
    await corner.ask()
    await corner.gets(NOTHING)
    await corner.becomes(num_ack_pending=0)


@pytest.mark.parametrize("word", [b"+ACK", b"+TERM"])
async def test_an_answer_after_the_last_delivery_still_empties_a_work_queue(
    corner: Corner, word: bytes
) -> None:
    await corner.stream(retention="workqueue")
    await corner.durable(max_deliver=1)
    await corner.publish("a")
    await corner.ask()
    await corner.gets("a")
    assert await corner.side.answer(-1, b'-NAK {"delay": 30000000}')
    await corner.becomes(num_ack_pending=0)
    assert (await corner.side.state([]))["messages"] == 1
    assert await corner.side.answer(-1, word)
    assert (await corner.side.state([]))["messages"] == 0


async def test_a_redelivered_message_is_counted_until_it_is_deleted(corner: Corner) -> None:
    await corner.stream()
    await corner.durable()
    await corner.publish("a")
    for _ in range(2):
        await corner.ask()
        await corner.gets("a")
        assert await corner.side.answer(-1, b"-NAK")
    await corner.becomes(num_redelivered=1)
    await corner.side.api("STREAM.MSG.DELETE.S", {"seq": 1})
    await corner.becomes(num_redelivered=0, num_ack_pending=0)


async def test_a_nak_with_a_delay_that_is_the_last_ends_when_it_is_over(corner: Corner) -> None:
    await corner.stream()
    await corner.durable(max_deliver=1)
    await corner.publish("a")
    await corner.ask()
    await corner.gets("a")
    assert await corner.side.answer(-1, b'-NAK {"delay": 30000000}')
    await corner.becomes(num_ack_pending=0, num_redelivered=0)
    await corner.durable(max_deliver=-1)
    await corner.becomes(num_redelivered=1)
