"""What a worker holds, in the order in which it may be handled."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from jetstream_bridge import Consumers, Event
from jetstream_bridge.inbox.batch_sizing import BatchSizer
from jetstream_bridge.inbox.concurrency_limits import ConcurrencyLimits
from jetstream_bridge.inbox.dead_lettering import MAX_ERROR, error_text, letter_headers
from jetstream_bridge.inbox.deliveries import Deliveries, OverdueEvent
from jetstream_bridge.inbox.delivery import Delivery
from jetstream_bridge.inbox.reading import EventReader, Rejection
from tests.bridge.support import envelope
from tests.events.test_envelope import VECTORS


def message(body: bytes, *, seq: int = 1, tries: int = 1, **headers: str) -> Msg:
    """A message as the server delivers it: its place is told by the reply subject."""
    reply = f"$JS.ACK.stream.durable.{tries}.{seq}.{seq}.1700000000000000000.0"
    return Msg(Client(), subject="env.a.sync.b", reply=reply, data=body, headers=headers or None)


def delivery(seq: int, resource: str, *, tries: int = 1) -> Delivery:
    body = envelope(f"e{seq}", resource=resource).encode()
    return Delivery(message(body, seq=seq, tries=tries), EventReader(Consumers(), None))


def never_alone(_: Delivery) -> bool:
    return False


def take(hand: Deliveries, limit: int = 100) -> list[int]:
    batch = hand.take(limit, alone=never_alone)
    return [d.seq for d in batch]


def test_one_resource_comes_in_stream_order_whatever_the_order_of_arrival() -> None:
    hand = Deliveries()
    for seq in (3, 1, 2):
        hand.add(delivery(seq, "a"))
    assert take(hand) == [1, 2, 3]


def test_what_comes_again_before_its_batch_ended_is_not_forgotten_with_it() -> None:
    hand = Deliveries()
    hand.add(delivery(1, "a"))
    hand.add(delivery(2, "a"))
    [first] = hand.take(1, alone=never_alone)
    first.given_back = True
    hand.block(first, due=1, until=2)
    again = delivery(1, "a", tries=2)
    hand.add(again)
    assert again in list(hand)
    assert not hand.runnable
    hand.finish([first])
    assert hand.take(1, alone=never_alone) == [again]
    hand.finish([again])
    assert take(hand) == [2]


def test_a_resource_that_is_being_handled_waits() -> None:
    hand = Deliveries()
    hand.add(delivery(1, "a"))
    batch = hand.take(10, alone=never_alone)
    hand.add(delivery(2, "a"))
    hand.add(delivery(3, "b"))
    assert take(hand) == [3]
    hand.finish(batch)
    assert take(hand) == [2]


def test_a_batch_is_cut_at_its_limit_and_the_rest_stays_in_order() -> None:
    hand = Deliveries()
    for seq in range(1, 8):
        hand.add(delivery(seq, "a"))
    batch = hand.take(3, alone=never_alone)
    assert [d.seq for d in batch] == [1, 2, 3]
    hand.finish(batch, unhandled=batch[1:])
    assert take(hand) == [2, 3, 4, 5, 6, 7]


def test_followers_wait_until_their_event_comes_again() -> None:
    hand = Deliveries()
    for seq in (1, 2):
        hand.add(delivery(seq, "a"))
    hand.add(delivery(3, "b"))
    first = hand.take(1, alone=never_alone)
    hand.block(first[0], due=10, until=20)
    hand.finish(first)
    assert take(hand) == [3]
    assert hand.active == 1
    hand.add(delivery(1, "a", tries=2))
    assert take(hand) == [1, 2]


def test_followers_go_on_when_their_event_went_elsewhere() -> None:
    hand = Deliveries()
    hand.add(delivery(1, "a"))
    batch = hand.take(1, alone=never_alone)
    hand.add(delivery(2, "a"))
    hand.block(batch[0], due=10, until=20)
    hand.finish(batch)
    assert hand.overdue(5) == []
    place = batch[0].place
    assert hand.overdue(11) == [OverdueEvent("order:a", place, given_up=False)]
    assert hand.overdue(21) == [OverdueEvent("order:a", place, given_up=True)]
    hand.unblock("order:a")
    assert take(hand) == [2]


def test_a_message_delivered_again_while_it_is_here_is_one() -> None:
    hand = Deliveries()
    hand.add(delivery(1, "a"))
    hand.add(delivery(1, "a", tries=2))
    [held] = hand.take(10, alone=never_alone)
    assert held.tries == 2
    assert take(hand) == []


def test_what_must_run_alone_is_a_batch_by_itself() -> None:
    hand = Deliveries()
    for seq, resource in ((1, "a"), (2, "b"), (3, "b"), (4, "c")):
        hand.add(delivery(seq, resource))

    def alone(d: Delivery) -> bool:
        return d.seq == 2

    assert [d.seq for d in hand.take(10, alone=alone)] == [1]
    assert [d.seq for d in hand.take(10, alone=alone)] == [2]
    assert [d.seq for d in hand.take(10, alone=alone)] == [4]


def test_events_without_a_resource_id_do_not_wait_for_each_other() -> None:
    hand = Deliveries()
    for seq in (1, 2):
        hand.add(delivery(seq, ""))
    first = hand.take(1, alone=never_alone)
    hand.block(first[0], due=1, until=2)
    hand.finish(first)
    assert take(hand) == [2]


def test_handing_back_leaves_what_runs() -> None:
    hand = Deliveries()
    for seq in (1, 2, 3):
        hand.add(delivery(seq, "a"))
    running = hand.take(1, alone=never_alone)
    hand.add(delivery(4, "b"))
    at_once, later = hand.clear()
    assert [d.seq for d in at_once] == [4]
    assert [d.seq for d in later] == [2, 3], "after the one that runs"
    assert list(hand) == running


def test_what_comes_after_an_event_that_is_elsewhere_waits_for_it() -> None:
    hand = Deliveries()
    elsewhere = [delivery(seq, "a") for seq in (2, 5)]
    for one in elsewhere:
        assert hand.expect("order:a", one.place, due=1, comes=1, until=2)
    for seq in (1, 3, 6):
        hand.add(delivery(seq, "a"))
    hand.add(delivery(4, "b"))
    assert take(hand) == [1, 4]
    assert hand.active == 2
    assert not hand.expect("order:a", delivery(6, "a").place, due=1, comes=1, until=2), "it is here"
    hand.finish([d for d in hand if d.seq in (1, 4)])
    assert not hand.runnable
    hand.add(elsewhere[0])
    assert take(hand) == [2, 3]
    hand.finish([d for d in hand if d.seq in (2, 3)])
    assert [one.place for one in hand.overdue(1.5)] == [elsewhere[1].place]
    hand.no_longer_awaited("order:a", elsewhere[1].place)
    assert take(hand) == [6]
    assert hand.overdue(9) == []


@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from("abc")), max_size=60), st.data())
def test_no_message_is_lost_or_doubled_and_each_resource_keeps_its_order(
    arrivals: list[tuple[int, str]], data: st.DataObject
) -> None:
    hand = Deliveries()
    places = dict(arrivals)
    handled: list[Delivery] = []
    running: list[list[Delivery]] = []
    for seq, resource in sorted(places.items()):
        hand.add(delivery(seq, resource))
        if data.draw(st.booleans()) and (
            batch := hand.take(data.draw(st.integers(1, 5)), alone=never_alone)
        ):
            running.append(batch)
        if len(running) > 0 and data.draw(st.booleans()):
            batch = running.pop(data.draw(st.integers(0, len(running) - 1)))
            done = data.draw(st.integers(0, len(batch)))
            stopped = {d.resource for d in batch[done:]}
            kept = [d for d in batch[:done] if d.resource not in stopped]
            handled += kept
            hand.finish(batch, unhandled=[d for d in batch if d not in kept])
        busy = {d.resource for batch in running for d in batch}
        here = [d for d in hand if d.resource not in busy]
        assert hand.queued == len(here)
        assert hand.runnable == bool(here)
    for batch in running:
        handled += batch
        hand.finish(batch)
    while batch := hand.take(100, alone=never_alone):
        handled += batch
        hand.finish(batch)
    assert sorted(d.seq for d in handled) == sorted(places)
    for resource in "abc":
        order = [d.seq for d in handled if places[d.seq] == resource]
        assert order == sorted(order)


def test_fast_handlers_share_large_transactions_and_slow_ones_run_side_by_side() -> None:
    fast = BatchSizer(batch_size=200, concurrency=8)
    fast.measured(100, 0.02)
    assert fast.batch(1000, 8) == 200
    assert fast.prefetch == 800
    slow = BatchSizer(batch_size=200, concurrency=8)
    slow.measured(1, 2.0)
    assert slow.batch(1000, 8) == 1
    assert slow.prefetch == 16
    assert slow.worthwhile(1, running=7)
    assert not fast.worthwhile(1, running=1)
    assert fast.worthwhile(1, running=0)


def test_before_the_first_measurement_work_is_shared_out_evenly() -> None:
    batch_sizer = BatchSizer(batch_size=200, concurrency=8)
    assert batch_sizer.prefetch == 32
    assert batch_sizer.batch(32, 8) == 4
    assert batch_sizer.batch(1, 8) == 1


@pytest.mark.parametrize("text", ["x" * 10_000, "ü" * 10_000, "\n" * 5000, "\U0001f600" * 3000])
def test_an_errors_text_fits_a_header(text: str) -> None:
    assert len(json.dumps(error_text(ValueError(text)))) <= MAX_ERROR + 2


def test_an_error_without_text_is_named() -> None:
    assert error_text(TimeoutError()) == "TimeoutError"


def test_a_long_error_of_a_letter_does_not_hide_its_cause() -> None:
    def fail() -> None:
        try:
            raise KeyError("name")
        except KeyError as error:
            raise ValueError("long " * 1000) from error

    with pytest.raises(ValueError, match="long") as caught:
        fail()
    text = error_text(caught.value)
    assert "...; caused by KeyError: 'name' (tests/inbox/test_deliveries.py:" in text
    assert len(json.dumps(text)) <= MAX_ERROR + 2


def test_a_letter_keeps_the_original_headers_and_has_an_id_of_its_own() -> None:
    body = envelope("e1").encode()
    msg = message(body, seq=7, tries=3, **{"nats-msg-id": "e1", "x-custom": "kept"})
    dead = Delivery(msg, EventReader(Consumers(), None))
    headers = letter_headers(dead, Rejection("unrecoverable", ValueError("no\nway")), "durable")
    assert headers["Nats-Msg-Id"] == "dlq:stream:7:1700000000000000"
    assert "nats-msg-id" not in headers
    assert headers["x-custom"] == "kept"
    context = json.loads(headers["x-dlq-context"])
    [captured, *_] = json.loads((VECTORS / "dead_letters.json").read_text())["cases"]
    assert list(context) == list(json.loads(captured["headers"]["x-dlq-context"]))
    assert context["event_id"] == "e1"
    assert context["original_subject"] == "env.a.sync.b"
    assert all("\n" not in value and value.isascii() for value in headers.values())


def limited(**options: Any) -> Consumers:
    consumers = Consumers()

    @consumers.on("order.changed", **options)
    async def handle(event: Event[dict[str, Any]]) -> None: ...

    @consumers.on("invoice.changed")
    async def other(event: Event[dict[str, Any]]) -> None: ...

    return consumers


def hand_of(consumers: Consumers, kinds: str) -> Deliveries:
    """A hand with slots, and one message of a resource of its own for each letter, `o` or `i`."""
    hand = Deliveries(ConcurrencyLimits())
    reader = EventReader(consumers, None)
    for seq, letter in enumerate(kinds, 1):
        body = envelope(f"e{seq}", resource=str(seq), kind="order" if letter == "o" else "invoice")
        hand.add(Delivery(message(body.encode(), seq=seq), reader))
    return hand


def test_a_limited_handler_has_so_many_transactions_and_no_more() -> None:
    hand = hand_of(limited(concurrency=1), "ooiooi")
    first = hand.take(2, alone=never_alone)
    assert [d.seq for d in first] == [1, 2]
    assert take(hand) == [3, 6]
    assert take(hand) == []
    hand.finish(first)
    assert take(hand) == [4, 5]


def test_a_limited_handler_has_so_many_events_in_a_transaction_and_others_fill_it() -> None:
    hand = hand_of(limited(batch_size=2), "oooioi")
    assert take(hand) == [1, 2, 4, 6]
    assert take(hand) == [3, 5]


def test_an_isolated_handler_at_its_limit_lets_others_pass() -> None:
    consumers = limited(concurrency=1, isolated=True)
    hand = hand_of(consumers, "ooi")

    def alone(delivery: Delivery) -> bool:
        return delivery.handler is not None and delivery.handler.options.isolated

    first = hand.take(9, alone=alone)
    assert [d.seq for d in first] == [1]
    assert [d.seq for d in hand.take(9, alone=alone)] == [3]
    assert hand.take(9, alone=alone) == []
    hand.finish(first)
    assert [d.seq for d in hand.take(9, alone=alone)] == [2]


def test_events_that_nobody_takes_have_no_limit() -> None:
    hand = Deliveries(ConcurrencyLimits())
    hand.add(delivery(1, "a"))
    assert take(hand) == [1]
