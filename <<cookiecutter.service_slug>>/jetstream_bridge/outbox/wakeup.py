"""Waking the relay when another process commits events: LISTEN on PostgreSQL.

Only a shortcut. Without it (SQLite, a pooler in transaction mode, a lost connection) the relay
finds the rows at its next poll, a second later at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.core.database_faults import DATABASE_ERRORS
from jetstream_bridge.core.tasks import happens
from jetstream_bridge.outbox.tables import WAKE_CHANNEL

logger = logging.getLogger(__name__)

RECONNECT_AFTER = 5.0  # seconds
CHECK_EVERY = 15.0  # seconds between two signs of life on a connection whose end nobody told


async def listen(engine: AsyncEngine, wake: Callable[[], None]) -> None:
    """Call `wake` at every notification until cancelled; holds one connection of the pool."""
    while True:
        try:
            await _listen_once(engine, wake)
        except DATABASE_ERRORS as error:
            logger.info("no notifications from the database: %s", type(error).__name__)
        await asyncio.sleep(RECONNECT_AFTER)


async def _listen_once(engine: AsyncEngine, wake: Callable[[], None]) -> None:
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        raw = await connection.get_raw_connection()
        driver = raw.driver_connection
        if not isinstance(driver, asyncpg.Connection):
            raise TypeError(f"LISTEN needs asyncpg, and this is {type(driver).__name__}")

        ended = asyncio.Event()

        def notified(*_: object) -> None:
            wake()

        def lost(_: object) -> None:
            ended.set()

        driver.add_termination_listener(lost)
        await driver.add_listener(WAKE_CHANNEL, notified)
        wake()  # what was committed before the listener was there
        try:
            while not await happens(ended, CHECK_EVERY):
                await driver.execute("SELECT 1", timeout=CHECK_EVERY)
            raise ConnectionResetError("the listening connection ended")
        finally:
            driver.remove_termination_listener(lost)
            if not driver.is_closed():
                await driver.remove_listener(WAKE_CHANNEL, notified)
