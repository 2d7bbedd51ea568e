"""What JetStream says about this service's stream and consumers, for people and for metrics.

Asks and changes nothing. Every question has a time limit, and what this user may not ask is
left out and named, so that a service with few rights still gets the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.errors import ApiError, NotConnectedError, PermissionDeniedError
from jetstream_bridge.core.subjects import covered
from jetstream_bridge.nats.connection import Connection
from jetstream_bridge.nats.management import STREAM_NOT_FOUND, Json, StreamApi
from jetstream_bridge.topology.durable_names import DurableSpec
from jetstream_bridge.topology.provisioning import Topology
from jetstream_bridge.topology.stream_faults import stream_fault
from jetstream_bridge.topology.unread_subjects import UnreadSubject, find_unread

T = TypeVar("T")

REQUEST_LIMIT = 2.0  # seconds for one answer


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """The stream that this service shares with others."""

    name: str
    exists: bool
    subjects: list[str] = field(default_factory=list)
    messages: int = 0
    bytes: int = 0
    first_sequence: int = 0
    last_sequence: int = 0
    retention: str | None = None
    replicas: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerState:
    """A durable consumer on the stream; `own` ones are this service's."""

    name: str
    own: bool
    filter_subject: str | None
    num_pending: int  # not delivered yet
    num_ack_pending: int  # delivered, and not acknowledged
    num_redelivered: int
    num_waiting: int  # waiting pull requests; 0 for long means that no worker runs
    ack_floor: int = 0  # up to this sequence of the stream all of its events are acknowledged

    @property
    def lag(self) -> int:
        return self.num_pending + self.num_ack_pending


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyState:
    """The stream, who owns which subject, who reads it, and what differs from the plan."""

    stream: StreamState | None
    owners: dict[str, list[str]] | None  # subject that this service needs -> streams that own it
    consumers: list[ConsumerState]
    missing: list[str]  # durables of this service that do not exist
    plan: list[str] | None  # one line for each difference, none when all is in place
    unread: list[UnreadSubject]  # subjects from and to this service with events and no reader
    unknown: list[str]  # what could not be asked, and why


class Inspection:
    """Looks at the stream of one service and at its durables, whoever works on them."""

    def __init__(
        self,
        connection: Connection,
        config: BridgeConfig,
        durables: Sequence[DurableSpec],
    ) -> None:
        self._connection = connection
        self._api = StreamApi(connection, limit=REQUEST_LIMIT)
        self._config = config
        self._durables = [spec.name for spec in durables]
        self._topology = Topology(connection, config, durables=durables)  # only to plan

    async def stream(self) -> StreamState:
        """Return the stream's state. Raises `NatsConnectionError` when NATS does not answer."""
        name = self._config.stream
        info = await self._api.stream_info(name)
        if info is None:
            return StreamState(name=name, exists=False)
        config, state = info["config"], info["state"]
        return StreamState(
            name=name,
            exists=True,
            subjects=list(config.get("subjects") or []),
            messages=state["messages"],
            bytes=state["bytes"],
            first_sequence=state["first_seq"],
            last_sequence=state["last_seq"],
            retention=config.get("retention"),
            replicas=config.get("num_replicas"),
        )

    async def stream_problem(self) -> str | None:
        """Say what the stream lacks for this service to work, None when it lacks nothing.

        Asks for no more than a service may that binds only.
        """
        name = self._config.stream
        stream = await self._api.stream(name)
        if stream is None:
            return f"stream {name} does not exist"
        subjects = stream.get("subjects") or []
        lacking = [subject for subject in self._topology.needed if not covered(subjects, subject)]
        if lacking:
            return f"stream {name} lacks {', '.join(lacking)}"
        return stream_fault(self._config.stream, stream, self._topology.needed)

    async def account(self) -> Json:
        """Return JetStream's answer about this user's account: what it uses, and its limits."""
        return await self._api.account()

    async def oldest(self, consumer: ConsumerState) -> datetime | None:
        """When the oldest event was stored that `consumer` has not acknowledged.

        It takes the right to read the stream's messages. None where nothing waits, and where the
        consumer has no filter, or several.
        """
        subject = consumer.filter_subject
        if not consumer.lag or subject is None or ", " in subject:
            return None
        message = await self._api.next_message(
            self._config.stream, subject, after=consumer.ack_floor
        )
        return datetime.fromisoformat(message["time"]) if message is not None else None

    async def rtt(self) -> float:
        """Return the seconds that a question to JetStream and its answer took."""
        return await self._connection.probe(REQUEST_LIMIT)

    async def own_consumers(self) -> tuple[list[ConsumerState], list[str]]:
        """Return this service's durables, and the names of those that do not exist."""
        found = await asyncio.gather(*(self._look(durable) for durable in self._durables))
        there = [self._state(info) for info in found if info is not None]
        pairs = zip(self._durables, found, strict=True)
        return there, [durable for durable, info in pairs if info is None]

    async def lag(self) -> int:
        """How many events wait for this service, those being handled included."""
        there, _ = await self.own_consumers()
        return sum(consumer.lag for consumer in there)

    async def unread(self) -> list[UnreadSubject]:
        """Return the subjects from and to this service with events that nobody reads.

        It takes the right to list the stream's consumers.
        """
        return await find_unread(self._api, self._config)

    async def topology(self) -> TopologyState:
        """Return everything that can be known within a few seconds.

        Raises `NatsConnectionError` when there is no connection or no answer at all.
        """
        if not self._connection.connected:
            # The reason, and not a list of questions that were not asked.
            raise NotConnectedError(self._connection.explain())
        unknown: list[str] = []
        stream, owners, own, everyone, plan, unread = await asyncio.gather(
            _permitted("the stream", self.stream(), unknown),
            _permitted("owners", self._owners(), unknown),
            _permitted("own consumers", self.own_consumers(), unknown),
            _permitted("other consumers", self._everyone(), unknown),
            _permitted("the plan", self._plan(), unknown),
            _permitted("what nobody reads", self.unread(), unknown),
        )
        there, missing = own or ([], [])
        return TopologyState(
            stream=stream,
            owners=owners,
            consumers=everyone or there,
            missing=missing,
            plan=plan,
            unread=unread or [],
            unknown=unknown,
        )

    async def _look(self, durable: str) -> Json | None:
        try:
            return await self._api.consumer(self._config.stream, durable)
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            raise

    async def _everyone(self) -> list[ConsumerState]:
        try:
            infos = await self._api.consumers(self._config.stream)
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return []
            raise
        return [self._state(info) for info in infos]

    async def _owners(self) -> dict[str, list[str]]:
        subjects = self._topology.needed
        found = await asyncio.gather(*(self._api.streams_with(subject) for subject in subjects))
        return dict(zip(subjects, found, strict=True))

    async def _plan(self) -> list[str]:
        plan = await self._topology.plan()
        return [] if plan.empty and not plan.differences else plan.lines()

    def _state(self, info: Json) -> ConsumerState:
        config = info["config"]
        filters = config.get("filter_subjects") or [config.get("filter_subject") or ""]
        return ConsumerState(
            name=info["name"],
            own=info["name"] in self._durables,
            filter_subject=", ".join(filters) or None,
            num_pending=info["num_pending"],
            num_ack_pending=info["num_ack_pending"],
            num_redelivered=info["num_redelivered"],
            num_waiting=info["num_waiting"],
            ack_floor=info["ack_floor"]["stream_seq"],
        )


async def _permitted(what: str, question: Awaitable[T], unknown: list[str]) -> T | None:
    """Ask, and note what this user may not ask."""
    try:
        return await question
    except PermissionDeniedError as error:
        unknown.append(f"{what}: {error}")
    except ApiError as error:
        unknown.append(f"{what}: {error}")
    return None
