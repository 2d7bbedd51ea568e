"""Nobody gets in without the token, and nobody learns what is behind the gate."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from app.settings import Settings
from jetstream_bridge.service.problems import MAX_BODY
from jetstream_bridge.testing import MockServer
from jetstream_bridge.web.admin import router
from tests.apps import make_app
from tests.web.conftest import TOKEN

PATHS = ["/admin", "/admin/", "/admin/outbox", "/admin/dlq/1", "/admin/nothing/here"]


def _problem(response: httpx.Response) -> dict[str, object]:
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = response.json()
    assert document["status"] == response.status_code
    return document


def _client(app: FastAPI, **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
async def test_without_a_configured_token_everything_is_refused(
    service_settings: Settings, mock_nats: MockServer, path: str, method: str
) -> None:
    settings = service_settings.model_copy(update={"admin_token": None})
    app = make_app(settings, make_client=mock_nats.client)

    async with _client(app, authorization=f"Bearer {TOKEN}") as client:
        response = await client.request(method, path)

    assert "ADMIN_TOKEN" in str(_problem(response)["detail"])
    assert response.status_code == 403


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": "Bearer"},
    ],
)
async def test_a_wrong_token_is_refused(app: FastAPI, path: str, headers: dict[str, str]) -> None:
    async with _client(app, **headers) as client:
        response = await client.get(path)

    assert (_problem(response)["status"], response.headers["www-authenticate"]) == (
        401,
        'Bearer realm="admin"',
    )


async def test_a_token_in_other_letters_than_ascii_is_only_wrong(app: FastAPI) -> None:
    async with _client(app) as client:
        answer = await client.get(
            "/admin/outbox", headers=[(b"authorization", "Bearer tökén".encode())]
        )
    assert answer.status_code == 401


async def test_the_scheme_is_read_in_any_case(admin: httpx.AsyncClient) -> None:
    answer = await admin.get("/admin/outbox", headers={"authorization": f"bearer {TOKEN}"})
    assert answer.status_code == 200


async def test_a_stranger_is_refused_before_the_body_is_looked_at(app: FastAPI) -> None:
    async def endless() -> AsyncIterator[bytes]:
        raise AssertionError("somebody read the body")
        yield b""

    async with _client(app) as client:
        broken = await client.post("/admin/dlq/replay", content=b"{")
        unread = await client.post("/admin/dlq/replay", content=endless())

    assert (broken.status_code, unread.status_code) == (401, 401)


async def test_what_does_not_exist_is_a_problem_too(admin: httpx.AsyncClient) -> None:
    assert _problem(await admin.get("/admin/nothing"))["status"] == 404
    assert _problem(await admin.put("/admin/outbox"))["status"] == 405


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused(admin: httpx.AsyncClient, chunked: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY // 65_536 + 1):
            yield b" " * 65_536

    content = chunks() if chunked else b" " * (MAX_BODY + 1)
    answer = await admin.post("/admin/dlq/replay", content=content)

    assert _problem(answer)["status"] == 413


async def test_other_paths_need_no_token(app: FastAPI, admin: httpx.AsyncClient) -> None:
    async with _client(app) as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/administration")).status_code == 404


@pytest.mark.parametrize("path", ["/api/admin/outbox", "/admin/outbox"])
async def test_the_gate_stands_behind_a_proxy_that_adds_a_path(app: FastAPI, path: str) -> None:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, root_path="/api")
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        stranger = await client.get(path)
        friend = await client.get(path, headers={"authorization": f"Bearer {TOKEN}"})

    assert (stranger.status_code, friend.status_code) == (401, 200)


async def test_a_route_that_is_reached_around_the_gate_refuses() -> None:
    app = FastAPI()
    app.include_router(router)
    async with _client(app, authorization=f"Bearer {TOKEN}") as client:
        assert (await client.get("/admin/topology")).status_code == 403
