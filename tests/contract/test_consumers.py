"""Durable pull consumers: made, changed, listed, deleted, and what they count."""

from __future__ import annotations

from typing import Any

import nats.js.errors
import pytest
from nats.js.api import ConsumerConfig

from tests.contract.lab import SECOND, Json, Lab


@pytest.mark.since("2.12")
async def test_what_is_not_given_gets_the_servers_defaults(lab: Lab) -> None:
    await lab.stream()
    made = await lab.durable()
    assert {name: v for name, v in made["config"].items() if name != "metadata"} == {
        "durable_name": "c",
        "name": "c",
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": 30 * SECOND,
        "max_deliver": -1,
        "replay_policy": "instant",
        "max_waiting": 512,
        "max_ack_pending": 1000,
        "num_replicas": 0,
    }


async def test_a_new_consumer_counts_what_it_has_before_it(lab: Lab) -> None:
    await lab.stream()
    await lab.publish_many(3, "s.a")
    await lab.publish_many(2, "s.b")
    assert (await lab.durable(name="all"))["num_pending"] == 5
    assert (await lab.durable(name="some", filter_subject="s.b"))["num_pending"] == 2
    info = await lab.durable(name="new", deliver_policy="new")
    assert (info["num_pending"], info["delivered"]["stream_seq"]) == (0, 5)


@pytest.mark.since("2.14")
async def test_a_new_consumer_begins_where_the_stream_does(lab: Lab) -> None:
    await lab.stream()
    await lab.publish_many(3)
    await lab.api("STREAM.PURGE.S", {"keep": 1})
    info = await lab.durable()
    assert info["delivered"] == {"consumer_seq": 0, "stream_seq": 2}
    assert info["ack_floor"] == {"consumer_seq": 0, "stream_seq": 2}


async def test_creating_again_updates_and_keeps_what_is_out(lab: Lab) -> None:
    await lab.stream()
    await lab.publish_many(3)
    await lab.durable()
    await lab.pull(2, least=2)
    info = await lab.durable(max_ack_pending=5, max_deliver=7, description="changed")
    assert (info["config"]["max_ack_pending"], info["config"]["max_deliver"]) == (5, 7)
    assert (info["num_ack_pending"], info["num_pending"]) == (2, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"deliver_policy": "new"},
        {"ack_policy": "none"},
        {"replay_policy": "original"},
        {"max_waiting": 7},
    ],
)
async def test_what_cannot_be_updated(lab: Lab, changes: dict[str, Any]) -> None:
    await lab.stream()
    await lab.durable()
    config = {"durable_name": "c", "ack_policy": "explicit", **changes}
    request = {"stream_name": "S", "config": config}
    assert await lab.refusal("CONSUMER.DURABLE.CREATE.S.c", request) == (500, 10012)


async def test_a_longer_ack_wait_holds_for_what_is_out_already(lab: Lab) -> None:
    await lab.stream()
    await lab.publish_many(1)
    await lab.durable(ack_wait=2 * SECOND)
    await lab.pull(least=1)
    await lab.durable(ack_wait=30 * SECOND)
    await lab.broker.passes(2.5)
    assert (await lab.pull()).data == []


async def test_a_changed_filter_does_not_go_back(lab: Lab) -> None:
    await lab.stream()
    for n, subject in enumerate(["s.a", "s.b", "s.a", "s.b"]):
        await lab.publish(subject, str(n))
    await lab.durable(filter_subject="s.a")
    assert (await lab.pull(2, least=2)).data == ["0", "2"]
    info = await lab.durable(filter_subject="s.b")
    assert info["num_pending"] == 1
    assert (await lab.pull(10, least=1)).data == ["3"]


@pytest.mark.parametrize(
    ("operation", "request_", "expected"),
    [
        ("INFO.S.x", None, (404, 10014)),
        ("INFO.T.x", None, (404, 10059)),
        ("DELETE.S.x", None, (404, 10014)),
        ("DELETE.T.x", None, (404, 10059)),
        ("NAMES.T", None, (404, 10059)),
        ("DURABLE.CREATE.T.c", {"stream_name": "T", "config": {"durable_name": "c"}}, (404, 10059)),
        ("DURABLE.CREATE.S.c", {"stream_name": "T", "config": {"durable_name": "c"}}, (400, 10056)),
    ],
)
async def test_what_is_not_there(
    lab: Lab, operation: str, request_: Json | None, expected: tuple[int, int]
) -> None:
    await lab.stream()
    if request_ is not None:
        request_["config"]["ack_policy"] = "explicit"
    assert await lab.refusal(f"CONSUMER.{operation}", request_) == expected


@pytest.mark.parametrize(
    ("config", "err_code"),
    [
        ({"filter_subject": "s.*"}, 10100),
        ({"filter_subject": "s.a"}, 10100),
        ({}, 10099),
        ({"filter_subject": "s.b", "deliver_policy": "new"}, 10101),
        ({"filter_subject": "s.b", "ack_policy": "none"}, 10084),
    ],
)
async def test_a_work_queue_has_one_reader_for_each_subject(
    lab: Lab, config: dict[str, Any], err_code: int
) -> None:
    await lab.stream(retention="workqueue")
    await lab.durable(filter_subject="s.a")
    settings = {"durable_name": "d", "ack_policy": "explicit", **config}
    request = {"stream_name": "S", "config": settings}
    assert await lab.refusal("CONSUMER.DURABLE.CREATE.S.d", request) == (400, err_code)
    await lab.durable(name="e", filter_subject="s.b")


async def test_a_work_queue_without_filter_has_one_reader(lab: Lab) -> None:
    await lab.stream(retention="workqueue")
    await lab.durable()
    config = {"durable_name": "d", "ack_policy": "explicit", "filter_subject": "s.a"}
    request = {"stream_name": "S", "config": config}
    assert await lab.refusal("CONSUMER.DURABLE.CREATE.S.d", request) == (400, 10100)
    await lab.durable(ack_wait=SECOND)  # the same one, updated


async def test_consumers_are_listed(lab: Lab) -> None:
    await lab.stream()
    for name in ("b", "a", "c"):
        await lab.durable(name=name)
    assert (await lab.api("CONSUMER.NAMES.S"))["consumers"] == ["a", "b", "c"]
    page = await lab.api("CONSUMER.LIST.S", {"offset": 1})
    assert [one["name"] for one in page["consumers"]] == ["b", "c"]
    assert (page["total"], page["offset"]) == (3, 1)
    assert (await lab.state())["consumer_count"] == 3


async def test_a_filter_outside_the_stream_delivers_nothing(lab: Lab) -> None:
    await lab.stream()
    await lab.publish_many(1)
    assert (await lab.durable(filter_subject="elsewhere"))["num_pending"] == 0
    assert (await lab.pull(5)).data == []


async def test_the_counts_of_a_consumer_through_its_life(lab: Lab) -> None:
    await lab.stream()
    await lab.publish_many(4)
    await lab.durable()
    pulled = await lab.pull(3, least=3)
    info = await lab.info()
    assert info["delivered"] == {"consumer_seq": 3, "stream_seq": 3}
    assert info["ack_floor"] == {"consumer_seq": 0, "stream_seq": 0}
    assert (info["num_ack_pending"], info["num_pending"]) == (3, 1)
    await pulled.messages[1].ack_sync(timeout=10)
    assert (await lab.info())["ack_floor"] == {"consumer_seq": 0, "stream_seq": 0}
    await pulled.messages[0].ack_sync(timeout=10)
    assert (await lab.info())["ack_floor"] == {"consumer_seq": 2, "stream_seq": 2}
    await lab.answer(pulled.messages[2], b"-NAK")
    again = await lab.pull(1, least=1)
    assert (again.data, again.tries) == (["m2"], [2])
    info = await lab.info()
    assert info["delivered"] == {"consumer_seq": 4, "stream_seq": 3}
    assert (info["num_ack_pending"], info["num_redelivered"]) == (1, 1)
    await again.messages[0].ack_sync(timeout=10)
    info = await lab.info()
    assert info["ack_floor"] == {"consumer_seq": 4, "stream_seq": 3}
    assert (info["num_ack_pending"], info["num_redelivered"], info["num_pending"]) == (0, 0, 1)


async def test_consumers_outlive_a_restart_with_what_is_out(lab: Lab) -> None:
    await lab.stream()
    await lab.publish_many(3)
    await lab.durable()
    pulled = await lab.pull(2, least=2)
    await pulled.messages[0].ack_sync(timeout=10)
    await lab.client.close()
    lab.broker.terminate()
    lab.broker.start()
    client = await lab.broker.connect()
    info = await Lab(lab.broker, client).info()
    assert (info["num_ack_pending"], info["num_pending"]) == (1, 1)
    assert info["ack_floor"] == {"consumer_seq": 1, "stream_seq": 1}
    await client.close()


async def test_deleting_a_consumer_leaves_the_messages(lab: Lab) -> None:
    await lab.stream(retention="workqueue")
    await lab.publish_many(2)
    await lab.durable()
    await lab.pull(2, least=2)
    await lab.api("CONSUMER.DELETE.S.c")
    assert (await lab.state())["messages"] == 2
    await lab.durable()
    assert (await lab.pull(5, least=2)).data == ["m0", "m1"]


async def test_nats_pys_consumer_calls(lab: Lab) -> None:
    await lab.stream()
    config = ConsumerConfig(durable_name="c", ack_wait=5, filter_subject="s.a")
    made = await lab.js.add_consumer("S", config)
    assert (made.name, made.config.ack_wait, made.config.filter_subject) == ("c", 5, "s.a")
    assert (await lab.js.consumer_info("S", "c")).num_pending == 0
    assert [one.name for one in await lab.js.consumers_info("S")] == ["c"]
    assert await lab.js.delete_consumer("S", "c")
    with pytest.raises(nats.js.errors.NotFoundError):
        await lab.js.consumer_info("S", "c")
