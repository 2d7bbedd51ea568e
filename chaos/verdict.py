"""Reads both databases and the stream's history, and says what does not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from chaos.counting import Change, changes_of, count, rows
from chaos.history import Stored
from chaos.town import ENV, IN_ORDER, PEERS, Town

_OPEN_OUTBOX = "SELECT event_id, status FROM jetstream_outbox_events WHERE status <> 'sent'"
_OPEN_INBOX = (
    "SELECT event_id, status FROM jetstream_inbox_events"
    " WHERE status NOT IN ('processed', 'dead_lettered')"
)


def judge(
    town: Town, acknowledged: Mapping[str, set[Change]], stored: Sequence[Stored]
) -> Iterator[str]:
    """What does not hold, a line each; nothing: everything does."""
    for app, peer in PEERS.items():
        here, there = town.database_url(app), town.database_url(peer)
        changes = set(changes_of(here, "changes"))
        poison = {(row.resource, row.version) for row in rows(here, _POISON)}
        lost = acknowledged[app] - changes
        if lost:
            yield f"{app} acknowledged what it has not: {sorted(lost)}"
        effects = changes_of(there, "effects", order="id")
        found = count(changes - poison, effects)
        if found.lost or found.doubled or found.made_up:
            yield f"effects of {app}'s changes: {found}"
        if found.disordered and peer == IN_ORDER:
            yield f"effects of {app}'s changes: {found.disordered} out of order"
        echoes = count(effects, changes_of(here, "echoes", order="id"))
        if echoes.lost or echoes.doubled or echoes.made_up:
            yield f"what came back to {app}: {echoes}"
        yield from _left_open(app, here)
        yield from _stream(app, changes, poison, stored)


_POISON = "SELECT resource, version FROM changes WHERE poison"


def _left_open(app: str, url: str) -> Iterator[str]:
    for what, statement in (("outbox", _OPEN_OUTBOX), ("inbox", _OPEN_INBOX)):
        left = rows(url, statement)
        if left:
            yield f"{len(left)} rows are open in the {what} of {app}, the first: {left[0]}"


def _stream(
    app: str, changes: set[Change], poison: set[Change], stored: Sequence[Stored]
) -> Iterator[str]:
    """Each change stands once in the stream, in order, and each letter has a cause."""
    sent = [_change(m) for m in stored if m.subject == f"{ENV}.{app}.sync.{PEERS[app]}"]
    found = count(changes, [change for kind, change in sent if kind == "changed"])
    if found:
        yield f"the stream about {app}'s changes: {found}"
    letters = [m for m in stored if m.subject == f"{ENV}.{PEERS[app]}.sync.dlq"]
    times = Counter(_change(letter)[1] for letter in letters)
    if times.keys() != poison:
        yield f"letters without a cause: {sorted(times.keys() - poison)}"
        yield f"causes without a letter: {sorted(poison - times.keys())}"
    if doubled := [change for change, number in times.items() if number > 1]:
        yield f"more than one letter of {doubled}"


def _change(message: Stored) -> tuple[str, Change]:
    envelope = message.envelope
    payload = envelope["payload"]
    return envelope["event_type"].rpartition(".")[2], (payload["id"], payload["version"])
