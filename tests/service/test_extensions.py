"""What a service adds: it is opened in order, asked in time, and refused where it cannot work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession
from structlog.typing import EventDict

from app.settings import Settings
from jetstream_bridge import Bridge, Check, Consumers, Event
from jetstream_bridge.core.errors import ConfigurationError, RegistrationError, ResourceError
from jetstream_bridge.operations.readiness import status_of
from jetstream_bridge.service import Extensions, engine_for
from jetstream_bridge.service.bridge_config import bridge_config
from jetstream_bridge.service.database import Database
from jetstream_bridge.service.logs import log_handler
from jetstream_bridge.service.resources import OpenResources, resource_of
from jetstream_bridge.service.runtime import running
from tests.service.conftest import MakeSettings


class Client:
    pass


class Cache:
    pass


def made(notes: list[str], kind: type, name: str, *, fault: str = "") -> Any:
    """A resource that notes what happens to it, and fails when `fault` says so."""

    async def open_it() -> AsyncIterator[Any]:
        if fault == "open":
            raise OSError(f"no {name} here")
        if fault == "hang":
            await asyncio.Event().wait()
        notes.append(f"{name} opened")
        yield kind()
        if fault == "close hangs":
            await asyncio.Event().wait()
        notes.append(f"{name} closed")
        if fault == "close":
            raise OSError(f"{name} does not close")

    open_it.__annotations__["return"] = AsyncIterator[kind]  # type: ignore[valid-type]
    open_it.__qualname__ = name
    return open_it


async def test_resources_are_open_before_the_bridge_and_closed_after_it(
    make_settings: MakeSettings, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    extensions = Extensions(Settings)
    extensions.resource(made(notes, Client, "client"))
    extensions.resource(made(notes, Cache, "cache"))
    stop = Bridge.stop

    async def noted(self: Bridge, **arguments: Any) -> None:
        await stop(self, **arguments)
        notes.append("bridge stopped")

    monkeypatch.setattr(Bridge, "stop", noted)
    settings = make_settings(database_url=migrated_url)
    async with running(settings, extensions=extensions) as runtime:
        assert notes == ["client opened", "cache opened"]
        assert isinstance(runtime.resources[Cache], Cache)
        assert runtime.resources[Settings] is settings
    assert notes[2:] == ["bridge stopped", "cache closed", "client closed"]


async def test_what_was_open_is_closed_when_the_next_one_fails(
    make_settings: MakeSettings, migrated_url: str
) -> None:
    notes: list[str] = []
    extensions = Extensions(Settings)
    extensions.resource(made(notes, Client, "client"))
    extensions.resource(made(notes, Cache, "cache", fault="open"))
    with pytest.raises(ResourceError, match="resource cache cannot be opened: OSError: no cache"):
        async with running(make_settings(database_url=migrated_url), extensions=extensions):
            pytest.fail("it is not running")
    assert notes == ["client opened", "client closed"]


async def test_opening_and_closing_have_limits(caplog: pytest.LogCaptureFixture) -> None:
    notes: list[str] = []
    opened = OpenResources({})
    client = resource_of(made(notes, Client, "client"), ())
    slow = resource_of(made(notes, Cache, "cache", fault="close hangs"), ())
    hanging = resource_of(made(notes, dict, "never", fault="hang"), ())
    with pytest.raises(ResourceError, match=r"never cannot be opened: not open within 0\.05 s"):
        await opened.open([client, slow, hanging], within=0.05)
    await opened.close(within=0.05)
    assert notes == ["client opened", "cache opened", "client closed"]


async def test_a_fault_at_closing_keeps_no_other_open() -> None:
    notes: list[str] = []
    opened = OpenResources({})
    parts = [made(notes, Client, "client"), made(notes, Cache, "cache", fault="close")]
    await opened.open([resource_of(part, ()) for part in parts])
    await opened.close()
    assert notes[2:] == ["cache closed", "client closed"]


async def test_a_signal_while_a_resource_opens_ends_the_start(
    make_settings: MakeSettings, migrated_url: str
) -> None:
    from jetstream_bridge.service.shutdown import Shutdown

    extensions, notes = Extensions(Settings), list[str]()
    extensions.resource(made(notes, Client, "client"))
    extensions.resource(made(notes, Cache, "cache", fault="hang"))
    shutdown = Shutdown(5.0)

    async def start() -> None:
        settings = make_settings(database_url=migrated_url)
        async with running(settings, extensions=extensions, shutdown=shutdown):
            pytest.fail("it is not running")

    starting = asyncio.create_task(start())
    while not notes:
        await asyncio.sleep(0)
    shutdown.arm()
    try:
        shutdown.ask()
        await asyncio.wait([starting], timeout=10)
        assert starting.cancelled()
        assert notes == ["client opened", "client closed"]
    finally:
        shutdown._done.set()


def test_a_handler_asks_for_a_resource_by_its_type_and_for_nothing_else() -> None:
    consumers = Consumers(resources=[Client])

    @consumers.on("order.placed")
    async def handle(event: Event[dict[str, Any]], client: Client) -> None: ...

    with pytest.raises(RegistrationError, match="or the type of a resource: Client"):

        @consumers.on("order.paid")
        async def other(event: Event[dict[str, Any]], cache: Cache) -> None: ...

    assert consumers.wanted == [Client]


async def test_a_bridge_without_what_its_handlers_ask_for_is_refused(
    make_settings: MakeSettings, database: Database
) -> None:
    consumers = Consumers(resources=[Client, Cache])

    @consumers.on("order.placed")
    async def handle(event: Event[dict[str, Any]], client: Client) -> None: ...

    config = bridge_config(make_settings())
    with pytest.raises(RegistrationError, match="ask for Client, and no such resource is open"):
        Bridge(config, database.sessions, consumers=consumers)
    Bridge(config, database.sessions, consumers=consumers, resources={Client: Client()})


async def _no_generator() -> None: ...


async def _untyped():  # type: ignore[no-untyped-def]
    yield 1


async def _asks_for_more(number: int) -> AsyncIterator[Client]:
    yield Client()


async def _client() -> AsyncIterator[Client]:
    yield Client()


@pytest.mark.parametrize(
    ("function", "known", "said"),
    [
        (_no_generator, (), "is no asynchronous generator"),
        (_untyped, (), "does not say which class it yields"),
        (
            _asks_for_more,
            (Settings,),
            r"parameter 'number' of type .*int.*; known here are Settings",
        ),
        (_client, (Client,), "yields Client, and there is one already"),
    ],
)
def test_what_cannot_be_a_resource_is_refused(
    function: Any, known: tuple[type, ...], said: str
) -> None:
    with pytest.raises(RegistrationError, match=said):
        resource_of(function, known)


# --- checks


async def _good() -> Check:
    return Check(ok=True, detail="v1")


@pytest.mark.parametrize("name", ["nats", "Upper", "good", ""])
def test_a_check_has_a_name_of_its_own(name: str) -> None:
    extensions = Extensions()
    extensions.check(name="good")(_good)
    if not name:
        with pytest.raises(RegistrationError, match="no `async def` function"):
            extensions.check(name="own")(lambda: Check(ok=True))
    else:
        with pytest.raises(RegistrationError, match=f"check '{name}'"):
            extensions.check(name=name)(_good)


async def test_checks_are_asked_in_time_and_their_faults_are_told(
    make_settings: MakeSettings, migrated_url: str
) -> None:
    extensions = Extensions(Settings)
    extensions.resource(made([], Client, "client"))

    @extensions.check()
    async def billing(client: Client, settings: Settings) -> Check:
        return Check(ok=isinstance(client, Client), detail=settings.app_name)

    @extensions.check(needed=False)
    async def raising() -> Check:
        raise OSError("billing is away")

    @extensions.check(needed=False)
    async def hanging() -> Check:
        await asyncio.Event().wait()
        return Check(ok=True)

    @extensions.check(needed=False)
    async def wrong() -> Check:
        return True  # type: ignore[return-value]

    settings = make_settings(database_url=migrated_url)
    async with running(settings, relay=True, extensions=extensions) as runtime:
        checks = await runtime.health.own_checks()
        everything = await runtime.health.checks(max_age=60.0)
    assert checks["billing"] == Check(ok=True, detail="orders")
    assert "billing is away" in (checks["raising"].detail or "")
    assert checks["hanging"] == Check(ok=False, detail="no answer within 1.5 s", needed=False)
    assert "return Check(ok=" in (checks["wrong"].detail or "")
    assert {**everything, **checks} == everything
    assert status_of(checks.values()) == "degraded"


# --- database


class OwnSession(AsyncSession):
    pass


async def test_the_engine_and_the_sessions_are_the_services_own(
    make_settings: MakeSettings, migrated_url: str
) -> None:
    extensions = Extensions(Settings, session_class=OwnSession)
    seen: list[str] = []

    @extensions.engine
    def make_engine(settings: Settings) -> AsyncEngine:
        engine = engine_for(settings, pool_size=3, max_overflow=0)
        event.listen(engine.sync_engine, "connect", lambda *_: seen.append("connected"))
        return engine

    settings = make_settings(database_url=migrated_url)
    async with running(settings, extensions=extensions) as runtime:
        async with runtime.database.sessions() as session:
            assert isinstance(session, OwnSession)
            await session.connection()
        assert seen
        pool: Any = runtime.database.engine.pool
        assert pool.size() == 3
    async with running(make_settings(database_url=migrated_url)) as runtime:
        default: Any = runtime.database.engine.pool
        assert default.size() != 3


async def test_an_engine_from_elsewhere_is_refused(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    extensions = Extensions()
    url = f"sqlite+aiosqlite:///{tmp_path / 'x.db'}"
    extensions.engine(lambda _: create_async_engine(url))
    with pytest.raises(ConfigurationError, match=r"x\.db was not made by engine_for\(settings\)"):
        extensions.open_database(make_settings())


# --- logs


def test_log_processors_see_every_line_whoever_logs_it(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    def without_email(_logger: object, _method: str, entry: EventDict) -> EventDict:
        entry.pop("email", None)
        return {**entry, "region": "eu"}

    record = logging.makeLogRecord({"msg": "signed up", "levelname": "INFO", "email": "a@b.c"})
    for form in ("json", "console"):
        handler = log_handler(sys.stdout, form, [without_email])
        handler.emit(record)
        written = capsys.readouterr().out
        assert "a@b.c" not in written
        assert "region" in written
        log_handler(sys.stdout, form).emit(record)
        assert "a@b.c" in capsys.readouterr().out


def test_overrides_take_the_place_of_a_resource() -> None:
    notes: list[str] = []
    extensions = Extensions()
    extensions.resource(made(notes, Client, "client"))
    fake = Client()
    extensions.overrides[Client] = fake
    opened = OpenResources({})
    asyncio.run(extensions.open(opened))
    assert opened[Client] is fake
    assert notes == []
