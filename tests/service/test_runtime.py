"""A process stops in time, also when something in it does not want to."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from jetstream_bridge.service.runtime import running
from tests.service.conftest import MakeSettings


async def test_everything_works_in_between_and_is_closed_afterwards(
    migrated_url: str, make_settings: MakeSettings
) -> None:
    async with running(make_settings(database_url=migrated_url), relay=True) as runtime:
        checks = await runtime.health.checks()
        assert (checks["database"].ok, checks["migrations"].ok) == (True, True)
        assert runtime.health.failures() == []

    assert runtime.database.engine.pool.checkedin() == 0  # type: ignore[attr-defined]


async def test_what_is_likely_not_meant_is_logged_at_the_start(
    sqlite_url: str, make_settings: MakeSettings
) -> None:
    with capture_logs() as logged:
        async with running(make_settings(database_url=sqlite_url, ack_wait="1s")):
            pass

    assert any("ACK_WAIT is 1s" in entry["event"] for entry in logged)


async def test_an_error_in_between_stops_everything_too(
    sqlite_url: str, make_settings: MakeSettings
) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(RuntimeError, match="broken"):
        await _break(make_settings, sqlite_url)

    assert asyncio.all_tasks() == before


async def _break(make_settings: MakeSettings, url: str) -> None:
    async with running(make_settings(database_url=url), relay=True) as runtime:
        async with runtime.database.readers() as session:
            await session.connection()
        raise RuntimeError("broken")
