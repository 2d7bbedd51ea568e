"""Pages of outbox and inbox: complete, and as cheap in a large table as in a small one."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.inbox.tables import InboxStatus
from jetstream_bridge.operations import listing
from jetstream_bridge.operations.listed_rows import event_type_in, resource_in
from jetstream_bridge.operations.listing import InboxListing, OutboxListing
from jetstream_bridge.outbox.tables import OutboxStatus
from tests.bridge.support import database, envelope, rows
from tests.outbox.test_lanes import fill, run

MANY = 60_000
_JSON = {"postgresql": "json", "sqlite": "TEXT"}
_STATES = ("sent", "failed", "pending", "publishing")


async def fill_outbox(engine: AsyncEngine, number: int, *, rare: int) -> None:
    """`number` sent rows, with `rare` of each other status among the oldest of them."""
    cast = "CAST(:payload AS json)" if engine.dialect.name == "postgresql" else ":payload"
    async with engine.begin() as connection:
        for n in range(rare):
            for status in _STATES[1:]:
                for held in (False, True) if status == "pending" else (False,):
                    name = f"{status}-{n}{'-held' if held else ''}"
                    await connection.execute(
                        text(
                            "INSERT INTO jetstream_outbox_events"
                            " (event_id, subject, payload, status, held)"
                            f" VALUES (:id, 'a.b', {cast}, :status, :held)"
                        ),
                        {
                            "id": name,
                            "payload": envelope(name, resource=str(n)),
                            "status": status,
                            "held": held,
                        },
                    )
        series = (
            "SELECT 's-' || n, 'a.b', CAST(:payload AS json), 'sent' FROM generate_series(1, :n) n"
            if engine.dialect.name == "postgresql"
            else "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < :n)"
            " SELECT 's-' || n, 'a.b', :payload, 'sent' FROM s"
        )
        await connection.execute(
            text(
                "INSERT INTO jetstream_outbox_events (event_id, subject, payload, status) " + series
            ),
            {"payload": envelope("s", resource="x"), "n": number},
        )


async def fill_inbox(engine: AsyncEngine, number: int, *, rare: int) -> None:
    cast = "CAST(:payload AS json)" if engine.dialect.name == "postgresql" else ":payload"
    async with engine.begin() as connection:
        for n in range(rare):
            for status in ("failed", "dead_lettered"):
                await connection.execute(
                    text(
                        "INSERT INTO jetstream_inbox_events"
                        " (consumer, event_id, subject, payload, status)"
                        f" VALUES ('c{n % 3}', :id, 'a.b', {cast}, :status)"
                    ),
                    {
                        "id": f"{status}-{n}",
                        "payload": envelope("e", resource=str(n)),
                        "status": status,
                    },
                )
        series = (
            "SELECT 'c1', 'p-' || n, 'a.b', 'processed' FROM generate_series(1, :n) n"
            if engine.dialect.name == "postgresql"
            else "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < :n)"
            " SELECT 'c1', 'p-' || n, 'a.b', 'processed' FROM s"
        )
        await connection.execute(
            text(
                "INSERT INTO jetstream_inbox_events (consumer, event_id, subject, status) " + series
            ),
            {"n": number},
        )


async def all_of(outbox: OutboxListing, **query: Any) -> list[str]:
    found: list[str] = []
    after: int | None = None
    while True:
        page = await outbox.page(after=after, limit=2, **query)
        found += [row.event_id for row in page.items]
        after = page.next
        if after is None:
            return found


async def test_every_status_is_found_whole_and_in_order(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill_outbox(engine, 5, rare=3)
        outbox = OutboxListing(engine)

        pending = ["pending-2-held", "pending-2", "pending-1-held", "pending-1"]
        pending += ["pending-0-held", "pending-0"]
        assert await all_of(outbox, status=OutboxStatus.PENDING) == pending
        for status in ("failed", "publishing"):
            found = await all_of(outbox, status=OutboxStatus(status))
            assert found == [f"{status}-{n}" for n in (2, 1, 0)]
        assert await all_of(outbox, status=OutboxStatus.SENT) == [f"s-{n}" for n in (5, 4, 3, 2, 1)]
        assert len(await all_of(outbox)) == 17
        resource = ["publishing-1", "pending-1-held", "pending-1", "failed-1"]
        assert await all_of(outbox, resource="order:1") == resource


async def test_one_row_has_payload_and_headers(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill_outbox(engine, 1, rare=0)
        row = await OutboxListing(engine).get("s-1")

        assert row is not None
        assert row.payload is not None and json.loads(row.payload)["event_type"] == "order.changed"
        assert (row.headers, row.event_type) == ({}, "order.changed")
        assert row.enqueued_at.utcoffset() is not None
        assert await OutboxListing(engine).get("s-2") is None


async def test_the_inbox_is_found_by_status_event_and_resource(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill_inbox(engine, 5, rare=4)
        inbox = InboxListing(engine)

        failed = await inbox.page(status=InboxStatus.FAILED, limit=3)
        assert [row.event_id for row in failed.items] == ["failed-3", "failed-2", "failed-1"]
        rest = await inbox.page(status=InboxStatus.FAILED, limit=3, after=failed.next)
        assert [row.event_id for row in rest.items] == ["failed-0"]
        assert rest.next is None
        processed = await inbox.page(status=InboxStatus.PROCESSED)
        assert [row.event_id for row in processed.items] == [f"p-{n}" for n in (5, 4, 3, 2, 1)]
        for event_id in ("failed-2", "dead_lettered-0", "p-3"):
            page = await inbox.page(event_id=event_id)
            assert [row.event_id for row in page.items] == [event_id]
        resource = await inbox.page(resource="order:3")
        assert [row.event_id for row in resource.items] == ["dead_lettered-3", "failed-3"]


async def test_an_event_that_the_database_can_store_and_not_read_does_not_spoil_a_page(
    database_url: str,
) -> None:
    """PostgreSQL keeps an escaped NUL in `json`, and refuses to look into such a document."""
    async with database(database_url) as (engine, _):
        cast = "CAST(:payload AS json)" if engine.dialect.name == "postgresql" else ":payload"
        payload = '{"event_type":"order.changed","payload":{"a":"\\u0000"}}'
        async with engine.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO jetstream_inbox_events (consumer, event_id, subject, payload)"
                    f" VALUES ('c', 'e', 's', {cast})"
                ),
                {"payload": payload},
            )
        inbox = InboxListing(engine)
        [row] = (await inbox.page()).items
        assert row.event_type == "order.changed"
        assert (await inbox.page(resource="order:1")).items == []
        whole = await inbox.get(row.id)
        assert whole is not None and whole.payload == payload


QUESTIONS: list[dict[str, Any]] = [
    {},
    {"status": OutboxStatus.PENDING},
    {"status": OutboxStatus.FAILED},
    {"status": OutboxStatus.PUBLISHING},
    {"status": OutboxStatus.SENT},
    {"event_id": "s-77"},
    {"resource": "order:1"},
]
INBOX_QUESTIONS: list[dict[str, Any]] = [
    {},
    {"status": InboxStatus.FAILED},
    {"status": InboxStatus.PROCESSED},
    {"event_id": "failed-1"},
    {"resource": "order:1"},
]


@pytest.mark.parametrize("analysed", [True, False])
async def test_no_page_depends_on_the_size_of_the_table(
    postgres_url: str, analysed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in pages of the tables and indexes that were read, whatever the planner believes."""
    monkeypatch.setattr(listing, "SCANNED", 500)
    async with database(postgres_url) as (engine, _):
        await fill_outbox(engine, 10, rare=100)
        await fill_inbox(engine, 10, rare=100)
        await _analyse(engine)  # it believes from now on that nearly all is unsent
        await _grow(engine)
        if analysed:
            await _analyse(engine)
        outbox, inbox = OutboxListing(engine), InboxListing(engine)
        for question in QUESTIONS:
            read = await _pages_read(engine, outbox.page(**question))
            assert read < 600, (question, read)
        for question in INBOX_QUESTIONS:
            read = await _pages_read(engine, inbox.page(**question))
            assert read < 600, (question, read)


async def _analyse(engine: AsyncEngine) -> None:
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE"))


async def _grow(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO jetstream_outbox_events (event_id, subject, payload, status)"
                " SELECT 'more-' || n, 'a.b', CAST(:payload AS json), 'sent'"
                " FROM generate_series(1, :n) n"
            ),
            {"payload": envelope("s", resource="x"), "n": MANY},
        )
        await connection.execute(
            text(
                "INSERT INTO jetstream_inbox_events (consumer, event_id, subject, status)"
                " SELECT 'c1', 'more-' || n, 'a.b', 'processed' FROM generate_series(1, :n) n"
            ),
            {"n": MANY},
        )
    [(size,)] = await rows(engine, "SELECT pg_table_size('jetstream_inbox_events') / 8192")
    assert size > 500, "so that reading the whole table would be noticed"


async def _pages_read(engine: AsyncEngine, page: Awaitable[object]) -> int:
    """Ask, then let PostgreSQL count what each of the statements reads."""
    asked: list[tuple[str, Any]] = []

    def note(conn: object, cursor: object, statement: str, parameters: Any, *_: object) -> None:
        asked.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    await page
    event.remove(engine.sync_engine, "before_cursor_execute", note)
    total = 0
    async with engine.connect() as connection:
        for statement, parameters in asked:
            if "set_config" in statement:
                await connection.exec_driver_sql(statement, parameters)
                continue
            explained = await connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters
            )
            plan = explained.scalar_one()[0]["Plan"]
            total += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return total


async def test_rare_rows_are_found_over_many_bounded_pages(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "SCANNED", 100)
    async with database(sqlite_url) as (engine, _):
        await fill_outbox(engine, 1000, rare=1)
        first = await OutboxListing(engine).page(resource="order:0")
        assert first.items == []
        assert first.next is not None
        assert len(await all_of(OutboxListing(engine), resource="order:0")) == 4


@pytest.mark.parametrize(
    ("head", "event_type"),
    [
        ('{"event_id":"1","event_type":"a.b","payload":{}}', "a.b"),
        ('{ "event_type" : "a" , "payload": {"event_type": "b"}}', "a"),
        ('{"payload":{"event_type":"b"},"event_type":"a"}', None),
        ('{"tags":["x"],"event_type":"a"}', None),
        ('{"event_type":1,"resource_type":"order"}', None),
        ("[1]", None),
        ("", None),
        (None, None),
    ],
)
def test_the_type_is_read_only_where_it_is_sure(head: str | None, event_type: str | None) -> None:
    assert event_type_in(head) == event_type


@pytest.mark.parametrize(
    ("head", "resource"),
    [
        ('{"resource_type":"order","resource_id":"1","payload":{}}', "order:1"),
        ('{"resource_type":"order","resource_id": 17 , "payload":{}}', "order:17"),
        ('{"resource_type":"order","payload":{"resource_id":"2"}}', None),
        ('{"resource_type":"order","resource_id":17', None),
        (None, None),
    ],
)
def test_the_resource_is_read_only_where_it_is_sure(head: str | None, resource: str | None) -> None:
    assert resource_in(head) == resource


async def test_rows_are_found_by_type_and_by_what_blocks_them(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 6, resources=2)
        for event_id, kind in (("e0", "order.placed"), ("e1", "order%placed"), ("e2", "x")):
            await run(
                engine,
                "UPDATE jetstream_outbox_events SET payload = CAST(replace(CAST(payload AS TEXT),"
                f" '\"order.changed\"', '\"{kind}\"') AS {_JSON[engine.dialect.name]})"
                f" WHERE event_id = '{event_id}'",
            )
        await run(engine, "UPDATE jetstream_outbox_events SET held = true WHERE event_id < 'e2'")
        await run(
            engine, "UPDATE jetstream_outbox_events SET status = 'failed' WHERE event_id = 'e2'"
        )
        outbox = OutboxListing(engine)

        async def found(**search: Any) -> list[str]:
            return [row.event_id for row in (await outbox.page(**search)).items]

        assert await found(event_type="order.placed") == ["e0"]
        assert await found(event_type="order%placed") == ["e1"], "no pattern"
        assert await found(event_type="order") == []
        assert await found(event_type="x", status=OutboxStatus.FAILED) == ["e2"]
        assert await found(event_type="x", status=OutboxStatus.SENT) == []
        assert await found(event_type="x", event_id="e2") == ["e2"]
        assert await found(event_type="x", event_id="e1") == []
        assert await found(blocked=True) == ["e1", "e0"]
        assert await found(blocked=True, event_type="order.placed") == ["e0"]
        assert await found(blocked=True, limit=1) == ["e1"]
