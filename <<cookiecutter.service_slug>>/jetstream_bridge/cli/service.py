"""The service as a command uses it: opened without relay and without handlers, and closed again.

A command ends whatever hangs. What it asks has a time limit, closing has one, and a look-up of a
name that outlasts both in its thread is left behind. It ends without a traceback for what can
happen outside: one line on stderr, and a status.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import typer
from structlog.typing import Processor

from jetstream_bridge.bridge import Bridge
from jetstream_bridge.cli.definition import definition
from jetstream_bridge.cli.output import Status, complain
from jetstream_bridge.cli.progress import Progress
from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.errors import ConfigurationError, InvalidSubjectError, RegistrationError
from jetstream_bridge.inbox.registry import Consumers
from jetstream_bridge.nats.client import GuardedClient
from jetstream_bridge.service.bridge_config import bridge_config
from jetstream_bridge.service.database import Database, sqlite_threads_ended
from jetstream_bridge.service.definition import ServiceDefinition
from jetstream_bridge.service.extensions import Extensions
from jetstream_bridge.service.fault_lines import FAULTS, explained
from jetstream_bridge.service.logs import configure_logging
from jetstream_bridge.service.operator import Operations
from jetstream_bridge.service.resources import OpenResources
from jetstream_bridge.service.setting_types import LogLevel
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.service.settings_loading import load_settings

CONNECT_WITHIN = 5.0  # seconds
ANSWER_WITHIN = 20.0  # seconds for a whole command, or from one step of a long one to the next
_CLOSE_WITHIN = 2.0  # seconds, for NATS and for the database
_LEAVE_WITHIN = 2.0  # seconds for threads that still look up a name

_BAD_INPUT = (ConfigurationError, InvalidSubjectError, RegistrationError)


@dataclass(frozen=True)
class Service:
    """The parts that commands use."""

    settings: BridgeSettings
    database: Database
    bridge: Bridge
    operations: Operations
    handlers: Consumers
    limit: asyncio.Timeout
    within: float | None  # seconds from one step to the next
    extensions: Extensions
    resources: OpenResources

    async def connect(self, within: float | None = None) -> None:
        """Connect to NATS; raise `NotConnectedError` after `within` seconds, five unless given.

        Called by what needs NATS only, so that the rest works while it is away.
        """
        await self.bridge.connection.start()
        await self.bridge.connection.wait_connected(CONNECT_WITHIN if within is None else within)

    async def open_resources(self) -> None:
        """Open what the service's own code needs; most commands need none of it.

        Raises `ResourceError`. They are closed when the command ends.
        """
        await self.extensions.open(self.resources)

    def step(self) -> None:
        """Something was done: the time limit begins anew."""
        if self.within is not None:
            self.limit.reschedule(loop_time() + self.within)


Work = Callable[[Service], Awaitable[Status]]


def run(
    work: Work,
    *,
    within: float | None = ANSWER_WITHIN,
    progress: Progress | None = None,
    resources: bool = False,
) -> None:
    """Do `work`, which writes its own answer; end the command unless it returns that all is fine.

    It has `within` seconds from one `step` to the next; None is for work whose every question has
    a limit of its own. `progress` says what was done when it ends before its end. With `resources`
    those of the service are open in `service.resources`, by type.
    """
    if resources:
        work = _with_resources(work)
    code = definition()
    settings = load_settings(code.settings_class)
    prepare_logging(settings)
    try:
        with asyncio.Runner() as runner:
            status = runner.run(_guarded(work, settings, code, within, progress))
            with _left_within(_LEAVE_WITHIN, status):
                runner.close()
    except KeyboardInterrupt:
        complain("interrupted" if progress is None else f"interrupted; {progress}")
        status = Status.INTERRUPTED
    if status is not Status.FINE:
        raise typer.Exit(status)


def _with_resources(work: Work) -> Work:
    async def prepared(service: Service) -> Status:
        await service.open_resources()
        return await work(service)

    return prepared


async def _guarded(
    work: Work,
    settings: BridgeSettings,
    code: ServiceDefinition,
    within: float | None,
    progress: Progress | None,
) -> Status:
    try:
        async with (
            asyncio.timeout(within) as limit,
            _opened(settings, code, limit, within) as service,
        ):
            return await work(service)
    except _BAD_INPUT as error:
        complain(str(error))
        return Status.BAD_INPUT
    except FAULTS as error:
        own_limit = isinstance(error, TimeoutError) and limit.expired()
        cause = _too_long(within or 0.0) if own_limit else explained(error, settings)
        so_far = f"; {progress} before that" if progress is not None else ""
        complain(f"{cause}{so_far}")
        return Status.FAILED


def _too_long(within: float) -> str:
    return (
        f"no answer within {within:g} s; python -m app.cli test-connection tells whether it is the "
        "database or NATS that hangs"
    )


@asynccontextmanager
async def _opened(
    settings: BridgeSettings, code: ServiceDefinition, limit: asyncio.Timeout, within: float | None
) -> AsyncIterator[Service]:
    handlers, extensions = code.load_consumers(), code.load_extensions()
    prepare_logging(settings, extensions.log_processors)
    database = extensions.open_database(settings)
    resources = extensions.given(settings, database)
    bridge = Bridge(
        bridge_config(settings),
        database.sessions,
        handlers=handlers,
        declared=extensions.events,
        make_client=GuardedClient,
    )
    operations = Operations(bridge, database, by=f"cli, {user()}")
    try:
        yield Service(
            settings, database, bridge, operations, handlers, limit, within, extensions, resources
        )
    finally:
        await resources.close(within=_CLOSE_WITHIN)
        bridge.acks.close()
        await bridge.connection.close(timeout=_CLOSE_WITHIN)
        closing = asyncio.create_task(_close(database))
        await asyncio.wait({closing}, timeout=_CLOSE_WITHIN)


async def _close(database: Database) -> None:
    await database.close()
    await sqlite_threads_ended(_CLOSE_WITHIN)


def user() -> str:
    """Who runs this command, as far as the system knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"uid {os.getuid()}"


def prepare_logging(settings: BridgeSettings, processors: Sequence[Processor] = ()) -> None:
    """Let the operator's own actions be told, and the rest only with LOG_LEVEL=DEBUG.

    What the bridge and the libraries would say of a server that is away, the command says itself.
    """
    level: LogLevel = "DEBUG" if settings.log_level == "DEBUG" else "CRITICAL"
    configure_logging(level, settings.log_format, processors)
    logging.getLogger("jetstream_bridge.service.operator").setLevel(logging.INFO)


@contextmanager
def _left_within(limit: float, status: Status) -> Iterator[None]:
    """End the process with `status` if the body takes longer than `limit` seconds."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    timer = threading.Timer(limit, leave)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
