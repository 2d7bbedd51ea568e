"""What came in, as operators see it; and what was parked there, handed to the worker again."""

from __future__ import annotations

import httpx
import pytest

from app.settings import Settings
from jetstream_bridge import Unrecoverable
from jetstream_bridge.testing import Deliver, MockServer
from tests.waiting import eventually
from tests.web.conftest import DURABLE, INCOMING, Handler


async def _items(admin: httpx.AsyncClient, **query: str | int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for _ in range(100):
        page = await admin.get("/admin/inbox", params=query)
        assert page.status_code == 200, page.text
        found += page.json()["items"]
        if page.json()["next"] is None:
            return found
        query["after"] = page.json()["next"]
    raise AssertionError("the pages have no end")


@pytest.fixture
async def filled(deliver: Deliver, handler: Handler) -> None:
    """Two processed events, one dead-lettered, one without an id of its own."""
    await deliver("order.placed", {"id": 1}, event_id="e1")
    await deliver("order.placed", {"id": 2}, event_id="e2")
    handler.error = Unrecoverable("no such product")
    await deliver("order.placed", {"id": 3}, event_id="e3")
    handler.error = None
    await deliver(b'{"event_type": "order.placed", "payload": {"id": 1}}')


@pytest.mark.usefixtures("filled")
async def test_rows_are_listed_newest_first(admin: httpx.AsyncClient) -> None:
    for limit in (1, 2, 50):
        items = await _items(admin, limit=limit)
        assert [item["event_id"] for item in items][1:] == ["e3", "e2", "e1"]
    assert items[3] | {"id": 0} == items[3] | {
        "id": 0,
        "consumer": DURABLE,
        "event_type": "order.placed",
        "subject": INCOMING,
        "status": "processed",
        "deliveries": 1,
        "last_error": None,
        "parked": False,
    }


@pytest.mark.usefixtures("filled")
async def test_rows_are_found_by_status_event_and_resource(admin: httpx.AsyncClient) -> None:
    async def found(**query: str | int) -> list[object]:
        return [item["event_id"] for item in await _items(admin, limit=1, **query)]

    assert await found(status="dead_lettered") == ["e3"]
    assert (await found(status="processed"))[1:] == ["e2", "e1"]
    assert await found(status="failed") == []
    assert await found(event_id="e2") == ["e2"]
    assert await found(event_id="e2", status="failed") == []
    assert await found(event_id="nobody") == []
    assert await found(resource="order:2") == ["e2"]
    assert await found(resource="order:3", status="processed") == []
    assert await found(resource="other:3") == []
    assert await found(resource='order:"%') == []


@pytest.mark.usefixtures("filled")
async def test_one_row_is_shown_whole(admin: httpx.AsyncClient) -> None:
    [item] = await _items(admin, event_id="e3")
    row = (await admin.get(f"/admin/inbox/{item['id']}")).json()

    assert row["last_error"].startswith("Unrecoverable: no such product (tests/web/")
    assert row["payload"]["payload"] == {"id": 3}
    assert (row["headers"], row["body"]) == ({}, None)
    missing = await admin.get("/admin/inbox/9999")
    assert (missing.status_code, missing.json()["title"]) == (404, "Not Found")
    assert (await admin.get("/admin/inbox/one")).status_code == 404
    assert (await admin.get("/admin/inbox/0")).status_code == 422
    assert (await admin.get("/admin/inbox", params={"after": "o1"})).status_code == 422


@pytest.mark.usefixtures("filled")
async def test_only_a_parked_event_can_be_replayed_from_here(admin: httpx.AsyncClient) -> None:
    for event_id in ("e1", "e3"):
        [item] = await _items(admin, event_id=event_id)
        answer = await admin.post(f"/admin/inbox/{item['id']}/replay")
        assert answer.status_code == 409
        assert "/admin/dlq" in answer.json()["detail"]


class TestWithoutDeadLetters:
    """`USE_DLQ=false`: what cannot be handled is parked in the inbox table."""

    @pytest.fixture
    def service_settings(self, service_settings: Settings) -> Settings:
        return service_settings.model_copy(update={"use_dlq": False})

    async def test_a_parked_event_is_shown_and_replayed(
        self, admin: httpx.AsyncClient, deliver: Deliver, handler: Handler, mock_nats: MockServer
    ) -> None:
        handler.error = Unrecoverable("no such product")
        headers = {"x-custom": "kept"}
        await deliver("order.placed", {"id": 1}, event_id="e1", headers=headers)
        [item] = await _items(admin, status="dead_lettered")
        row = (await admin.get(f"/admin/inbox/{item['id']}")).json()
        assert item["parked"] is True
        assert '"id":1' in row["body"]["data"].replace(" ", "")

        handler.error = None
        answer = await admin.post(f"/admin/inbox/{item['id']}/replay")
        await eventually(lambda: handler.seen == [1])

        async def processed() -> bool:
            [now] = await _items(admin, event_id="e1")
            return now["status"] == "processed"

        assert answer.status_code == 200
        await eventually(processed)
        assert (await admin.post(f"/admin/inbox/{item['id']}/replay")).status_code == 409

    async def test_an_event_that_fails_again_is_parked_again_and_can_come_again(
        self, admin: httpx.AsyncClient, deliver: Deliver, handler: Handler
    ) -> None:
        handler.error = Unrecoverable("no such product")
        await deliver("order.placed", {"id": 1}, event_id="e1")
        [first] = await _items(admin, event_id="e1")
        handler.error = Unrecoverable("still not")
        await admin.post(f"/admin/inbox/{first['id']}/replay")

        async def parked_again() -> bool:
            [now] = await _items(admin, event_id="e1")
            return now["stream_seq"] != first["stream_seq"]

        await eventually(parked_again)
        handler.error = None
        await admin.post(f"/admin/inbox/{first['id']}/replay")
        await eventually(lambda: handler.seen == [1])

    async def test_what_is_no_event_is_shown_as_its_bytes(
        self, admin: httpx.AsyncClient, deliver: Deliver
    ) -> None:
        await deliver(b"{broken")
        [item] = await _items(admin, status="dead_lettered")
        row = (await admin.get(f"/admin/inbox/{item['id']}")).json()

        assert (row["payload"], row["event_type"]) == (None, None)
        assert row["body"] == {"encoding": "utf-8", "data": "{broken"}
