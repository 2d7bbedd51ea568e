"""Two services on real servers: what happens in one takes effect in the other, once, come what may.

`OUTAGE_SECONDS=60` makes the outage as long as a real one.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import httpx
import pytest

from demo.customers import Side, both_sides, differences
from demo.pair import ENV, STREAM, DatabaseKind, Pair, streams
from demo.servers import NatsServer, free_port
from tests.template.two_services import (
    DEAD_LETTERS,
    DURABLES,
    PARTS,
    SUBJECTS,
    connected,
    in_background,
    make_marks,
    number,
    rows,
    warm_starts,
    wire,
)

OUTAGE = float(os.environ.get("OUTAGE_SECONDS", "8"))
ARRIVAL = 30.0  # seconds; it takes far less on a machine that has nothing else to do
ROUNDS = 20
PAUSES = (0.5, 1.0, 2.0)  # seconds between the tries of an event
GRACE = 10.0  # seconds
LAST_LINES = 20

SETTINGS = {
    "ACK_WAIT": "3s",
    "BACKOFF": ",".join(f"{pause}s" for pause in PAUSES),
    "MAX_DELIVER": str(len(PAUSES) + 1),
    "SHUTDOWN_GRACE": f"{GRACE}s",
}

OUTBOX = "jetstream_outbox_events"
INBOX = "jetstream_inbox_events"

pytestmark = pytest.mark.timeout(840 + 3 * OUTAGE)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def started(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """A running pair that the tests of one database share."""
    database: DatabaseKind = request.param
    folder = tmp_path_factory.mktemp(database)
    with Pair(folder, database=database, settings=SETTINGS, parts=PARTS) as pair:
        pair.generate()
        pair.start_servers()
        pair.migrate()
        yield pair


@pytest.fixture
def pair(started: Pair) -> Iterator[Pair]:
    """The pair with all of it running, whatever the test before it left behind."""
    if not started.nats.is_running:
        started.start_nats()
    started.start_services()
    yield started
    for process in started.processes:  # shown only when the test failed
        print(f"--- {process.name}", *process.last_lines(LAST_LINES), sep="\n")


@pytest.fixture
def sides(pair: Pair) -> Iterator[tuple[Side, Side]]:
    with both_sides(pair) as sides:
        yield sides


async def test_both_sides_are_equal_within_seconds(pair: Pair, sides: tuple[Side, Side]) -> None:
    orders, billing = sides
    there_before = billing.customers()
    announced_before = await asyncio.to_thread(_announced, sides)
    stored_before = pair.stream().stored

    async with wire(pair) as published:
        await asyncio.to_thread(_change_customers, orders, billing)
        await asyncio.to_thread(_wait_for_agreement, pair, orders, billing, limit=10)

    new = [c for key, c in billing.customers().items() if key not in there_before]
    assert Counter((c.origin, c.version) for c in new) == {
        ("orders", 1): 60,
        ("orders", 2): 30,
        ("billing", 1): 1,
    }
    stream = pair.stream()
    assert stream.name == STREAM
    assert stream.subjects == SUBJECTS | DEAD_LETTERS
    assert stream.in_hand == dict.fromkeys(DURABLES, 0)
    events = (await asyncio.to_thread(_announced, sides)) - announced_before
    # As many stored messages as there are events, and no event of which none was published: each
    # event is stored exactly once.
    assert len(events) == 100 + 30 + 10 + 1
    assert stream.stored - stored_before == len(events)
    assert published.keys() == events


def test_writes_go_on_while_nats_is_away(pair: Pair, sides: tuple[Side, Side]) -> None:
    orders, billing = sides
    pair.stop_nats()
    written: set[str] = set()
    back = time.monotonic() + OUTAGE
    while time.monotonic() < back:
        written.add(orders.create(f"Patient {len(written)}").id)
        written.add(billing.create(f"Forbearing {len(written)}").id)
        time.sleep(0.05)  # the pace of the clients
    assert len(written) > OUTAGE * 4
    for side in sides:
        assert side.request("GET", "/healthz")["status"] == "ok"
        assert number(side.service, OUTBOX, "status <> 'pending' AND sent_at IS NULL") == 0
        assert number(side.service, OUTBOX, "status = 'pending'") == len(written) // 2

    pair.start_nats()

    _wait_for_agreement(pair, orders, billing, limit=ARRIVAL)
    assert orders.customers().keys() >= written
    for side in sides:
        assert number(side.service, OUTBOX, "status <> 'sent' OR attempts > 0") == 0
        pair.wait_ready(side.service.url, side.service.api)
        pair.wait_ready(side.service.worker_url, side.service.worker)


def test_every_event_takes_effect_once_though_its_worker_is_killed(
    pair: Pair, sides: tuple[Side, Side]
) -> None:
    orders, billing = sides
    worker = billing.service.worker
    before = billing.marks()[0]
    events: list[str] = []
    killed_with = []
    with in_background(lambda: events.extend(make_marks(orders, 500))):
        for effects in (50, 150, 250):
            _wait_for_effects(pair, billing, before + effects)
            worker.kill()
            worker.start()
            pair.wait_ready(billing.service.worker_url, worker)
        # This one hangs first, so that it certainly holds some events when it is killed.
        worker.freeze()
        pair.wait_until(
            lambda: pair.in_hand(billing.service), what="events in its hands", limit=ARRIVAL
        )
        killed_with.append(pair.in_hand(billing.service))
        worker.kill()
        assert billing.marks()[0] < before + 500
        worker.start()

    _wait_for_effects(pair, billing, before + 500)
    _wait_for_empty_queue(pair)
    assert killed_with[0] > 0
    ids = ", ".join(f"'{event_id}'" for event_id in events)
    marks = rows(billing.service, f"SELECT event_id, number FROM marks WHERE event_id IN ({ids})")
    assert sorted(mark.number for mark in marks) == list(range(500))
    assert {mark.event_id for mark in marks} == set(events)
    assert number(billing.service, INBOX, f"status = 'processed' AND event_id IN ({ids})") == 500


async def test_what_no_handler_can_take_is_retried_and_put_aside_and_harms_no_other(
    pair: Pair, sides: tuple[Side, Side]
) -> None:
    orders, billing = sides
    before = billing.marks()[0]
    dead_letters = f"{ENV}.billing.sync.dlq"

    def publish() -> str:
        make_marks(orders, 20)
        event_id: str = orders.request("POST", "/trials/poison/1")["event_id"]
        make_marks(orders, 20)
        orders.create("Unharmed")
        return event_id

    async with connected(pair) as client:
        letters = await client.subscribe(dead_letters)
        event_id = await asyncio.to_thread(publish)
        await asyncio.to_thread(_wait_for_effects, pair, billing, before + 40)
        await asyncio.to_thread(_wait_for_agreement, pair, orders, billing, drained=False)
        assert letters.pending_msgs == 0, "the others did not wait for it"

        letter = await letters.next_msg(timeout=ARRIVAL)
        assert pair.stream().subjects >= {dead_letters}
        stored = await client.jetstream().get_last_msg(STREAM, dead_letters)
        await client.jetstream().purge_stream(STREAM, subject=dead_letters)

    assert stored.data == letter.data
    assert json.loads(letter.data)["event_id"] == event_id
    assert (letter.headers or {})["x-dlq-reason"] == "max_deliver_exceeded"
    assert (letter.headers or {})["x-deliveries"] == SETTINGS["MAX_DELIVER"]
    notes = (billing.service.folder / "poison.log").read_text().splitlines()
    # The first delivery may come in a batch, whose events are tried one by one when one raises.
    tries = {
        deliveries: float(moment)
        for event, deliveries, moment in map(str.split, notes)
        if event == event_id
    }
    waited = [later - earlier for earlier, later in pairwise(tries.values())]
    assert len(waited) == len(PAUSES)
    assert all(time >= 0.85 * pause for time, pause in zip(waited, PAUSES, strict=True))
    assert waited == sorted(waited)
    assert await asyncio.to_thread(number, billing.service, "marks", _is(event_id)) == 0
    await asyncio.to_thread(_wait_for_empty_queue, pair)


@pytest.mark.parametrize(
    ("how", "status"), [("rolled-back", 200), ("refused", 409), ("not-committed", 500)]
)
def test_what_is_not_committed_is_not_announced_and_not_answered_as_done(
    pair: Pair, sides: tuple[Side, Side], how: str, status: int
) -> None:
    orders, billing = sides
    event_id = f"{how}-{pair.database}"
    response = httpx.post(f"{orders.service.url}/trials/{how}/{event_id}", timeout=ARRIVAL)
    assert response.status_code == status
    if status >= 400:
        assert response.headers["content-type"] == "application/problem+json"

    # What is published after it arrives, so it had its chance.
    before = billing.marks()[0]
    make_marks(orders, 1)
    _wait_for_effects(pair, billing, before + 1)
    assert number(orders.service, OUTBOX, _is(event_id)) == 0
    assert number(billing.service, "marks", _is(event_id)) == 0
    assert number(orders.service, "pledges") == 0


def test_an_error_is_logged_without_any_values_and_holds_up_nobody(
    pair: Pair, sides: tuple[Side, Side]
) -> None:
    orders, _ = sides
    url = f"{orders.service.url}/trials/not-committed/logged"
    assert httpx.post(url, timeout=ARRIVAL).status_code == 500
    asked = time.monotonic()
    make_marks(orders, 1)
    took = time.monotonic() - asked
    log = orders.service.api.log_file.read_text(errors="replace")
    assert "IntegrityError" in log
    assert "locals" not in log, "values of variables may be personal, or secret"
    assert took < 5  # seconds


def test_a_worker_that_is_told_to_stop_ends_with_status_0_and_loses_nothing(
    pair: Pair, sides: tuple[Side, Side]
) -> None:
    orders, billing = sides
    worker = billing.service.worker
    before = billing.marks()[0]
    with in_background(lambda: make_marks(orders, 300)):
        _wait_for_effects(pair, billing, before + 40)
        asked = time.monotonic()
        status = worker.stop(grace=3 * GRACE)
        took = time.monotonic() - asked
        done = billing.marks()[0] - before

    assert (status, worker.last_lines(1)[0].count("worker stopped")) == (0, 1)
    assert took < GRACE
    assert 40 <= done < 300
    worker.start()
    _wait_for_effects(pair, billing, before + 300)
    _wait_for_empty_queue(pair)
    assert billing.marks()[0] == billing.marks()[1] == before + 300


def test_services_that_start_at_the_same_instant_share_one_stream(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Four processes against a server without anything on it, twenty times over.

    A process spends its first second importing, by which two that are started together miss each
    other at the server. Here the imports are done before, and each process is a fork that begins
    where `python -m` does when they are over: the four meet at the server within some 50 ms.
    """
    with Pair(tmp_path_factory.mktemp("instant"), settings=SETTINGS) as pair:
        pair.generate()
        pair.migrate()
        with warm_starts(pair) as warm:
            for _ in range(ROUNDS):
                monitor = f"127.0.0.1:{free_port()}"
                with NatsServer(config=f"http: {monitor}") as server:
                    for start in warm:
                        start.order(server.url)
                    for start in warm:
                        start.wait_started()
                        pair.wait_ready(start.url, start.process, limit=ARRIVAL)
                    [stream] = streams(f"http://{monitor}")
                    for start in warm:
                        start.ask_to_stop()
                    for start in warm:
                        assert start.status() in start.good_statuses

                assert stream.name == STREAM
                assert stream.subjects == SUBJECTS | DEAD_LETTERS
                assert stream.in_hand == dict.fromkeys(DURABLES, 0)


def _announced(sides: tuple[Side, Side]) -> set[str]:
    """The ids of all events that either service has announced."""
    return {
        row.event_id
        for side in sides
        for row in rows(side.service, f"SELECT event_id FROM {OUTBOX}")
    }


def _change_customers(orders: Side, billing: Side) -> None:
    made = [orders.create(f"Customer {n}") for n in range(100)]
    for customer in made[:30]:
        orders.rename(customer, f"{customer.name} the Second")
    for customer in made[90:]:
        orders.delete(customer)
    billing.create("From the other side")


def _is(event_id: str) -> str:
    return f"event_id = '{event_id}'"


def _wait_for_agreement(
    pair: Pair, orders: Side, billing: Side, *, limit: float = ARRIVAL, drained: bool = True
) -> None:
    pair.wait_until(
        lambda: not differences(orders, billing), what="agreement of both sides", limit=limit
    )
    if drained:
        _wait_for_empty_queue(pair)


def _wait_for_effects(pair: Pair, side: Side, least: int) -> None:
    pair.wait_until(lambda: side.marks()[0] >= least, what=f"{least} effects", limit=ARRIVAL)


def _wait_for_empty_queue(pair: Pair) -> None:
    pair.wait_until(lambda: pair.stream().messages == 0, what="an empty queue", limit=ARRIVAL)
