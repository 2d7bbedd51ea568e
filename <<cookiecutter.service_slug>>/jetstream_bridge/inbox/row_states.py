"""What an inbox row says about a message that comes again."""

from __future__ import annotations

from sqlalchemy import and_, case, or_
from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import col

from jetstream_bridge.inbox.received import Received
from jetstream_bridge.inbox.tables import InboxEvent, InboxStatus


def kept(count: int, received: Received) -> ColumnElement[int]:
    """A replayed event begins anew: its letter is settled, and it has another place."""
    replayed = and_(
        col(InboxEvent.status) == InboxStatus.DEAD_LETTERED,
        or_(
            col(InboxEvent.stream_seq).is_distinct_from(received.seq),
            col(InboxEvent.stored_us) != received.stored_us,
        ),
    )
    return case((replayed, 0), else_=col(count))


def is_open(row: InboxEvent, received: Received) -> bool:
    """Whether an event that is known is to be handled now.

    A dead letter that comes again on its old place only lost its acknowledgement; on a new
    place it is a replay.
    """
    if row.status == InboxStatus.PROCESSED:
        return False
    if row.status == InboxStatus.DEAD_LETTERED:
        return not is_same_place(row, received)
    return True


def is_same_place(row: InboxEvent, received: Received) -> bool:
    """Of a row without a moment, which an older version wrote, the sequence has to do."""
    return row.stream_seq == received.seq and row.stored_us in (None, received.stored_us)


def is_free(body: bytes | None) -> ColumnElement[bool]:
    """Whether a row may be written over: its event has not taken effect, and no other message
    that is parked there would be lost."""
    unprocessed = col(InboxEvent.status) != InboxStatus.PROCESSED
    if body is None:
        return unprocessed
    return and_(unprocessed, or_(col(InboxEvent.body).is_(None), col(InboxEvent.body) == body))
