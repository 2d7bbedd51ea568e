"""What needs a person: badges in the navigation, and the list at the top of the overview."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jetstream_bridge.web.console import formatting as texts
from jetstream_bridge.web.console.overview import ComponentStatus, Overview
from jetstream_bridge.web.console.snapshots import Snapshot

Tone = Literal["warn", "bad"]


@dataclass(frozen=True, slots=True)
class Badge:
    """A number beside a page's name, and what it counts."""

    tone: Tone
    number: str
    meaning: str


@dataclass(frozen=True, slots=True)
class AttentionItem:
    """One thing that needs a person: what it is, and the page where it is dealt with."""

    tone: Tone
    text: str
    action: str
    place: str
    query: dict[str, str]


def badges(view: Overview) -> dict[str, Badge]:
    """Return the badges by the page that they stand at."""
    found = {
        "overview": _of_parts(view.parts),
        "outbox": _of_outbox(view.reading),
        "letters": _of_letters(view.reading),
    }
    return {page: badge for page, badge in found.items() if badge is not None}


def _of_parts(parts: list[ComponentStatus]) -> Badge | None:
    bad = sum(part.state == "bad" for part in parts)
    warn = sum(part.state == "warn" for part in parts)
    if bad:
        return Badge("bad", str(bad), "not working")
    return Badge("warn", str(warn), "with a warning") if warn else None


def _of_outbox(reading: Snapshot) -> Badge | None:
    if reading.failed:
        return Badge("bad", texts.compact_number(reading.failed), "failed")
    if reading.held:
        return Badge("warn", texts.compact_number(reading.held), "blocked")
    return None


def _of_letters(reading: Snapshot) -> Badge | None:
    number = reading.letters.value
    return Badge("bad", texts.compact_number(number), "to look at") if number else None


def matters(view: Overview) -> list[AttentionItem]:
    """Return what needs a person, the worst first."""
    found = [*_parts(view.parts), *_numbers(view.reading)]
    return sorted(found, key=lambda matter: matter.tone != "bad")


def _parts(parts: list[ComponentStatus]) -> list[AttentionItem]:
    return [
        AttentionItem(
            "bad" if part.state == "bad" else "warn",
            f"{part.name}: {_told(part)}",
            "Look" if part.place else "",
            part.place or "",
            {},
        )
        for part in parts
        if part.state in ("bad", "warn")
    ]


def _told(part: ComponentStatus) -> str:
    label = part.label[0].lower() + part.label[1:]
    return part.detail if part.detail.startswith(label) else f"{label}, {part.detail}"


def _numbers(reading: Snapshot) -> list[AttentionItem]:
    found = []
    if failed := reading.failed:
        found.append(_matter("bad", failed, "could not be sent", "outbox", {"status": "failed"}))
    if held := reading.held:
        text = "waiting for a retry, or blocked by an event that is"
        found.append(_matter("warn", held, text, "outbox", {"status": "blocked"}))
    if letters := reading.letters.value:
        found.append(_matter("bad", letters, "could not be handled", "dead-letters", {}))
    return found


def _matter(tone: Tone, count: int, text: str, place: str, query: dict[str, str]) -> AttentionItem:
    events = "event" if count == 1 else "events"
    return AttentionItem(tone, f"{texts.number(count)} {events} {text}.", "Show", place, query)
