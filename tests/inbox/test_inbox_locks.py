"""A claim waits for another transaction's row for a second, and handlers for as long as before."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from jetstream_bridge.core.database_faults import Fault, fault_of
from jetstream_bridge.inbox.received import Received
from jetstream_bridge.inbox.store import Inbox
from tests.bridge.support import database


def received(n: int) -> Received:
    return Received(
        key=f"e{n}",
        subject="s",
        data=b"{}",
        headers={},
        stream="S",
        seq=n,
        stored_us=n,
        deliveries=1,
    )


async def test_a_claim_gives_up_on_a_row_that_a_silent_transaction_has_written(
    postgres_url: str,
) -> None:
    inbox = Inbox("c")
    async with (
        database(postgres_url) as (_, sessions),
        sessions() as silent,
        sessions() as session,
    ):
        await inbox.claim(silent, [received(2)])
        with pytest.raises(DBAPIError) as raised:
            await inbox.claim(session, [received(1), received(2), received(3)])
        assert fault_of(raised.value) is Fault.BUSY


async def test_the_limit_of_a_claim_is_none_of_the_handlers(postgres_url: str) -> None:
    inbox = Inbox("c")
    async with database(postgres_url) as (_, sessions), sessions() as session:
        connection = await session.connection()
        await connection.execute(text("SET LOCAL lock_timeout = '7s'"))
        claimed = await inbox.claim(session, [received(n) for n in range(3)])
        assert claimed.fresh == {(0, 0), (1, 1), (2, 2)}
        assert (await connection.execute(text("SHOW lock_timeout"))).scalar() == "7s"
