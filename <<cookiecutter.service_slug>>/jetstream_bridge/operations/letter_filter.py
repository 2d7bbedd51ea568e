"""Which dead letters are meant, and of what kinds they are."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from jetstream_bridge.events.dead_letter import DeadLetter


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """A filter: letters with this reason, of this event type, and so on; None means any."""

    reason: str | None = None
    event_type: str | None = None
    error_class: str | None = None
    event_id: str | None = None
    resource: str | None = None  # `{resource_type}:{resource_id}`

    @property
    def narrowed(self) -> bool:
        """Whether it takes some letters only."""
        return any(value is not None for value in astuple(self))

    def takes(self, letter: DeadLetter) -> bool:
        event = letter.event
        types = () if event is None else (event.type, event.event_type)
        return (
            self.reason in (None, letter.reason)
            and self.error_class in (None, letter.error_class)
            and self.event_id in (None, letter.event_id)
            and self.resource in (None, letter.resource)
            and (self.event_type is None or self.event_type in types)
        )


@dataclass(frozen=True, slots=True)
class LetterGroup:
    """What letters have in common when they failed for the same cause."""

    reason: str
    error_class: str  # empty where the letter does not tell
    event_type: str | None  # None: the body is no event


def kind_of(letter: DeadLetter) -> LetterGroup:
    event_type = letter.event.type if letter.event is not None else None
    return LetterGroup(letter.reason, letter.error_class, event_type)
