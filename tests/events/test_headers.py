"""Header blocks of peers: whatever the bytes, they are read, and the connection goes on."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg

from jetstream_bridge.events.headers import carriable, left_behind, parse_block
from tests.bridge.raw import publish_raw
from tests.brokers import Broker

SPACE = st.sampled_from([b"NATS/1.0", b"\r\n", b":", b" ", b"\n", b"\x00", b"503", b"Nats-Msg-Id"])
BLOCKS = st.lists(SPACE | st.binary(max_size=6), max_size=12).map(b"".join)

# All that ends nats-py's read loop, or loses it the whole block.
ODD = [
    b"X: y",
    b"X",
    b"\r\n",
    b"NATS/1.0",
    b"NATS/1.0\r",
    b"NATS/1.0\r\n",
    b"NATS/1.0 ",
    b"NATS/1.0 \xff\xfe\r\n\r\n",
    b"NATS/1.0 503 \xff\xfe\r\n\r\n",
    b"NATS/1.0 \xb2\xb2\xb2 x\r\nA: b\r\n\r\n",
    b"NATS/1.0 5x3\r\nA\r\n: b\r\n\r\n",
    b"NATS/1.0\r\nno terminator: at all",
    b"NATS/1.0\r\n\xff\xfe: \xff\r\nA: b\r\n\r\n",
    b"NATS/1.0\r\nA: b\r\n" + b"B: " + b"c" * 60_000 + b"\r\n\r\n",
    b"NATS/1.0\r\n" + b"".join(b"H%d: v\r\n" % n for n in range(3000)) + b"\r\n",
    b"\x00" * 40,
]


@given(BLOCKS)
def test_every_block_of_bytes_is_read_as_text(block: bytes) -> None:
    for name, value in parse_block(block).items():
        assert name == name.strip()
        assert name
        assert value == value.strip()
        (name + value).encode()


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"X: y", {"X": "y"}),
        (b"NATS/1.0\r\na: 1\r\nA:2 \r\na: 3\r\n\r\n", {"a": "1", "A": "2"}),
        (b"NATS/1.0 503\r\n\r\n", {"Status": "503"}),
        (b"NATS/1.0 503\r\nStatus: 200\r\n\r\n", {"Status": "503"}),
        (
            b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Stream: 7\r\n\r\n",
            {"Status": "100", "Description": "Idle Heartbeat", "Nats-Last-Stream": "7"},
        ),
        (b"NATS/1.0\r\nn\xc3\xa4me: w\xff\r\n\r\n", {"n\u00e4me": "w\ufffd"}),
        (b"NATS/1.0\r\nno colon\r\n: no name\r\n\r\n", {}),
        (b"NATS/1.0\r\nA: x:y\r\nB:\r\n\r\n", {"A": "x:y", "B": ""}),
        (b"", {}),
    ],
)
def test_a_block_says_what_the_server_would_read_in_it(
    block: bytes, expected: dict[str, str]
) -> None:
    assert parse_block(block) == expected


def test_control_headers_and_names_that_cannot_be_written_stay_behind() -> None:
    headers = {
        "traceparent": "00-a",
        "Nats-Rollup": "all",
        "nats-ttl": "1s",
        "NATS-Expected-Last-Sequence": "0",
        "a/b": "1",
        "two words": "2",
        "": "3",
        "n\u00e4me": "4",
    }
    assert carriable(headers) == {"traceparent": "00-a"}
    assert left_behind(headers) == {n: v for n, v in headers.items() if n != "traceparent"}


@pytest.mark.parametrize("block", ODD, ids=lambda block: repr(block[:24]))
async def test_no_header_block_ends_the_connection(broker: Broker, block: bytes) -> None:
    client = broker.make_client(tls_demanded=False)
    await client.connect(broker.url, allow_reconnect=False)
    came: asyncio.Queue[Msg] = asyncio.Queue()
    await client.subscribe("odd", cb=came.put)
    await publish_raw(client, b"odd", block, b"body")
    await client.publish("odd", b"last")
    async with asyncio.timeout(10):
        messages = [await came.get()]
        if messages[0].data == b"body":
            assert (messages[0].headers or {}) == parse_block(block)
            messages.append(await came.get())
    assert messages[-1].data == b"last"
    await client.close()


@pytest.mark.parametrize("broker", [pytest.param("real", marks=pytest.mark.real)], indirect=True)
async def test_a_subject_that_is_no_text_does_not_end_the_connection(broker: Broker) -> None:
    client = broker.make_client(tls_demanded=False)
    await client.connect(broker.url, allow_reconnect=False)
    came: asyncio.Queue[Msg] = asyncio.Queue()
    await client.subscribe("odd.*", cb=came.put)
    await publish_raw(client, b"odd.\xff\xfe", b"", b"body")
    await client.publish("odd.fine", b"last")
    async with asyncio.timeout(10):
        assert (await came.get()).data == b"last"
    await client.close()
