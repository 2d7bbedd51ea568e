"""DATABASE_URL as clouds hand it out: translated for asyncpg, or refused by name."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from typer.testing import CliRunner

from app.cli import cli
from app.settings import ROOT
from jetstream_bridge.service.addresses import DatabaseAddress, parse_database_address
from jetstream_bridge.service.database import create_engine
from jetstream_bridge.service.schema import migrate, pending_migrations
from jetstream_bridge.testing.postgres import PostgresServer
from tests.bridge.nats_accounts import Certificates, make_certificates
from tests.tls_front import tls_front

_HOST = "me:hunter2@host:5433/shop"


def _parsed(parameters: str, *, scheme: str = "postgresql") -> DatabaseAddress:
    return parse_database_address(f"{scheme}://{_HOST}{parameters}")


def _tls(parameters: str) -> dict[str, str]:
    query = parse_qs(urlsplit(_parsed(parameters).parameters.arguments["dsn"]).query)
    return {name: values[0] for name, values in query.items()}


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_spelling_of_the_scheme_is_the_driver_here(scheme: str) -> None:
    found = _parsed("", scheme=scheme)
    assert found.url.drivername == "postgresql+asyncpg"
    assert (found.url.username, found.url.password) == ("me", "hunter2")
    assert str(found) == "postgresql+asyncpg://host:5433/shop"


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require"])
def test_every_sslmode_reaches_the_driver(mode: str) -> None:
    assert _tls(f"?sslmode={mode}") == {"sslmode": mode}
    assert _tls(f"?ssl={mode}") == {"sslmode": mode}


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_verifying_needs_an_authority(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    with pytest.raises(ValueError, match=f"sslmode={mode} needs to know whom to trust"):
        _parsed(f"?sslmode={mode}")
    root = tmp_path / "root.pem"
    root.touch()
    assert _tls(f"?sslmode={mode}&sslrootcert={root}")["sslrootcert"] == str(root)
    monkeypatch.setenv("PGSSLROOTCERT", str(root))
    assert _tls(f"?sslmode={mode}") == {"sslmode": mode}


def test_the_authorities_of_the_system_verify_in_full() -> None:
    found = _parsed("?sslmode=verify-full&sslrootcert=system&sslnegotiation=direct")
    context = found.parameters.arguments["ssl"]
    assert isinstance(context, ssl.SSLContext)
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert found.parameters.arguments["direct_tls"] is True


@pytest.mark.parametrize(
    ("parameters", "name", "value"),
    [
        ("?connect_timeout=10", "timeout", 10.0),
        ("?target_session_attrs=read-write", "target_session_attrs", "read-write"),
        ("?command_timeout=3", "command_timeout", 3.0),
        ("?prepared_statement_cache_size=0", "prepared_statement_cache_size", 0),
        ("?statement_cache_size=0", "statement_cache_size", 0),
    ],
)
def test_parameters_become_arguments(parameters: str, name: str, value: object) -> None:
    assert _parsed(parameters).parameters.arguments == {name: value}


def test_what_the_server_is_told_is_told() -> None:
    settings = _parsed("?options=-csearch_path%3Dshop&application_name=x").parameters
    assert settings.server_settings == {"options": "-csearch_path=shop", "application_name": "x"}
    fallback = _parsed("?application_name=x&fallback_application_name=y").parameters
    assert fallback.server_settings == {"application_name": "x"}


@pytest.mark.parametrize(
    "parameters",
    [
        "?channel_binding=prefer",
        "?channel_binding=disable",
        "?gssencmode=prefer",
        "?client_encoding=UTF8",
        "?sslcompression=0&sslsni=1",
    ],
)
def test_what_changes_nothing_is_as_good_as_absent(parameters: str) -> None:
    assert _parsed(parameters).parameters.arguments == {}


@pytest.mark.parametrize(("value", "pooled"), [("true", True), ("1", True), ("false", False)])
def test_a_pooler_is_told_of(value: str, pooled: bool) -> None:
    assert _parsed(f"?pgbouncer={value}").parameters.pooled is pooled


def test_login_database_and_hosts_may_stand_among_the_parameters() -> None:
    found = parse_database_address(
        "postgresql:///?user=me&password=hunter2&dbname=shop&host=one:1&host=two:2"
    )
    url = found.url
    assert (url.username, url.password, url.database) == ("me", "hunter2", "shop")
    assert found.secrets() == {"hunter2"}
    assert "one" in str(found)
    assert "hunter2" not in f"{found} {found!r}"
    socket = parse_database_address("postgres://me:pw@/shop?host=/cloudsql/a:b:c")
    assert socket.url.query == {"host": "/cloudsql/a:b:c"}


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("?channel_binding=require", "channel_binding cannot be used: asyncpg cannot bind"),
        ("?sslmode=no-verify", "sslmode: 'no-verify' is not one of disable, allow"),
        ("?sslmode=require&sslmode=disable", "parameter sslmode is given twice"),
        ("?sslmode=require&sslrootcert=system", "sslrootcert=system needs sslmode=verify-full"),
        ("?sslrootcert=/no/such.pem", "sslrootcert: '/no/such.pem' is no file"),
        ("?sslkey=hunter2", "sslkey: it names no file that this process can see"),
        ("?sslmode=prefer&sslnegotiation=direct", "needs sslmode=require or a stricter one"),
        ("?connect_timeout=0", "connect_timeout: '0' is not a number of seconds"),
        ("?connect_timeout=soon", "connect_timeout: 'soon' is not a number of seconds"),
        ("?target_session_attrs=standby", "target_session_attrs: 'standby' is not one of any"),
        ("?pgbouncer=maybe", "pgbouncer: 'maybe' is neither true nor false"),
        ("?schema=public", "schema cannot be used: write options=-csearch_path%3DNAME"),
        ("?connection_limit=1", "WORKER_CONCURRENCY decides how many connections"),
        ("?keepalives_idle=30", "keepalives_idle cannot be used: it has no counterpart"),
        ("?gssencmode=require", "gssencmode cannot be used: it has no counterpart"),
        ("?hun.ter=2", "its parameter (not shown) cannot be used"),
        ("?statement_cache_size=-1", "statement_cache_size: '-1' is not a whole number"),
        ("?host=a,b&port=1", "names hosts and ports that do not belong together"),
    ],
)
def test_what_cannot_be_translated_is_refused_by_name(parameters: str, said: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared below
        _parsed(parameters)
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_validate_refuses_with_status_2(commands: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgres://{_HOST}?channel_binding=require")
    refused = CliRunner().invoke(cli, ["validate"])
    assert refused.exit_code == 2
    assert refused.stderr.startswith("DATABASE_URL: its parameter channel_binding cannot be used")
    monkeypatch.setenv("DATABASE_URL", f"postgres://{_HOST}?sslmode=require")
    assert CliRunner().invoke(cli, ["validate"]).exit_code == 0


# --- on a real server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def _connected(address: str) -> AsyncIterator[AsyncConnection]:
    engine = create_engine(address, application_name="orders")
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


@pytest.mark.real
async def test_an_address_of_a_cloud_serves_alembic_and_the_engine_alike(
    postgres: PostgresServer, certificates: Certificates
) -> None:
    name = postgres.create_database().partition("?")[0].rpartition("/")[2]
    socket = postgres.folder / ".s.PGSQL.5432"
    async with tls_front(socket, certificates.server, certificates.server_key) as port:
        address = (
            f"postgres://postgres:any@localhost:{port}/{name}?sslmode=require&connect_timeout=5"
            "&channel_binding=prefer&target_session_attrs=read-write&pgbouncer=true"
            "&options=-cstatement_timeout%3D7s"
        )
        await asyncio.to_thread(migrate, ROOT, address)
        engine = create_engine(address, application_name="orders")
        assert await pending_migrations(ROOT, engine) == []
        async with engine.connect() as connection:
            for statement, value in (
                ("SHOW application_name", "orders"),
                ("SHOW statement_timeout", "7s"),
                ("SELECT name FROM pg_prepared_statements WHERE name <> ''", None),
            ):
                assert (await connection.execute(text(statement))).scalar() == value
        await engine.dispose()
    postgres.drop_database(name)


@pytest.mark.real
async def test_sslmode_decides_who_is_trusted(
    postgres: PostgresServer, certificates: Certificates, tmp_path: Path
) -> None:
    stranger = make_certificates(tmp_path)
    socket = postgres.folder / ".s.PGSQL.5432"
    async with tls_front(socket, certificates.server, certificates.server_key) as port:

        async def answers(parameters: str) -> bool:
            address = f"postgresql://postgres@localhost:{port}/postgres?{parameters}"
            try:
                async with _connected(address) as connection:
                    await connection.execute(text("SELECT 1"))
            except (OSError, ssl.SSLError, DBAPIError):
                return False
            return True

        assert await answers("sslmode=require")
        assert await answers("sslmode=prefer")
        assert await answers(f"sslmode=verify-full&sslrootcert={certificates.authority}")
        assert not await answers(f"sslmode=verify-full&sslrootcert={stranger.authority}")
        assert not await answers("sslmode=verify-full&sslrootcert=system")
        assert not await answers("sslmode=disable")
