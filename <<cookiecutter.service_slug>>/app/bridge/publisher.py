"""What a service calls to tell others what happened.

With the outbox, an event is part of the session's transaction: it is announced when that commits
and never otherwise. Without it, it is sent at once, whatever becomes of the transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from opentelemetry import propagate
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from . import envelope
from .acks import AckPublisher, Outcome, Outgoing, header_size
from .envelope import GEM_ID_HEADER, ID_HEADER, Envelope, Payload
from .errors import InvalidEventError
from .outbox import NewEvent, Outbox, OutboxEvent
from .subjects import Names, validate_subject


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishResult:
    """What became of one event.

    With the outbox, `success` means: it will be announced if the transaction commits.
    `duplicate` tells that an event with this id was there before; it is announced once.
    """

    success: bool
    event_id: str
    subject: str
    duplicate: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherSettings:
    """Whose events these are, and where they go unless told otherwise."""

    names: Names
    destination: str
    use_outbox: bool
    gem_peer: bool


class Publisher:
    """Publishes events within one session's transaction."""

    def __init__(
        self,
        session: AsyncSession,
        outbox: Outbox,
        acks: AckPublisher,
        settings: PublisherSettings,
    ) -> None:
        self._session = session
        self._outbox = outbox
        self._acks = acks
        self._settings = settings

    async def publish(
        self,
        event_type: str,
        payload: Payload,
        *,
        resource_type: str | None = None,
        resource_id: str | int | None = None,
        event_id: str | None = None,
        trace_id: str | None = None,
        occurred_at: datetime | str | None = None,
        schema_version: int = 1,
        producer: str | None = None,
        destination: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> PublishResult:
        """Announce `event_type`, for example `customer.created`, with `payload`.

        `destination` names another service than the default one; `subject` overrides both.
        Raises `InvalidEventError` or `InvalidSubjectError`, and then nothing is written or
        sent. The transaction stays the caller's: with the outbox this adds to it and does not
        commit. Without the outbox, a failed send is a result with `success=False`.
        """
        target = self._target(destination, subject)
        built = envelope.build(
            event_type,
            payload,
            producer=producer or self._settings.names.app,
            resource_type=resource_type,
            resource_id=resource_id,
            event_id=event_id,
            trace_id=trace_id,
            occurred_at=occurred_at,
            schema_version=schema_version,
        )
        new = NewEvent(built.event_id, target, built.to_json(), _headers(headers))
        self._check_size(built, new)
        if not self._settings.use_outbox:
            return await self._send(new)
        # Only an id that the caller chose can be there already.
        if event_id is not None and await self._is_known(event_id):
            return PublishResult(
                success=True, event_id=built.event_id, subject=target, duplicate=True
            )
        self._outbox.add(self._session, new)
        return PublishResult(success=True, event_id=built.event_id, subject=target)

    def _target(self, destination: str | None, subject: str | None) -> str:
        if subject is not None:
            return validate_subject(subject)
        return self._settings.names.publish(destination or self._settings.destination)

    def _check_size(self, built: Envelope, new: NewEvent) -> None:
        size = len(new.body.encode()) + header_size({**new.headers, ID_HEADER: new.event_id})
        if size > self._acks.max_payload:
            raise InvalidEventError(
                f"the event {built.event_type!r} has {size} bytes with its headers; the server "
                f"takes {self._acks.max_payload} (max_payload): send less, or a reference"
            )

    async def _is_known(self, event_id: str) -> bool:
        if any(new.event_id == event_id for new in self._outbox.pending(self._session)):
            return True
        found = await self._session.exec(
            select(OutboxEvent.id).where(OutboxEvent.event_id == event_id)
        )
        return found.first() is not None

    async def _send(self, new: NewEvent) -> PublishResult:
        id_header = GEM_ID_HEADER if self._settings.gem_peer else ID_HEADER
        message = Outgoing(
            0, new.subject, new.body.encode(), {**new.headers, id_header: new.event_id}
        )
        await self._acks.publish_one(message)
        return PublishResult(
            success=message.outcome is Outcome.STORED,
            event_id=new.event_id,
            subject=new.subject,
            duplicate=message.duplicate,
            error=message.error,
        )


def _headers(given: Mapping[str, str] | None) -> dict[str, str]:
    """Return the caller's headers, checked, with the current trace's context."""
    headers: dict[str, str] = {}
    for name, value in (given or {}).items():
        if not _is_header_text(name) or ":" in name or " " in name or not name:
            raise InvalidEventError(f"header name {name!r} is not plain ASCII without ':' or space")
        if not _is_header_text(value):
            raise InvalidEventError(
                f"header {name} has the value {value!r}; write printable ASCII on one line"
            )
        if name.lower() == GEM_ID_HEADER:
            raise InvalidEventError(f"header {name} is the event id; give event_id instead")
        headers[name] = value
    propagate.inject(headers)
    return headers


def _is_header_text(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and (value.isprintable() or not value)
