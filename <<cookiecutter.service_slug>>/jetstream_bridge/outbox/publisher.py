"""What a service calls to tell others what happened.

With the outbox, an event is part of the session's transaction: it is announced when that commits
and never otherwise. Without it, it is sent at once, whatever becomes of the transaction. What the
caller did wrong is raised, and then nothing is written or sent; what the outside did is a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack, overload

from opentelemetry import propagate
from pydantic import BaseModel
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.core.delays import RetryStrategy
from jetstream_bridge.core.errors import InvalidEventError, SessionEndedError
from jetstream_bridge.core.subjects import AppNames, validate_subject
from jetstream_bridge.events import envelope
from jetstream_bridge.events.accepted_inputs import EnvelopeLike, EventFields, arguments, type_in
from jetstream_bridge.events.declared_events import DeclaredEvents
from jetstream_bridge.events.envelope import Payload
from jetstream_bridge.events.wire_rules import ID_HEADER, header_flaw, header_size, headers_flaw
from jetstream_bridge.outbox.publish_batch import PublishBatch
from jetstream_bridge.outbox.publish_result import PublishResult
from jetstream_bridge.outbox.sessions import NewEvent, Outbox
from jetstream_bridge.outbox.tables import OutboxEvent

if TYPE_CHECKING:
    from jetstream_bridge.nats.publishing import AckPublisher
    from jetstream_bridge.outbox.direct_publishing import DirectPublisher
    from jetstream_bridge.topology.subject_index import SubjectIndex

ASKED_AT_ONCE = 1000  # event ids in one statement; SQLite allows 32,766 parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherSettings:
    """Whose events these are, and where they go unless told otherwise."""

    names: AppNames
    destination: str
    use_outbox: bool


@dataclass(frozen=True, slots=True)
class Publishing:
    """What all publishers of a service share."""

    outbox: Outbox
    acks: AckPublisher
    direct: DirectPublisher
    routes: SubjectIndex
    settings: PublisherSettings
    declared: DeclaredEvents


class Publisher:
    """Publishes events within one session's transaction."""

    def __init__(
        self, session: AsyncSession, parts: Publishing, *, retry: RetryStrategy | None = None
    ) -> None:
        """`retry` is the strategy for sending without the outbox, instead of the service's."""
        self._session = session
        # A session that is closed gets a new one.
        self._identity_map = session.sync_session.identity_map
        self._parts = parts
        self._retry = retry

    @overload
    async def publish(
        self, event_type: str, payload: Payload, **fields: Unpack[EventFields]
    ) -> PublishResult: ...

    @overload
    async def publish(
        self, event: EnvelopeLike, /, **fields: Unpack[EventFields]
    ) -> PublishResult: ...

    async def publish(
        self,
        event_type: str | EnvelopeLike | None = None,
        payload: Payload | None = None,
        **fields: Unpack[EventFields],
    ) -> PublishResult:
        """Announce an event: a type like `customer.created` with its payload, or a whole envelope.

        A payload is a mapping or a Pydantic model; one that was declared for a single type needs
        no other argument. What was declared leaves as declared, and is refused where it does not
        fit. An envelope is a mapping, a model, an
        `Envelope` or an `Event`: what it says is kept, what it leaves out is filled in, and a
        keyword that says otherwise is refused. The fields are those of `EventFields`.

        Raises `InvalidEventError` or `InvalidSubjectError`, and with the outbox
        `SessionEndedError` after the session's end; then nothing is written or sent. The
        transaction stays the caller's: with the outbox this adds to it and does not commit.
        Without the outbox, a failed send is a result with `success=False`.
        """
        [result] = await self._announce([self._prepare(event_type, payload, fields)])
        return result

    def publish_batch(self) -> PublishBatch:
        """Return a batch for `async with`; its events are published when the block ends."""
        return PublishBatch(self._prepare, self._announce)

    def _prepare(
        self, event: str | EnvelopeLike | None, payload: Payload | None, fields: EventFields
    ) -> NewEvent:
        settings = self._parts.settings
        if payload is None and isinstance(event, BaseModel):
            declared = self._parts.declared.type_of(event)
            event, payload = (declared, event) if declared is not None else (event, None)
        said = arguments(event, payload, fields)
        chosen = "event_id" in said
        said.setdefault("producer", settings.names.app)
        destination = self._as_declared(said, fields)
        built = envelope.build(**said)
        new = NewEvent(
            built.event_id,
            self._target(destination, fields.get("subject")),
            built.to_json(),
            _headers(fields.get("headers")),
            resource=f"{built.resource_type}:{built.resource_id}" if built.resource_id else "",
            chosen=chosen,
        )
        self._check_size(built.event_type, new)
        return new

    def _as_declared(self, said: dict[str, Any], fields: EventFields) -> str | None:
        """Give an event of this service's own what its declaration says; return where it goes."""
        destination = fields.get("destination")
        if said["producer"] != self._parts.settings.names.app:
            return destination
        found = self._parts.declared.find(
            type_in(said), said["payload"], said.get("schema_version")
        )
        if found is None:
            return destination
        said["payload"] = found.payload(said["payload"])
        said["schema_version"] = found.schema_version
        elsewhere = fields.get("subject") is not None
        return destination if elsewhere else found.destination(destination)

    def _target(self, destination: str | None, subject: str | None) -> str:
        if subject is not None:
            return validate_subject(subject)
        settings = self._parts.settings
        return settings.names.publish(destination or settings.destination)

    def _check_size(self, event_type: str, new: NewEvent) -> None:
        size = len(new.body.encode()) + header_size({**new.headers, ID_HEADER: new.event_id})
        limit = self._parts.acks.max_payload
        if size > limit:
            raise InvalidEventError(
                f"the event {event_type!r} has {size} bytes with its headers; the server "
                f"takes {limit} (max_payload): send less, or a reference"
            )

    async def _announce(self, events: Sequence[NewEvent]) -> list[PublishResult]:
        for subject in dict.fromkeys(new.subject for new in events):
            await self._parts.routes.check(subject)
        if not self._parts.settings.use_outbox:
            return await self._parts.direct.send(events, retry=self._retry)
        if events:
            self._check_session(events[0])
        known = await self._known([new.event_id for new in events if new.chosen])
        return [self._add(new, known) for new in events]

    def _check_session(self, new: NewEvent) -> None:
        """Nobody commits what is added to a session that was closed meanwhile."""
        session = self._session
        if (
            not session.in_transaction()
            and session.sync_session.identity_map is not self._identity_map
        ):
            raise SessionEndedError(
                "its session was closed", event_id=new.event_id, subject=new.subject
            )

    def _add(self, new: NewEvent, known: set[str]) -> PublishResult:
        duplicate = new.event_id in known
        if not duplicate:
            self._parts.outbox.add(self._session, new)
            known.add(new.event_id)
        return PublishResult(
            success=True, event_id=new.event_id, subject=new.subject, duplicate=duplicate
        )

    async def _known(self, event_ids: Sequence[str]) -> set[str]:
        """Return those of `event_ids` that are published already, here or in the table.

        Only an id that the caller chose can be there; the others are not asked for.
        """
        if not event_ids:
            return set()
        outbox, session = self._parts.outbox, self._session
        known = {event_id for event_id in event_ids if outbox.has(session, event_id)}
        with self._session.no_autoflush:  # the locks on business rows are taken at the commit
            for start in range(0, len(event_ids), ASKED_AT_ONCE):
                portion = event_ids[start : start + ASKED_AT_ONCE]
                found = await self._session.exec(
                    select(OutboxEvent.event_id).where(col(OutboxEvent.event_id).in_(portion))
                )
                known.update(found)
        return known


def _headers(given: Mapping[str, str] | None) -> dict[str, str]:
    """Return the caller's headers, checked, with the current trace's context."""
    headers = {} if given is None else given
    if (flaw := headers_flaw(headers)) is not None:
        raise InvalidEventError(flaw)
    return {**headers, **_trace_context()}


def _trace_context() -> dict[str, str]:
    """The current trace's headers. One that cannot travel is left out: the event counts more."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return {name: value for name, value in carrier.items() if header_flaw(name, value) is None}
