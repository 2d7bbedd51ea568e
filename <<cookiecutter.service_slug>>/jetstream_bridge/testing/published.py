"""What a service published, as the stream stored it, and assertions that say what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jetstream_bridge.core.subjects import AppNames, matches
from jetstream_bridge.testing.clock import VirtualClock
from jetstream_bridge.testing.events import SentEvent, read_event
from jetstream_bridge.testing.real import RealClock, RealServer
from jetstream_bridge.testing.server import MockServer

# Seconds on the test's clock: the relay looks at least every second. Where that clock is the real
# one, what comes after a reconnect may need longer on a busy machine, and the whole time of what
# does not come is waited for.
_LIMIT, _REAL_LIMIT, _PATIENCE = 5.0, 2.0, 30.0
_PAUSE = 0.1


class Published:
    """The events that the service called `app` published, oldest first, dead letters apart."""

    def __init__(
        self,
        server: MockServer | RealServer,
        clock: VirtualClock | RealClock,
        *,
        env: str,
        app: str,
    ) -> None:
        self._server = server
        self._clock = clock
        self._subjects = f"{env}.{app}.sync.*"
        self._dead_letter = AppNames(env, app).dead_letter

    @property
    def events(self) -> list[SentEvent]:
        return [
            read_event(sent.subject, sent.headers, sent.data)
            for sent in self._server.stored
            if matches(self._subjects, sent.subject) and sent.subject != self._dead_letter
        ]

    @property
    def dead_letters(self) -> list[SentEvent]:
        """Those dead letters that are events; one that is not is in the stream all the same."""
        letters = [sent for sent in self._server.stored if sent.subject == self._dead_letter]
        return [read_event(sent.subject, sent.headers, sent.data) for sent in letters]

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[SentEvent]:
        return iter(self.events)

    def __getitem__(self, index: int) -> SentEvent:
        return self.events[index]

    async def assert_published(
        self, type_: str, payload: Mapping[str, Any] | None = None, *, times: int = 1, **fields: Any
    ) -> SentEvent:
        """Wait until the event is published, `times` times or more often; return the last one.

        `payload` names the parts that matter, and `fields` attributes such as `resource_id`.
        """
        wanted = {**fields, **({"payload": payload} if payload is not None else {})}
        waited = 0.0
        while len(found := self._matching(type_, wanted)) < times:
            if waited >= _PATIENCE:
                raise AssertionError(_explain(type_, wanted, times, len(found), self.events))
            await self._clock.advance(_PAUSE)
            waited += _PAUSE
        return found[-1]

    async def assert_not_published(
        self, type_: str, payload: Mapping[str, Any] | None = None, **fields: Any
    ) -> None:
        """Give the relay the time that it needs, then fail if there is such an event."""
        wanted = {**fields, **({"payload": payload} if payload is not None else {})}
        await self._clock.advance(_REAL_LIMIT if isinstance(self._clock, RealClock) else _LIMIT)
        found = self._matching(type_, wanted)
        if found:
            listed = "\n".join(f"  {event}" for event in found)
            raise AssertionError(f"{type_} was published, and should not have been:\n{listed}")

    def _matching(self, type_: str, wanted: Mapping[str, Any]) -> list[SentEvent]:
        return [e for e in self.events if e.type == type_ and not _differences(e, wanted)]


def _explain(
    type_: str, wanted: Mapping[str, Any], times: int, found: int, events: Sequence[SentEvent]
) -> str:
    lines = [f"{type_} was published {found} times and not {times} times as expected"]
    lines += [f"  expected {name}: {value!r}" for name, value in wanted.items()]
    if not events:
        return "\n".join([*lines, "  nothing was published at all"])
    for number, event in enumerate(events, 1):
        if event.type != type_:
            lines.append(f"  {number}. {event.type}: another type")
        else:
            differences = _differences(event, wanted) or ["as expected"]
            lines.append(f"  {number}. {event.type}: {differences[0]}")
            lines += [f"     {difference}" for difference in differences[1:]]
    return "\n".join(lines)


def _differences(event: SentEvent, wanted: Mapping[str, Any]) -> list[str]:
    return [
        line
        for name, value in wanted.items()
        for line in _compare(name, value, getattr(event, name))
    ]


def _compare(path: str, wanted: Any, found: Any) -> list[str]:
    """A mapping is wanted as a part of what is found; everything else is wanted whole."""
    if not isinstance(wanted, Mapping) or not isinstance(found, Mapping):
        return [] if wanted == found else [f"{path} is {found!r} and not {wanted!r}"]
    lines = []
    for name, value in wanted.items():
        if name not in found:
            lines.append(f"{path}.{name} is missing; expected {value!r}")
        else:
            lines += _compare(f"{path}.{name}", value, found[name])
    return lines
