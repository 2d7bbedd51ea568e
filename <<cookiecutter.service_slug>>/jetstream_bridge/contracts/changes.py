"""What has changed between the released contract and the code, and which of it breaks somebody.

Published events are read by others, who go by what was released; handled ones are written by
others, who go on as before until they are told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from jetstream_bridge.contracts.compatibility import Direction, breaking
from jetstream_bridge.contracts.released import Contract, Handled, Published
from jetstream_bridge.core.errors import ConfigurationError
from jetstream_bridge.inbox.handlers import matches


class Remedy(NamedTuple):
    """What to do: in words, and what is then to be written or run."""

    text: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Break:
    """A change that breaks readers or peers, and what to do about it."""

    direction: Direction
    event: str  # as a person reads it: type, version, source
    field: str  # `lines[].price`; empty for the payload, or the event, as a whole
    change: str
    remedy: str
    code: str

    def as_dict(self) -> dict[str, str]:
        return {
            "direction": self.direction.value,
            "event": self.event,
            "field": self.field,
            "change": self.change,
            "remedy": self.remedy,
            "code": self.code,
        }


@dataclass(slots=True)
class Changes:
    """`notes` are changes that break nobody and are not in the released contract."""

    breaks: list[Break] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def changes(old: Contract, new: Contract) -> Changes:
    """Compare; raises `ConfigurationError` where a released schema is none."""
    found = Changes()
    try:
        _compare_published(old, new, found)
        _compare_handled(old, new, found)
    except ValueError as error:  # of a schema
        raise ConfigurationError(
            f"the released contract has a schema that is none: {error}"
        ) from error
    return found


# --- published


def _compare_published(old: Contract, new: Contract, found: Changes) -> None:
    now = {(one.event_type, one.schema_version): one for one in new.published}
    newest = {one.event_type: one.schema_version for one in new.published}
    released = {(one.event_type, one.schema_version) for one in old.published}
    for before in old.published:
        event = f"{before.event_type} v{before.schema_version}"
        after = now.get((before.event_type, before.schema_version))
        if after is not None:
            found.breaks += _published_breaks(event, before, after)
        elif newest.get(before.event_type, 0) > before.schema_version:
            found.notes.append(
                f"{event} is not published any more, v{newest[before.event_type]} is: its readers "
                "need to read that version, or an up-caster, before this is deployed"
            )
        else:
            found.breaks.append(_published_break(event, "", "is not published any more", _GONE))
    found.notes += [
        f"{name} v{version} is published and not released yet"
        for name, version in now
        if (name, version) not in released
    ]


_RELEASE = "python -m app.cli contract release"
_GONE = Remedy("declare it again; or, when nobody reads it:", _RELEASE)
_UNHANDLED = Remedy("keep a handler; or, when nobody sends it:", _RELEASE)


def _published_breaks(event: str, before: Published, after: Published) -> Iterator[Break]:
    version = after.schema_version
    remedy = Remedy(
        f"keep it as it was; or declare the new form as version {version + 1}:",
        f'@publishes("{after.event_type}", schema_version={version + 1})',
    )
    for fault in breaking(before.payload, after.payload, Direction.PUBLISHED):
        yield _published_break(event, fault.path, fault.text, remedy)
    for name in before.destinations:
        if after.destinations and name not in after.destinations:
            yield _published_break(event, "", f"is not declared for {name} any more", _GONE)


def _published_break(event: str, path: str, change: str, remedy: Remedy) -> Break:
    return Break(Direction.PUBLISHED, event, path, change, *remedy)


# --- handled


def _compare_handled(old: Contract, new: Contract, found: Changes) -> None:
    for before in old.handled:
        after = next((one for one in new.handled if _takes(one, before)), None)
        if after is None:
            change = "no handler takes it any more; what peers send is lost"
            found.breaks.append(_handled_break(before, "", change, _UNHANDLED))
        else:
            found.breaks += _handled_breaks(before, after)
    found.notes += [
        f"{_name(one)} is handled and not released yet"
        for one in new.handled
        if not any(_takes(one, before) for before in old.handled)
    ]


def _takes(handler: Handled, event: Handled) -> bool:
    return handler.source == event.source and matches(handler.event_type, event.event_type)


def _handled_breaks(before: Handled, after: Handled) -> Iterator[Break]:
    sent = before.schema_version or 1
    if after.oldest_version is not None and after.schema_version is not None:
        oldest = min(before.oldest_version or sent, sent)
        if oldest < after.oldest_version:
            yield _no_upcaster(before, oldest)
            return
        if sent < after.schema_version:
            return  # the up-casters make of it what the handler reads
    elif before.oldest_version is not None:
        yield _no_upcaster(before, before.oldest_version)
    remedy = Remedy(
        "accept what was accepted; or raise the version, with an up-caster:",
        f'@upcast("{before.event_type}", from_version={sent})',
    )
    for fault in breaking(before.payload, after.payload, Direction.HANDLED):
        yield _handled_break(before, fault.path, fault.text, remedy)
    if after.schema_version is not None and after.schema_version < sent:
        change = f"version {sent} was read, and {after.schema_version} is the highest now"
        yield _handled_break(before, "", change, Remedy(f"read version {sent} again"))


def _no_upcaster(before: Handled, version: int) -> Break:
    remedy = Remedy("register it again:", f'@upcast("{before.event_type}", from_version={version})')
    change = f"no up-caster leads on from version {version} any more"
    return _handled_break(before, "", change, remedy)


def _handled_break(before: Handled, path: str, change: str, remedy: Remedy) -> Break:
    return Break(Direction.HANDLED, _name(before), path, change, *remedy)


def _name(event: Handled) -> str:
    version = f" v{event.schema_version}" if event.schema_version is not None else ""
    return f"{event.event_type}{version}" + (f" from {event.source}" if event.source else "")
