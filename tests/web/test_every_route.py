"""Every route under /admin, found from what the application itself says it has, lets nobody in."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from pydantic import SecretStr
from sqlalchemy import text

from jetstream_bridge.service.database import Database
from jetstream_bridge.service.setting_types import LogFormat
from jetstream_bridge.testing import Deliver, Outcome
from jetstream_bridge.testing.plugin import ADMIN_TOKEN
from jetstream_bridge.web.console.pages import router as console
from jetstream_bridge.web.console.sessions import LIFETIME, Sessions
from jetstream_bridge.web.console.urls import needs_no_session
from tests.logged import logged
from tests.web.conftest import Outbox
from tests.web.console import HTML, LOGIN

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_WRONG: tuple[dict[str, str], ...] = (
    {},
    {"authorization": f"Bearer {ADMIN_TOKEN}x"},
    {"authorization": f"Basic {ADMIN_TOKEN}"},
    {"authorization": f"Bearer {ADMIN_TOKEN}", "x-http-method-override": "GET"},
)


def _filled(path: str) -> str:
    for part in ("{event_id}", "{id}", "{sequence}", "{row_id}", "{inbox_id}"):
        path = path.replace(part, "1")
    return path.replace("{id:int}", "1").replace("{sequence:int}", "1")


def _api(app: FastAPI) -> list[tuple[str, str]]:
    paths: dict[str, dict[str, object]] = app.openapi()["paths"]
    return [
        (method.upper(), _filled(path))
        for path, operations in paths.items()
        if path.startswith("/admin")
        for method in operations
    ]


def _pages(router: APIRouter = console) -> Iterator[tuple[str, str]]:
    for route in router.routes:
        if isinstance(route, APIRoute):
            yield from ((method, _filled(route.path)) for method in route.methods or ())
        else:  # a router in the router
            yield from _pages(route.original_router)  # type: ignore[attr-defined]


def _cookie(*, token: str = ADMIN_TOKEN, age: float = 0.0) -> str:
    sessions = Sessions(SecretStr(token), service="orders", now=lambda: time.time() - age)
    return f"{sessions.cookie}={sessions.begin()}"


@pytest.fixture
async def stranger(app: FastAPI, client: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody at the running API who has nothing to show."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test.local") as stranger:
        yield stranger


async def test_no_request_of_the_api_passes_without_the_right_token(
    app: FastAPI, stranger: httpx.AsyncClient, outbox: Outbox, database: Database
) -> None:
    await outbox.add("1", status="failed")
    found = _api(app)
    assert len(found) >= 15
    assert {method for method, _ in found} == {"GET", "POST", "DELETE"}
    every: list[tuple[str, str, dict[str, str]]] = [
        (method, path, {}) for path in {path for _, path in found} for method in METHODS
    ]
    wrong = (*_WRONG[1:3], {"cookie": _cookie()})
    for method, path, headers in (*every, *((*one, header) for one in found for header in wrong)):
        answer = await stranger.request(method, path, headers=headers)
        assert answer.status_code == 401, (method, path, headers)
        assert method == "HEAD" or answer.json()["status"] == 401
    async with database.reading.connect() as connection:
        query = "SELECT status FROM jetstream_outbox_events"
        assert (await connection.execute(text(query))).scalars().all() == ["failed"]


async def test_no_page_passes_without_a_session_that_is_right_and_not_over(
    stranger: httpx.AsyncClient,
) -> None:
    found = [(method, path) for method, path in _pages() if not needs_no_session(path)]
    assert len(found) >= 20
    wrong = (
        *_WRONG[1:3],
        {"cookie": _cookie(age=LIFETIME + 3600)},
        {"cookie": _cookie(token="the one before")},
        {"cookie": f"{_cookie()}x"},
        {"authorization": f"Bearer {ADMIN_TOKEN}"},
    )
    every: list[tuple[str, str, dict[str, str]]] = [
        (method, path, {}) for path in {path for _, path in found} for method in METHODS
    ]
    for method, path, headers in (*every, *((*one, header) for one in found for header in wrong)):
        script = await stranger.request(method, path, headers=headers)
        assert script.status_code == 401, (method, path, headers)
        person = await stranger.request(method, path, headers=HTML | headers)
        assert person.status_code == 303, (method, path, headers)
        assert person.headers["location"].startswith(LOGIN)


async def test_another_method_is_not_smuggled_in(app: FastAPI, stranger: httpx.AsyncClient) -> None:
    for _, path in _api(app):
        answer = await stranger.request("TRACE", path, headers=_WRONG[3])
        assert answer.status_code == 405, path


@pytest.mark.parametrize("value", ["a\r\nset-cookie: x=1", "a\nb", "a\x00b", "%0d%0aset-cookie:x"])
async def test_nothing_of_a_request_becomes_a_header_of_its_answer(
    stranger: httpx.AsyncClient, value: str
) -> None:
    for answer in (
        await stranger.get("/admin/console/outbox", params={"next": value}, headers=HTML),
        await stranger.get(LOGIN, params={"next": value}, headers=HTML),
        await stranger.post(LOGIN, data={"token": ADMIN_TOKEN, "next": value}, headers=HTML),
        await stranger.get("/customers", params={"after": value}),
    ):
        headers = [f"{name}: {text}" for name, text in answer.headers.multi_items()]
        assert not any("x=1" in line or "\n" in line or "\x00" in line for line in headers)


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_nothing_of_an_event_becomes_a_line_of_the_log(
    deliver: Deliver, log_format: LogFormat
) -> None:
    forged = 'x\n{"event": "forged", "level": "critical"}\r\x1b[31mred'
    body = {"event_type": forged, "resource_type": forged, "payload": {}, "trace_id": forged}
    with logged(log_format) as log:
        result = await deliver(json.dumps(body).encode())
    assert result.outcome is not Outcome.PROCESSED
    lines = log.getvalue().splitlines()
    assert not any(line.startswith('{"event": "forged"') for line in lines)
    assert "\x1b[31m" not in log.getvalue()
    if log_format == "json":
        assert all(json.loads(line)["event"] != "forged" for line in lines)
