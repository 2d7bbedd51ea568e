"""`topology plan` and `topology ensure`: the stream and the consumers that this service needs.

Both ask NATS only, and work without the database. `ensure` is what an administrator runs for a
service that may not provision itself; so it does not heed AUTO_PROVISION.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Annotated

import typer

from app.bridge.config import BridgeConfig
from app.bridge.connection import Connection
from app.bridge.errors import BridgeError, ConfigurationError, InvalidSubjectError
from app.bridge.permissions import inbox_prefix
from app.bridge.topology import Topology
from app.bridge.topology_plan import Plan
from app.commands.groups import group
from app.commands.output import AsJson, Status, answer, fail
from app.consumers import load_consumers
from app.settings import load_settings

_CONNECT_LIMIT = 10.0  # seconds
_WHOLE_LIMIT = 60.0  # seconds; agreeing with other writers of the stream takes 20 of them at most
_CLOSE_LIMIT = 2.0  # seconds

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
Work = Callable[[Topology, list[str]], Awaitable[Plan]]


@commands.command(epilog="Example: python -m app.cli topology plan")
def plan(destination: Destinations = None, as_json: AsJson = False) -> None:
    """Say what `ensure` would do; exit with 3 if anything.

    Lines: + what is missing, ! what stands in the way, ~ what differs and is left as it is.
    """
    found = _run(_plan, destination or [])
    _show(found, as_json=as_json)
    if not found.empty:
        raise typer.Exit(Status.DIFFERENCE)


@commands.command(
    epilog="Example: NATS_USER=admin NATS_PASSWORD=... python -m app.cli topology ensure"
)
def ensure(destination: Destinations = None, as_json: AsJson = False) -> None:
    """Make what is missing; nothing is taken away.

    Run it with the login of an administrator where this service has restricted permissions.
    """
    done = _run(_ensure, destination or [])
    _show(done, as_json=as_json)
    if done.conflicts:
        raise typer.Exit(Status.FAILED)


async def _plan(topology: Topology, subjects: list[str]) -> Plan:
    return await topology.plan(extra_subjects=subjects)


async def _ensure(topology: Topology, subjects: list[str]) -> Plan:
    """Do what is planned; return that, and what still stands in the way."""
    before = await topology.plan(extra_subjects=subjects)
    done = await topology.ensure(extra_subjects=subjects)
    if done.blocked:  # and a consumer would wait for events that go elsewhere
        return done
    if topology.problem is not None:
        fail(topology.problem, Status.FAILED)
    for source in topology.sources:
        await topology.ensure_consumer(source)
    after = await topology.plan(extra_subjects=subjects)
    if after.changes:
        fail(f"not done: {'; '.join(after.changes)}; run it again", Status.FAILED)
    return replace(after, changes=before.changes)


def _run(work: Work, destinations: list[str]) -> Plan:
    config = replace(load_settings().bridge(), auto_provision=True)
    try:
        subjects = [config.names.publish(name) for name in destinations]
        return asyncio.run(_within(work, config, subjects))
    except (ConfigurationError, InvalidSubjectError) as error:
        fail(str(error), Status.BAD_INPUT)
    except BridgeError as error:
        fail(str(error), Status.FAILED)
    except TimeoutError:
        fail(f"NATS did not answer everything within {_WHOLE_LIMIT:g} s", Status.FAILED)


async def _within(work: Work, config: BridgeConfig, subjects: list[str]) -> Plan:
    async with asyncio.timeout(_WHOLE_LIMIT), _connected(config) as connection:
        durables = load_consumers().durables(config)
        return await work(Topology(connection, config, durables=durables), subjects)


@asynccontextmanager
async def _connected(config: BridgeConfig) -> AsyncIterator[Connection]:
    connection = Connection(
        config.connection,
        name=f"{config.app_name}-{config.env}-topology",
        inbox_prefix=inbox_prefix(config),
    )
    await connection.start()
    try:
        await connection.wait_connected(_CONNECT_LIMIT)
        yield connection
    finally:
        await connection.close(timeout=_CLOSE_LIMIT)


def _show(plan: Plan, *, as_json: bool) -> None:
    data = {
        "stream": plan.stream,
        "changes": list(plan.changes),
        "conflicts": [asdict(conflict) for conflict in plan.conflicts],
        "differences": list(plan.differences),
    }
    answer("\n".join(plan.lines()), data, as_json=as_json)
