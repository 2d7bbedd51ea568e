"""What a service adds to its processes without editing this package: `app/extensions.py` has it.

API, worker and commands take from the one object what concerns them: resources, readiness checks,
log processors, an engine and a class of sessions of its own.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.core.errors import RegistrationError
from jetstream_bridge.events.declared_events import DeclaredEvents
from jetstream_bridge.inbox.dependencies import Wants
from jetstream_bridge.operations.readiness import CHECK_NAMES, Check, Probe
from jetstream_bridge.service.database import Database, open_database
from jetstream_bridge.service.modules import import_package
from jetstream_bridge.service.resources import OpenResources, Resource, resource_of, wants_of
from jetstream_bridge.service.settings import BridgeSettings

if TYPE_CHECKING:
    from structlog.typing import Processor

CheckFunction = Callable[..., Awaitable[Check]]
EngineFunction = Callable[[Any], AsyncEngine]
F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound=type[BaseModel])

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class Extensions:
    """What one service adds. A function is registered by decorating it."""

    def __init__(
        self,
        settings: type[BridgeSettings] = BridgeSettings,
        *,
        session_class: type[AsyncSession] = AsyncSession,
        events: str | None = None,
    ) -> None:
        """`settings` is the service's class, which functions here and handlers may ask for.

        Sessions are made of `session_class`. `events` is the name of the package whose modules
        declare what the service publishes; a process imports all of them when it starts.
        """
        self.log_processors: list[Processor] = []
        # Takes the place of resources, by type; for tests.
        self.overrides: dict[type, object] = {}
        self._types: list[type] = [settings]
        self._session_class = session_class
        self._events = DeclaredEvents()
        self.publishes = self._events.publishes  # declares an event: see there
        self._events_package = events
        self._make_engine: EngineFunction | None = None
        self._resources: list[Resource] = []
        self._checks: dict[str, tuple[CheckFunction, Wants, bool]] = {}

    # --- registering

    def resource(self, function: F) -> F:
        """Register an asynchronous generator that opens a resource, yields it, and closes it.

        It may ask by type for the settings, the `Database` and resources registered before. What
        it yields is found by the annotated class: in handlers, routes (`from_resource`), checks
        and commands. Raises `RegistrationError` for another form, or for a class twice.
        """
        found = resource_of(function, self._known)
        self._resources.append(found)
        self._types.append(found.kind)
        return function

    def check(self, *, name: str | None = None, needed: bool = True) -> Callable[[F], F]:
        """Register the decorated coroutine function as a check of readiness, under its name.

        It returns a `Check`, and may ask for what a resource may ask for, and for resources. A
        probe waits 1.5 s for it, and it is given up after 5 s. With `needed=False` the process
        serves while it fails. Raises `RegistrationError` for another form, or a name that is taken.
        """

        def register(function: F) -> F:
            chosen = _checked_name(name or function.__name__, self._checks)
            if not inspect.iscoroutinefunction(function):
                raise RegistrationError(f"check {chosen!r} is no `async def` function; write one")
            wants = wants_of(function, function.__qualname__, self._known)
            self._checks[chosen] = (function, wants, needed)
            return function

        return register

    def engine(self, function: F) -> F:
        """Register what makes the database's engine from the settings, in place of our own."""
        self._make_engine = function
        return function

    # --- what processes take

    @property
    def events(self) -> DeclaredEvents:
        """What the service says it publishes: all of it, since its modules are imported here.

        Raises `RegistrationError` where one of them is wrong.
        """
        if self._events_package is not None:
            import_package(self._events_package)
        return self._events

    @property
    def types(self) -> Collection[type]:
        """What handlers may ask for: the settings, and each resource, also one that comes later."""
        return self._types

    @property
    def _known(self) -> tuple[type, ...]:
        return (*self._types, Database)

    def open_database(self, settings: BridgeSettings) -> Database:
        """Make the engine; nothing connects before the first use."""
        engine = self._make_engine(settings) if self._make_engine is not None else None
        return open_database(settings, engine=engine, session_class=self._session_class)

    def given(self, settings: BridgeSettings, database: Database) -> OpenResources:
        """Return what there is before any resource is open."""
        classes = (kind for kind in type(settings).__mro__ if issubclass(kind, BridgeSettings))
        return OpenResources({**dict.fromkeys(classes, settings), Database: database})

    async def open(self, resources: OpenResources) -> None:
        """Open all resources; raises `ResourceError` when one of them cannot be."""
        await resources.open(self._resources, instead=self.overrides)

    @asynccontextmanager
    async def opened(
        self, settings: BridgeSettings, database: Database
    ) -> AsyncIterator[OpenResources]:
        """Have all resources open in the body."""
        resources = self.given(settings, database)
        try:
            await self.open(resources)
            yield resources
        finally:
            await resources.close()

    def probes(self, resources: Mapping[type, object]) -> dict[str, Probe]:
        """Return the service's checks, which ask with these resources."""
        return {
            name: Probe(partial(_asked, function, wants, resources), needed)
            for name, (function, wants, needed) in self._checks.items()
        }


async def _asked(function: CheckFunction, wants: Wants, resources: Mapping[type, object]) -> Check:
    answer: object = await function(**{name: resources[kind] for name, kind in wants})
    if not isinstance(answer, Check):
        raise TypeError(f"the check returned {answer!r:.100}; return Check(ok=..., detail=...)")
    return answer


def _checked_name(name: str, taken: Mapping[str, object]) -> str:
    if _NAME.fullmatch(name) is None:
        raise RegistrationError(
            f"check {name!r} has no proper name; write a-z, 0-9 and _, at most 40 characters"
        )
    if name in CHECK_NAMES or name in taken:
        raise RegistrationError(f"there is a check {name!r} already; give another name=...")
    return name
