"""A batch: events that are collected first and published together when the block ends.

An error that leaves the block publishes nothing of it. With the outbox the events become rows of
the caller's transaction, all with one statement; without it they are sent many at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, Unpack, overload

from jetstream_bridge.core.errors import BatchStateError, InvalidEventError, InvalidSubjectError
from jetstream_bridge.events.accepted_inputs import EnvelopeLike, EventFields
from jetstream_bridge.events.envelope import Payload
from jetstream_bridge.outbox.publish_result import BatchResult, PublishResult
from jetstream_bridge.outbox.sessions import NewEvent

Prepare = Callable[[str | EnvelopeLike | None, Payload | None, EventFields], NewEvent]
Announce = Callable[[Sequence[NewEvent]], Awaitable[list[PublishResult]]]


class PublishBatch:
    """Collects events: `async with events.publish_batch() as batch: batch.add(...)`.

    `batch.result` tells after the block what became of each event.
    """

    def __init__(self, prepare: Prepare, announce: Announce) -> None:
        self._prepare = prepare
        self._announce = announce
        # What was added, in order: an event, or the failure of one that could not be built.
        self._added: list[NewEvent | PublishResult] = []
        self._open = False
        self._result: BatchResult | None = None

    @overload
    def add(self, event_type: str, payload: Payload, **fields: Unpack[EventFields]) -> NewEvent: ...

    @overload
    def add(self, event: EnvelopeLike, /, **fields: Unpack[EventFields]) -> NewEvent: ...

    def add(
        self,
        event_type: str | EnvelopeLike | None = None,
        payload: Payload | None = None,
        **fields: Unpack[EventFields],
    ) -> NewEvent:
        """Add an event, given in any form that `publish` takes.

        Raises as `publish` does, with the event's position. Left alone the error ends the block,
        and nothing is published; who catches it publishes the others, and finds this one among
        the failures of the result.
        """
        if not self._open:
            raise BatchStateError("the batch takes events inside its `async with` block only")
        try:
            new = self._prepare(event_type, payload, fields)
        except (InvalidEventError, InvalidSubjectError) as error:
            positioned = type(error)(f"event {len(self._added) + 1} of the batch: {error}")
            event_id = str(fields.get("event_id") or "")
            self._added.append(
                PublishResult(success=False, event_id=event_id, subject="", error=positioned)
            )
            raise positioned from error
        self._added.append(new)
        return new

    def __len__(self) -> int:
        return len(self._added)

    @property
    def result(self) -> BatchResult:
        """What became of the events; there is none before the block has ended well."""
        if self._result is None:
            raise BatchStateError(
                "the batch has no result: it is published when its `async with` block ends, and "
                "not at all when an error leaves that block"
            )
        return self._result

    async def __aenter__(self) -> Self:
        if self._open or self._result is not None:
            raise BatchStateError("the batch was used before; make one with publish_batch()")
        self._open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = False
        if kind is not None:
            return
        events = [added for added in self._added if isinstance(added, NewEvent)]
        answers = iter(await self._announce(events))
        self._result = BatchResult(
            tuple(next(answers) if isinstance(a, NewEvent) else a for a in self._added)
        )
