"""`topology plan`, `ensure` and `takeover`: the stream and the consumers that this service needs.

All ask NATS only, and work without the database. `ensure` is what an administrator runs for a
service that may not provision itself; so it does not heed AUTO_PROVISION.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Annotated

import typer

from jetstream_bridge.cli import takeovers
from jetstream_bridge.cli.groups import group
from jetstream_bridge.cli.output import AsJson, Status, Yes, answer, confirm, fail
from jetstream_bridge.cli.service import Service, run
from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.errors import ApiError, PermissionDeniedError
from jetstream_bridge.topology.plan import Plan
from jetstream_bridge.topology.provisioning import Topology, subjects_of_peer
from jetstream_bridge.topology.unread_subjects import UnreadSubject

_WHOLE_LIMIT = 60.0  # seconds; agreeing with other writers of the stream takes 20 of them at most

commands = group(
    "The stream and the consumers of this service.",
    example="python -m app.cli topology plan",
)

Destinations = Annotated[
    list[str] | None,
    typer.Option(
        "--destination",
        metavar="SERVICE",
        help="A service beside DESTINATION_APP to which this one sends; may be given again.",
    ),
]
Others = Annotated[
    list[str] | None,
    typer.Option(
        "--for",
        metavar="APP[:DESTINATION]",
        help="Also what another service needs that exchanges events with DESTINATION, or with "
        "this one: both directions and its dead letters. May be given again.",
    ),
]
Work = Callable[[Topology, list[str]], Awaitable[tuple[Plan, Status]]]


@commands.command(epilog="Example: python -m app.cli topology plan")
def plan(destination: Destinations = None, others: Others = None, as_json: AsJson = False) -> None:
    """Say what `ensure` would do; exit with 3 if anything.

    Lines: + what is missing, ! what stands in the way, ~ what differs and is left as it is.
    """
    _run(_plan, destination or [], others or [], as_json=as_json)


@commands.command(
    epilog="Example: NATS_USER=admin NATS_PASSWORD=... python -m app.cli topology ensure"
)
def ensure(
    destination: Destinations = None, others: Others = None, as_json: AsJson = False
) -> None:
    """Make what is missing; nothing is taken away.

    Run it with the login of an administrator where this service has restricted permissions.
    """
    _run(_ensure, destination or [], others or [], as_json=as_json)


@commands.command(epilog="Example: python -m app.cli topology takeover --dry-run")
def takeover(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what there is to do, change nothing.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Make consumers anew whose messages another program left behind, such as the gem.

    Stop that program first. Every message that is not acknowledged comes again.
    """
    if not dry_run:
        confirm("Is the program stopped that had the consumers before?", yes=yes)

    async def work(service: Service) -> Status:
        await service.connect()
        found = await (takeovers.find(service) if dry_run else takeovers.make_anew(service))
        lines = [f"{'would make' if dry_run else 'made'} {takeover}" for takeover in found]
        data = {"consumers": takeovers.as_data(found), "dry_run": dry_run}
        answer("\n".join(lines or ["no consumer left anything behind"]), data, as_json=as_json)
        return Status.FINE

    run(work, within=_WHOLE_LIMIT)


async def _plan(topology: Topology, subjects: list[str]) -> tuple[Plan, Status]:
    found = await topology.plan(extra_subjects=subjects)
    return found, Status.FINE if found.empty else Status.DIFFERENCE


async def _ensure(topology: Topology, subjects: list[str]) -> tuple[Plan, Status]:
    """Do what is planned; return that, and what still stands in the way."""
    before = await topology.plan(extra_subjects=subjects)
    done = await topology.ensure(extra_subjects=subjects)
    if done.blocked:  # and a consumer would wait for events that go elsewhere
        return done, Status.FAILED
    if topology.problem is not None:
        fail(topology.problem, Status.FAILED)
    for source in topology.sources:
        await topology.ensure_consumer(source)
    after = await topology.plan(extra_subjects=subjects)
    if after.changes:
        fail(f"not done: {'; '.join(after.changes)}; run it again", Status.FAILED)
    told = replace(after, changes=before.changes)
    return told, Status.FAILED if told.conflicts else Status.FINE


def _run(work: Work, destinations: list[str], others: list[str], *, as_json: bool) -> None:
    async def with_topology(service: Service) -> Status:
        config = replace(service.bridge.config, auto_provision=True)
        subjects = [config.names.publish(name) for name in destinations]
        subjects += [subject for other in others for subject in _subjects_for(config, other)]
        await service.connect()
        durables = service.handlers.durables(config)
        topology = Topology(
            service.bridge.connection, config, durables=durables, peers=destinations
        )
        plan, status = await work(topology, subjects)
        _show(plan, await _unread(service), as_json=as_json)
        return status

    run(with_topology, within=_WHOLE_LIMIT)


def _subjects_for(config: BridgeConfig, other: str) -> list[str]:
    app, colon, destination = other.partition(":")
    return subjects_of_peer(config, app, destination if colon else None)


async def _unread(service: Service) -> list[UnreadSubject]:
    """What nobody reads, where this user may ask; it is no difference to the plan."""
    try:
        return await service.bridge.inspection.unread()
    except (PermissionDeniedError, ApiError):
        return []


def _show(plan: Plan, unread: list[UnreadSubject], *, as_json: bool) -> None:
    data = {
        "stream": plan.stream,
        "changes": list(plan.changes),
        "conflicts": [asdict(conflict) for conflict in plan.conflicts],
        "differences": list(plan.differences),
        "unread": [asdict(one) for one in unread],
    }
    answer("\n".join([*plan.lines(), *map(str, unread)]), data, as_json=as_json)
