"""`topology plan` and `topology ensure`: the stream and the consumers that this service needs.

Both ask NATS only, and work without the database. `ensure` is what an administrator runs for a
service that may not provision itself; so it does not heed AUTO_PROVISION.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Annotated

import typer

from app.bridge.topology import Topology
from app.bridge.topology_plan import Plan
from app.commands.groups import group
from app.commands.output import AsJson, Status, answer, fail
from app.commands.service import Service, run

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
Work = Callable[[Topology, list[str]], Awaitable[tuple[Plan, Status]]]


@commands.command(epilog="Example: python -m app.cli topology plan")
def plan(destination: Destinations = None, as_json: AsJson = False) -> None:
    """Say what `ensure` would do; exit with 3 if anything.

    Lines: + what is missing, ! what stands in the way, ~ what differs and is left as it is.
    """
    _run(_plan, destination or [], as_json=as_json)


@commands.command(
    epilog="Example: NATS_USER=admin NATS_PASSWORD=... python -m app.cli topology ensure"
)
def ensure(destination: Destinations = None, as_json: AsJson = False) -> None:
    """Make what is missing; nothing is taken away.

    Run it with the login of an administrator where this service has restricted permissions.
    """
    _run(_ensure, destination or [], as_json=as_json)


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


def _run(work: Work, destinations: list[str], *, as_json: bool) -> None:
    async def with_topology(service: Service) -> Status:
        config = replace(service.bridge.config, auto_provision=True)
        subjects = [config.names.publish(name) for name in destinations]
        await service.connect()
        durables = service.handlers.durables(config)
        topology = Topology(service.bridge.connection, config, durables=durables)
        plan, status = await work(topology, subjects)
        _show(plan, as_json=as_json)
        return status

    run(with_topology, within=_WHOLE_LIMIT)


def _show(plan: Plan, *, as_json: bool) -> None:
    data = {
        "stream": plan.stream,
        "changes": list(plan.changes),
        "conflicts": [asdict(conflict) for conflict in plan.conflicts],
        "differences": list(plan.differences),
    }
    answer("\n".join(plan.lines()), data, as_json=as_json)
