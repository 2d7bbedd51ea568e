"""Messages of services that run the Ruby gem: read, handled, dead-lettered and replayed.

The vectors were captured from jetstream_bridge 4.2 on a real server; see `vectors/`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.js.api import RawStreamMsg
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge import (
    Bridge,
    BridgeConfig,
    ConnectionOptions,
    Consumers,
    Event,
    Unrecoverable,
)
from tests.bridge.support import Sessions, database, rows
from tests.brokers import Broker
from tests.waiting import eventually

STREAM = "gold-jetstream-bridge-stream"
DEAD = "gold.worker.sync.dlq"
DLQ_HEADERS = {"x-dead-letter", "x-dlq-reason", "x-deliveries", "x-dlq-context"}


def _cases(name: str) -> list[dict[str, Any]]:
    text = (Path(__file__).parent.parent / "vectors" / f"{name}.json").read_text(encoding="utf-8")
    cases: list[dict[str, Any]] = json.loads(text)["cases"]
    return cases


PUBLISHED = _cases("publish")
LETTERS = _cases("dead_letters")


@dataclass
class Handler:
    """Keeps what it gets; while `refuses`, it puts everything aside."""

    refuses: bool = False
    events: list[Event[dict[str, Any]]] = field(default_factory=list)

    def consumers(self) -> Consumers:
        consumers = Consumers()

        @consumers.on("*")
        async def take(event: Event[dict]) -> None:  # type: ignore[type-arg]
            if self.refuses:
                raise Unrecoverable('not "wanted" ünï')
            self.events.append(event)

        return consumers


@dataclass
class Peers:
    """The stream that a gem's `api` and our `worker` (or another app) share."""

    broker: Broker
    client: Client
    engine: AsyncEngine
    sessions: Sessions

    def config(self, app: str, peer: str, **changes: Any) -> BridgeConfig:
        values: dict[str, Any] = {
            "app_name": app,
            "destination_app": peer,
            "env": "gold",
            "connection": ConnectionOptions(urls=(self.broker.url,)),
            "shutdown_grace": 3.0,
        }
        return BridgeConfig(**values | changes)

    @asynccontextmanager
    async def running(
        self, app: str, peer: str, *, consumers: Consumers | None = None, **changes: Any
    ) -> AsyncIterator[Bridge]:
        bridge = Bridge(
            self.config(app, peer, **changes),
            self.sessions,
            relay=consumers is None,
            consumers=consumers,
            make_client=self.broker.make_client,
        )
        async with bridge:
            await eventually(
                lambda: all(check.ok for check in bridge.checks().values()), what="it is ready"
            )
            yield bridge

    async def send(self, subject: str, body: bytes, headers: Mapping[str, str]) -> bool:
        """Publish as any program would; say whether the server took it for a duplicate."""
        ack = await self.client.jetstream().publish(subject, body, headers=dict(headers))
        return bool(ack.duplicate)

    async def stored(self, subject: str) -> list[RawStreamMsg]:
        js = self.client.jetstream()
        last = (await js.stream_info(STREAM)).state.last_seq
        found = []
        for seq in range(1, last + 1):
            try:
                message = await js.get_msg(STREAM, seq=seq)
            except nats.js.errors.NotFoundError:
                continue
            if message.subject == subject:
                found.append(message)
        return found

    async def inbox(self) -> dict[str, str]:
        found = await rows(self.engine, "SELECT event_id, status FROM jetstream_inbox_events")
        return {row.event_id: row.status for row in found}

    async def becomes(self, expected: Mapping[str, str]) -> None:
        async def same() -> bool:
            return await self.inbox() == expected

        await eventually(same, what=f"the inbox has {expected}")


@pytest.fixture
async def peers(database_url: str, broker: Broker) -> AsyncIterator[Peers]:
    async with database(database_url) as (engine, sessions):
        client = await broker.connect()
        await client.jetstream().add_stream(
            name=STREAM, subjects=["gold.*.sync.*"], retention="workqueue"
        )
        yield Peers(broker, client, engine, sessions)
        await client.close()


def _id_of(case: Mapping[str, Any]) -> str:
    event_id: str = case["headers"]["nats-msg-id"]
    return event_id


@pytest.mark.parametrize("app", ["worker", "billing"])
async def test_every_event_that_the_gem_publishes_is_handled_once(peers: Peers, app: str) -> None:
    cases = [case for case in PUBLISHED if case["subject"] == f"gold.api.sync.{app}"]
    handler = Handler()
    async with peers.running(app, "api", consumers=handler.consumers()):
        for case in cases:
            body = case["body"].encode()
            assert not await peers.send(case["subject"], body, case["headers"])
            again = await peers.send(case["subject"], body, case["headers"])
            assert not again, "the server does not know the gem's spelling of the id"
        await peers.becomes({_id_of(case): "processed" for case in cases})

        async def nothing_is_left() -> bool:
            return not await peers.stored(f"gold.api.sync.{app}")

        await eventually(nothing_is_left, what="the second copies are acknowledged too")
    by_id = {event.event_id: event for event in handler.events}
    assert len(handler.events) == len(by_id) == len(cases)
    for case in cases:
        sent, event = json.loads(case["body"]), by_id[_id_of(case)]
        assert event.raw == sent
        assert (event.resource_type, event.resource_id) == (
            sent["resource_type"],
            sent["resource_id"],
        )
        assert (event.producer, event.schema_version) == (sent["producer"], sent["schema_version"])
        assert event.payload == sent["payload"]


def test_the_vectors_go_to_the_two_apps_that_are_tested() -> None:
    assert {case["subject"] for case in PUBLISHED} == {
        "gold.api.sync.worker",
        "gold.api.sync.billing",
    }
    assert (len(PUBLISHED), len(LETTERS)) == (10, 3)
    assert {case["subject"] for case in LETTERS} == {DEAD}


async def test_every_event_of_the_gem_is_dead_lettered_whole_and_handled_when_it_is_replayed(
    peers: Peers,
) -> None:
    cases = [case for case in PUBLISHED if case["subject"] == "gold.api.sync.worker"]
    handler = Handler(refuses=True)
    async with peers.running("worker", "api", consumers=handler.consumers()):
        for case in cases:
            headers = case["headers"] | {"x-custom": "kept"}
            await peers.send(case["subject"], case["body"].encode(), headers)
        await peers.becomes({_id_of(case): "dead_lettered" for case in cases})
        letters = await peers.stored(DEAD)
        assert len(letters) == len(cases)
        by_id = {_context(letter)["event_id"]: letter for letter in letters}
        for case in cases:
            _check_letter(by_id[_id_of(case)], case["body"].encode(), case["subject"])

        handler.refuses = False
        for letter in letters:
            await _replay(peers, letter)
        await peers.becomes({_id_of(case): "processed" for case in cases})
    assert {event.event_id for event in handler.events} == {_id_of(case) for case in cases}


def _check_letter(letter: RawStreamMsg, body: bytes, subject: str) -> None:
    """The wire form of a dead letter, header by header."""
    assert letter.data == body
    context = _context(letter)
    headers = letter.headers or {}
    assert headers == {
        "x-custom": "kept",
        "Nats-Msg-Id": headers["Nats-Msg-Id"],
        "x-dead-letter": "true",
        "x-dlq-reason": "unrecoverable",
        "x-deliveries": "1",
        "x-dlq-context": headers["x-dlq-context"],
    }
    assert headers["Nats-Msg-Id"].startswith(f"dlq:{STREAM}:{context['sequence']}:")
    assert headers["x-dlq-context"].isascii()
    assert list(context) == [
        "event_id",
        "reason",
        "error_class",
        "error_message",
        "deliveries",
        "original_subject",
        "sequence",
        "consumer",
        "stream",
        "published_at",
        "raised_at",
    ]
    assert context["error_message"] == 'not "wanted" ünï'
    assert (context["reason"], context["error_class"]) == ("unrecoverable", "Unrecoverable")
    assert (context["original_subject"], context["deliveries"]) == (subject, 1)
    assert (context["consumer"], context["stream"]) == ("gold-worker-workers", STREAM)


def _context(letter: RawStreamMsg) -> dict[str, Any]:
    context: dict[str, Any] = json.loads(str((letter.headers or {})["x-dlq-context"]))
    return context


async def _replay(peers: Peers, letter: RawStreamMsg) -> None:
    """Back onto the original subject with the original bytes, headers and id."""
    context = _context(letter)
    kept = {
        name: str(value)
        for name, value in (letter.headers or {}).items()
        if name.lower() not in DLQ_HEADERS | {"nats-msg-id"}
    }
    # In lower case: the server would drop the original id in canonical spelling as a duplicate.
    kept["nats-msg-id"] = context["event_id"]
    assert not await peers.send(context["original_subject"], letter.data or b"", kept)


@pytest.mark.parametrize("case", LETTERS, ids=_id_of)
async def test_what_a_gem_dead_lettered_is_handled_or_put_aside_again_when_it_is_replayed(
    peers: Peers, case: dict[str, Any]
) -> None:
    handler = Handler()
    async with peers.running("worker", "api", consumers=handler.consumers()):
        assert not await peers.send(case["subject"], case["body"].encode(), case["headers"])
        [letter] = await peers.stored(DEAD)
        assert _context(letter)["sequence"]["consumer"] > 0, "the gem's sequence is a pair"
        await _replay(peers, letter)
        broken = case["headers"]["x-dlq-reason"] == "malformed_json"
        await peers.becomes({_id_of(case): "dead_lettered" if broken else "processed"})
        if broken:
            assert handler.events == []
            ours = (await peers.stored(DEAD))[-1]
            assert ours.data == case["body"].encode()
            assert (ours.headers or {})["x-dlq-reason"] == "malformed_json"
        else:
            [event] = handler.events
            assert event.raw == json.loads(case["body"])


@pytest.mark.parametrize("spelling", ["nats-msg-id", "Nats-Msg-Id", "NATS-MSG-ID"])
async def test_the_id_header_is_read_in_any_spelling(peers: Peers, spelling: str) -> None:
    body = PUBLISHED[0]["body"].replace("g-01", "another-id").encode()
    async with peers.running("worker", "api", consumers=Handler().consumers()):
        await peers.send("gold.api.sync.worker", body, {spelling: "mine"})
        await peers.becomes({"mine": "processed"})


# --- GEM_PEER=true: the id goes out in lower case only


async def _publish(peers: Peers, bridge: Bridge, event_id: str) -> bool:
    """Publish one event and commit; say whether it was told to be a duplicate."""
    async with peers.sessions() as session:
        result = await bridge.publisher(session).publish(
            "user.created", {"id": 1}, event_id=event_id
        )
        await session.commit()
    assert result.success
    return result.duplicate


@pytest.mark.parametrize("use_outbox", [True, False])
@pytest.mark.parametrize(("gem_peer", "name"), [(True, "nats-msg-id"), (False, "Nats-Msg-Id")])
async def test_the_id_goes_out_in_the_spelling_that_the_setting_says(
    peers: Peers, use_outbox: bool, gem_peer: bool, name: str
) -> None:
    async with peers.running("worker", "api", gem_peer=gem_peer, use_outbox=use_outbox) as bridge:
        await _publish(peers, bridge, "mine")

        async def is_stored() -> bool:
            return bool(await peers.stored("gold.worker.sync.api"))

        await eventually(is_stored, what="the event is in the stream")
        [message] = await peers.stored("gold.worker.sync.api")
        assert message.headers == {name: "mine"}


async def test_the_server_no_longer_drops_a_second_copy_and_the_receiver_does(
    peers: Peers,
) -> None:
    handler = Handler()
    async with (
        peers.running("worker", "api", gem_peer=True, use_outbox=False) as sender,
        peers.running("api", "worker", gem_peer=True, consumers=handler.consumers()),
    ):
        assert not await _publish(peers, sender, "mine")
        assert not await _publish(peers, sender, "mine"), "the server cannot tell"
        await peers.becomes({"mine": "processed"})

        async def both_are_gone() -> bool:
            return not await peers.stored("gold.worker.sync.api")

        await eventually(both_are_gone, what="both copies are acknowledged")
    assert len(handler.events) == 1
    async with peers.running("worker", "api", gem_peer=False, use_outbox=False) as sender:
        assert not await _publish(peers, sender, "other")
        assert await _publish(peers, sender, "other"), "without the setting the server does"


@pytest.mark.parametrize("gem_peer", [True, False])
async def test_a_gem_that_copies_all_headers_keeps_its_dead_letter_only_with_the_setting(
    peers: Peers, gem_peer: bool
) -> None:
    """What the gem does with an event it cannot handle: it publishes a copy, headers and all,
    on its dead-letter subject of the same stream, and acknowledges the original."""
    async with peers.running("worker", "api", gem_peer=gem_peer, use_outbox=False) as sender:
        await _publish(peers, sender, "mine")
    [message] = await peers.stored("gold.worker.sync.api")
    headers = {**(message.headers or {}), "x-dead-letter": "true"}
    dropped = await peers.send("gold.api.sync.dlq", message.data or b"", headers)
    assert dropped is not gem_peer
    assert len(await peers.stored("gold.api.sync.dlq")) == (1 if gem_peer else 0)


async def test_our_own_dead_letters_have_their_own_id_with_the_setting_too(peers: Peers) -> None:
    handler = Handler(refuses=True)
    async with peers.running("worker", "api", gem_peer=True, consumers=handler.consumers()):
        case = PUBLISHED[0]
        await peers.send(case["subject"], case["body"].encode(), case["headers"])
        await peers.becomes({"g-01": "dead_lettered"})
    [letter] = await peers.stored(DEAD)
    headers = letter.headers or {}
    assert headers["Nats-Msg-Id"].startswith(f"dlq:{STREAM}:{_context(letter)['sequence']}:")
    assert "nats-msg-id" not in headers
