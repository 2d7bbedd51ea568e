"""What a route publishes, and when it may."""

from __future__ import annotations

import httpx
from fastapi import BackgroundTasks, FastAPI

from app.events import EventsDep
from app.settings import Settings
from jetstream_bridge import Publisher
from jetstream_bridge.core.errors import SessionEndedError
from jetstream_bridge.service.database import Database, SessionDep
from jetstream_bridge.testing import MockServer, Published
from tests.apps import make_app


async def test_a_background_task_cannot_publish_in_the_request_that_has_ended(
    service_settings: Settings, mock_nats: MockServer, published: Published
) -> None:
    """It runs after the answer: success would be told of an event that nobody commits."""
    app: FastAPI = make_app(service_settings, make_client=mock_nats.client)
    told: list[str] = []

    async def later(events: Publisher) -> None:
        try:
            await events.publish("report.made", {"id": 1})
        except SessionEndedError as error:
            told.append(str(error))

    async def rightly() -> None:
        database: Database = app.state.database
        async with database.sessions() as session:
            await app.state.bridge.publisher(session).publish("report.made", {"id": 2})
            await session.commit()

    @app.post("/reports", status_code=202)
    async def order_report(
        session: SessionDep, events: EventsDep, tasks: BackgroundTasks
    ) -> dict[str, int]:
        await events.publish("report.ordered", {"id": 1})
        tasks.add_task(later, events)
        tasks.add_task(rightly)
        return {}

    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        assert (await client.post("/reports")).status_code == 202
        await published.assert_published("report.ordered", payload={"id": 1})
        await published.assert_published("report.made", payload={"id": 2})
        assert len(published) == 2
    [said] = told
    assert "its session was closed" in said
    assert "in a background task open a session of its own" in said
