"""Making, changing, listing and emptying streams; the error codes that the topology reads."""

from __future__ import annotations

from typing import Any

import nats.js.errors
import pytest

from tests.contract.lab import SECOND, Json, Lab


def plain(config: Json) -> Json:
    """A configuration without what the server notes about itself."""
    return {name: value for name, value in config.items() if name != "metadata"}


@pytest.mark.since("2.11")
async def test_what_is_not_given_gets_the_servers_defaults(lab: Lab) -> None:
    made = await lab.stream()
    assert made["did_create"] is True
    assert plain(made["config"]) == {
        "name": "S",
        "subjects": ["s.>"],
        "retention": "limits",
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "discard": "old",
        "storage": "file",
        "num_replicas": 1,
        "duplicate_window": 120 * SECOND,
        "compression": "none",
        "allow_direct": False,
        "mirror_direct": False,
        "sealed": False,
        "deny_delete": False,
        "deny_purge": False,
        "allow_rollup_hdrs": False,
        "consumer_limits": {},
        "allow_msg_ttl": False,
    }


@pytest.mark.parametrize(("max_age", "window"), [(10 * SECOND, 10), (600 * SECOND, 120)])
async def test_the_duplicate_window_is_no_longer_than_the_age(
    lab: Lab, max_age: int, window: int
) -> None:
    made = await lab.stream(max_age=max_age)
    assert made["config"]["duplicate_window"] == window * SECOND


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"name": "S", "subjects": ["s.>"], "max_msgs": 5}, (400, 10058)),
        ({"name": "S", "subjects": ["s.>", "t"]}, (400, 10058)),
        ({"name": "T", "subjects": ["s.>"]}, (400, 10065)),
        ({"name": "T", "subjects": ["s.a"]}, (400, 10065)),
        ({"name": "T", "subjects": ["t", "s.*.c"]}, (400, 10065)),
        pytest.param(
            {"name": "T", "subjects": ["*.a"]},  # $JS.a
            (500, 10052),
            marks=pytest.mark.since("2.11"),
        ),
        ({"name": "T", "subjects": ["t.>", "t.a"]}, (500, 10052)),
        ({"name": "T", "subjects": ["t", "t"]}, (500, 10052)),
        ({"name": "T", "subjects": [">"]}, (500, 10052)),
        ({"name": "T", "subjects": ["$JS.API.>"]}, (500, 10052)),
        ({"name": "T", "max_age": SECOND, "duplicate_window": 2 * SECOND}, (500, 10052)),
        ({"name": "T", "num_replicas": 3}, (500, 10074)),
    ],
)
async def test_a_stream_that_cannot_be(lab: Lab, config: Json, expected: tuple[int, int]) -> None:
    await lab.stream()
    assert await lab.refusal(f"STREAM.CREATE.{config['name']}", config) == expected


async def test_the_same_configuration_again_is_no_error(lab: Lab) -> None:
    await lab.stream(max_age=SECOND)
    await lab.publish()
    again = await lab.stream(max_age=SECOND)
    assert again["state"]["last_seq"] == 1


async def test_the_name_in_the_subject_counts(lab: Lab) -> None:
    request = {"name": "T", "subjects": ["t"]}
    assert await lab.refusal("STREAM.CREATE.S", request) == (400, 10056)


async def test_an_update_replaces_the_whole_configuration(lab: Lab) -> None:
    await lab.stream(max_msgs=5, description="five")
    changed = await lab.api("STREAM.UPDATE.S", {"name": "S", "subjects": ["s.>", "t"]})
    assert changed["config"]["max_msgs"] == -1
    assert changed["config"]["subjects"] == ["s.>", "t"]
    assert "description" not in changed["config"]
    assert (await lab.publish("t"))["seq"] == 1


async def test_an_update_with_tighter_limits_drops_messages(lab: Lab) -> None:
    await lab.stream()
    await lab.publish_many(5)
    await lab.api("STREAM.UPDATE.S", {"name": "S", "subjects": ["s.>"], "max_msgs": 2})
    state = await lab.state()
    assert (state["messages"], state["first_seq"]) == (2, 4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"retention": "workqueue"}, (500, 10052)),
        ({"storage": "memory"}, (500, 10052)),
        ({"subjects": ["s.>", "o.a"]}, (400, 10065)),
        ({"subjects": ["s.>", "s.a"]}, (500, 10052)),
    ],
)
async def test_an_update_that_cannot_be(
    lab: Lab, changes: dict[str, Any], expected: tuple[int, int]
) -> None:
    await lab.stream("O")
    await lab.stream()
    request = {"name": "S", "subjects": ["s.>"], **changes}
    assert await lab.refusal("STREAM.UPDATE.S", request) == expected


async def test_a_work_queue_stays_one(lab: Lab) -> None:
    await lab.stream(retention="workqueue")
    request = {"name": "S", "subjects": ["s.>"], "retention": "limits"}
    assert await lab.refusal("STREAM.UPDATE.S", request) == (500, 10052)


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("INFO", None),
        ("DELETE", None),
        ("PURGE", None),
        ("MSG.GET", {"seq": 1}),
        ("MSG.DELETE", {"seq": 1}),
    ],
)
async def test_a_stream_that_is_not_there(lab: Lab, operation: str, body: Json | None) -> None:
    assert await lab.refusal(f"STREAM.{operation}.S", body) == (404, 10059)


async def test_updating_a_stream_that_is_not_there(lab: Lab) -> None:
    assert await lab.refusal("STREAM.UPDATE.S", {"name": "S", "subjects": ["s"]}) == (404, 10059)


async def test_a_body_that_is_no_json(lab: Lab) -> None:
    answer = await lab.client.request("$JS.API.STREAM.CREATE.S", b"{x", timeout=10)
    assert b'"err_code":10025' in answer.data.replace(b" ", b"")


@pytest.mark.parametrize(
    ("subject", "names"),
    [
        ("a.one", ["A"]),
        ("a.*", ["A"]),
        ("*.one", ["A", "B"]),
        (">", ["A", "B", "C"]),
        ("c", ["C"]),
        ("nobody", None),
    ],
)
async def test_names_of_the_streams_that_a_subject_overlaps(
    lab: Lab, subject: str, names: list[str] | None
) -> None:
    await lab.stream("A", "a.>")
    await lab.stream("B", "b.one", "b.two")
    await lab.stream("C", "c")
    answer = await lab.api("STREAM.NAMES", {"subject": subject})
    assert answer["streams"] == names
    assert answer["total"] == len(names or [])


async def test_lists_come_in_pages(lab: Lab) -> None:
    for n in range(3):
        await lab.stream(f"S{n}", f"s{n}")
    answer = await lab.api("STREAM.NAMES", {"offset": 1})
    assert (answer["streams"], answer["total"], answer["offset"]) == (["S1", "S2"], 3, 1)
    answer = await lab.api("STREAM.LIST", {"offset": 2})
    assert [one["config"]["name"] for one in answer["streams"]] == ["S2"]
    assert (answer["total"], answer["limit"]) == (3, 256)


async def test_more_names_than_fit_on_one_page(lab: Lab) -> None:
    if not lab.broker.is_mock:
        pytest.skip("a thousand streams take nats-server a while; the page's size is known")
    for n in range(1030):
        await lab.stream(f"S{n}", f"s{n}")
    first = await lab.api("STREAM.NAMES")
    rest = await lab.api("STREAM.NAMES", {"offset": 1024})
    assert (len(first["streams"]), len(rest["streams"]), rest["total"]) == (1024, 6, 1030)


async def test_the_state_counts_messages_and_subjects(lab: Lab) -> None:
    await lab.stream()
    empty = await lab.state()
    assert (empty["messages"], empty["first_seq"], empty["last_seq"]) == (0, 0, 0)
    await lab.publish_many(3, "s.a")
    await lab.publish_many(2, "s.b")
    answer = await lab.api("STREAM.INFO.S", {"subjects_filter": ">"})
    assert answer["state"]["subjects"] == {"s.a": 3, "s.b": 2}
    assert (answer["state"]["num_subjects"], answer["total"]) == (2, 2)
    answer = await lab.api("STREAM.INFO.S", {"subjects_filter": "s.b"})
    assert answer["state"]["subjects"] == {"s.b": 2}


async def test_deleting_a_message_leaves_a_gap(lab: Lab) -> None:
    await lab.stream()
    await lab.publish_many(3)
    await lab.api("STREAM.MSG.DELETE.S", {"seq": 2})
    state = await lab.state()
    assert (state["messages"], state["first_seq"], state["last_seq"]) == (2, 1, 3)
    assert state["num_deleted"] == 1
    assert await lab.refusal("STREAM.MSG.DELETE.S", {"seq": 2}) == (400, 10043)
    assert await lab.refusal("STREAM.MSG.DELETE.S", {"seq": 9}) == (500, 10057)
    assert await lab.refusal("STREAM.MSG.GET.S", {"seq": 2}) == (404, 10037)
    await lab.api("STREAM.MSG.DELETE.S", {"seq": 1})
    assert (await lab.state())["first_seq"] == 3
    assert await lab.refusal("STREAM.MSG.DELETE.S", {"seq": 1}) == (500, 10057)


async def test_messages_are_got_by_place_and_by_subject(lab: Lab) -> None:
    await lab.stream()
    for n, subject in enumerate(["s.a", "s.b", "s.a", "s.c"]):
        await lab.publish(subject, str(n))
    assert (await lab.js.get_msg("S", 2)).data == b"1"
    assert (await lab.js.get_last_msg("S", "s.a")).seq == 3
    assert (await lab.js.get_msg("S", 2, subject="s.a", next=True)).seq == 3
    assert await lab.refusal("STREAM.MSG.GET.S", {"last_by_subj": "s.x"}) == (404, 10037)
    assert await lab.refusal("STREAM.MSG.GET.S", {"seq": 9}) == (404, 10037)
    assert await lab.refusal("STREAM.MSG.GET.S", {}) == (400, 10003)


@pytest.mark.parametrize(
    ("request_", "purged", "left"),
    [
        ({}, 6, []),
        ({"filter": "s.a"}, 3, [2, 4, 6]),
        ({"seq": 4}, 3, [4, 5, 6]),
        ({"keep": 2}, 4, [5, 6]),
        ({"filter": "s.b", "keep": 1}, 2, [1, 3, 5, 6]),
    ],
)
async def test_purging(lab: Lab, request_: Json, purged: int, left: list[int]) -> None:
    await lab.stream()
    for n in range(6):
        await lab.publish("s.ab"[:2] + "ab"[n % 2])
    assert (await lab.api("STREAM.PURGE.S", request_))["purged"] == purged
    found = []
    for seq in range(1, 7):
        try:
            found.append((await lab.js.get_msg("S", seq)).seq)
        except nats.js.errors.NotFoundError:
            continue
    assert found == left
    state = await lab.state()
    assert (state["first_seq"], state["last_seq"]) == (left[0] if left else 7, 6)


async def test_a_deleted_stream_is_gone_with_its_messages(lab: Lab) -> None:
    await lab.stream()
    await lab.publish_many(2)
    await lab.api("STREAM.DELETE.S")
    assert await lab.refusal("STREAM.INFO.S") == (404, 10059)
    await lab.stream()
    assert (await lab.publish())["seq"] == 1


async def test_streams_outlive_a_restart(lab: Lab) -> None:
    await lab.stream(max_age=3600 * SECOND)
    await lab.publish_many(3)
    before = await lab.api("STREAM.INFO.S")
    await lab.client.close()
    lab.broker.terminate()
    lab.broker.start()
    client = await lab.broker.connect()
    after = await Lab(lab.broker, client).api("STREAM.INFO.S")
    assert (after["config"], after["state"]) == (before["config"], before["state"])
    await client.close()


async def test_the_account_counts_streams_and_consumers(lab: Lab) -> None:
    assert (await lab.api("INFO"))["streams"] == 0
    await lab.stream()
    await lab.durable()
    account = await lab.js.account_info()
    assert (account.streams, account.consumers) == (1, 1)


async def test_nats_pys_stream_calls(lab: Lab) -> None:
    made = await lab.js.add_stream(name="S", subjects=["s.>"], retention="workqueue")
    assert made.config.retention == "workqueue"
    info = await lab.js.stream_info("S")
    updated = await lab.js.update_stream(info.config.evolve(subjects=["s.>", "t"]))
    assert updated.config.subjects == ["s.>", "t"]
    assert await lab.js.find_stream_name_by_subject("t") == "S"
    assert [one.config.name for one in await lab.js.streams_info()] == ["S"]
    await lab.js.publish("t", b"")
    await lab.js.purge_stream("S")
    assert await lab.js.delete_stream("S")
    with pytest.raises(nats.js.errors.NotFoundError):
        await lab.js.stream_info("S")
