"""`health`: what `/readyz` of the service's processes looks at, asked from here.

A command is none of those processes. It cannot know whether they run; it sees what they need, and
what they left behind: events that failed, dead letters, consumers that nobody reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial

from jetstream_bridge.cli.groups import single
from jetstream_bridge.cli.output import AsJson, Status, answer, number_of
from jetstream_bridge.cli.relative_times import span
from jetstream_bridge.cli.service import Service, run
from jetstream_bridge.cli.table import clauses
from jetstream_bridge.core.errors import BridgeError, NotConnectedError, ResourceError
from jetstream_bridge.operations.readiness import Check
from jetstream_bridge.service.fault_lines import FAULTS, database_fault, explained
from jetstream_bridge.service.health import Health
from jetstream_bridge.service.schema import pending_migrations

commands = single()

_CONNECT_WITHIN = 2.5  # seconds
_OPEN_WITHIN = 5.0  # seconds for resources, so that a person waits no longer
_ANSWER_WITHIN = 10.0  # seconds
_NOTES_WITHIN = 1.5  # seconds
_LONG_PENDING = 60.0  # seconds; a relay that runs takes an event within one or two
_ENSURE = "python -m app.cli topology ensure"


@commands.command(epilog="Example: python -m app.cli health --json")
def command(as_json: AsJson = False) -> None:
    """Say what the service needs and whether it is there; exit with 1 if anything is not."""

    async def work(service: Service) -> Status:
        checks = await examine(service)
        notes = await _notes(service, checks)
        healthy = all(check.ok or not check.needed for check in checks.values())
        data = {
            "status": "ready" if healthy else "not_ready",
            "checks": {
                name: {"ok": check.ok} | ({"detail": check.detail} if check.detail else {})
                for name, check in checks.items()
            },
            "notes": notes,
        }
        answer(_text(checks, notes), data, as_json=as_json)
        return Status.FINE if healthy else Status.FAILED

    run(work, within=_ANSWER_WITHIN)


async def examine(service: Service) -> dict[str, Check]:
    """Every check by its name, within a few seconds."""
    stored, streamed = await asyncio.gather(_asked_checks(service), _nats_checks(service))
    return stored | streamed


async def _asked_checks(service: Service) -> dict[str, Check]:
    """The database's checks, and the service's own with the resources that they ask."""
    problem = await _open_problem(service)
    own = service.extensions.probes(service.resources) if problem is None else {}
    pending = partial(pending_migrations, service.settings.root, service.database.reading)
    health = Health(service.database, service.bridge, pending, own=own)
    try:
        checks = await health.checks()
    finally:
        await health.close()
    owned = {name: checks[name] for name in own}
    if problem is not None:
        owned = {"resources": Check(ok=False, detail=problem)}
    return _database_checks(checks, service) | owned


async def _open_problem(service: Service) -> str | None:
    try:
        async with asyncio.timeout(_OPEN_WITHIN):
            await service.open_resources()
    except (ResourceError, TimeoutError) as error:
        return str(error) or f"not open within {_OPEN_WITHIN:g} s"
    return None


def _database_checks(checks: dict[str, Check], service: Service) -> dict[str, Check]:
    database, migrations = checks["database"], checks["migrations"]
    if database.detail:
        database = Check(ok=False, detail=database_fault(database.detail, service.settings))
        migrations = Check(ok=False, detail="not known without the database")
    return {"database": database, "migrations": migrations}


async def _nats_checks(service: Service) -> dict[str, Check]:
    try:
        await service.connect(_CONNECT_WITHIN)
    except NotConnectedError as error:
        nats = Check(ok=False, detail=explained(error, service.settings))
        unseen = Check(ok=False, detail="not connected to NATS")
        return {"nats": nats, "stream": unseen, "consumers": unseen}
    stream, consumers = await asyncio.gather(
        _check(_stream(service), service), _check(_consumers(service), service)
    )
    return {"nats": Check(ok=True), "stream": stream, "consumers": consumers}


async def _check(question: Awaitable[str | None], service: Service) -> Check:
    try:
        problem = await question
    except FAULTS as error:
        problem = explained(error, service.settings)
    return Check(ok=problem is None, detail=problem)


async def _stream(service: Service) -> str | None:
    problem = await service.bridge.inspection.stream_problem()
    if problem is None or ";" in problem:
        return problem
    who = "" if service.settings.auto_provision else ", as an administrator"
    return f"{problem}; run: {_ENSURE}{who}"


async def _consumers(service: Service) -> str | None:
    _, missing = await service.bridge.inspection.own_consumers()
    if not missing:
        return None
    return f"{', '.join(missing)} missing; start the worker, or run: {_ENSURE}"


async def _notes(service: Service, checks: dict[str, Check]) -> list[str]:
    """What is no reason not to be ready, and still wants a person."""
    notes: list[str] = []
    try:
        async with asyncio.timeout(_NOTES_WITHIN):
            if checks["database"].ok and checks["migrations"].ok:
                notes += await _outbox_notes(service)
            if not checks["nats"].ok:
                notes += _outage_notes(service)
            elif checks["stream"].ok:
                notes += await _nats_notes(service)
    except FAULTS as error:
        notes.append(f"not everything could be looked at: {explained(error, service.settings)}")
    return notes


async def _outbox_notes(service: Service) -> list[str]:
    stats = await service.operations.outbox_stats()
    waiting, oldest = number_of(stats.pending, "event"), stats.oldest_pending_seconds or 0.0
    notes = []
    if stats.failed:
        events = number_of(stats.failed, "event")
        notes.append(f"{events} could not be sent: outbox list --status failed")
    if await service.operations.paused_since() is not None:
        notes.append(f"relaying is paused, {waiting} waiting: outbox resume")
    elif oldest >= _LONG_PENDING:
        notes.append(
            f"{waiting} waiting to be sent, the oldest for {span(oldest)}: is a relay running? See "
            "/readyz of the API; outbox list --status pending"
        )
    return notes


def _outage_notes(service: Service) -> list[str]:
    """What an outage of NATS means for the processes, which this command is not."""
    settings = service.settings
    if not settings.use_outbox or settings.ready_requires_nats:
        return []
    return ["the API serves without NATS (degraded), events wait in the outbox; workers do not"]


async def _nats_notes(service: Service) -> list[str]:
    notes = []
    letters = await service.operations.letter_count()
    if letters:
        notes.append(f"{number_of(letters, 'dead letter')}: dlq list")
    try:
        consumers, _ = await service.bridge.inspection.own_consumers()
    except BridgeError:
        return notes  # its own check has said it
    for consumer in consumers:
        if consumer.lag and not consumer.num_waiting:
            waiting = number_of(consumer.lag, "event")
            notes.append(
                f"no waiting pulls on {consumer.name}, lag {waiting}: is the worker running?"
            )
    return notes


def _text(checks: dict[str, Check], notes: list[str]) -> str:
    lines = []
    for name, check in checks.items():
        first = f"{'ok  ' if check.ok else 'FAIL'}  {name:10}  "
        lines += clauses(check.detail or "", first=first, rest=" " * len(first))
    for note in notes:
        lines += clauses(note, first="note  ", rest="      ")
    return "\n".join(lines)
