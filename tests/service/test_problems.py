"""Errors are problem documents, and bodies are bounded."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import Body, FastAPI, HTTPException, Request
from pydantic import BaseModel
from sqlalchemy.exc import OperationalError, ProgrammingError
from structlog.testing import capture_logs

from jetstream_bridge.core.errors import PublishUnavailableError
from jetstream_bridge.service import problems
from jetstream_bridge.service.database import create_engine
from jetstream_bridge.service.problems import MAX_BODY


class Form(BaseModel):
    name: str
    password: int


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    problems.install(app)

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout", headers={"Retry-After": "7"})

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("hunter2")

    @app.post("/form")
    async def form(form: Form) -> None: ...

    @app.post("/text")
    async def read(text: str = Body()) -> int:
        return len(text)

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def _document(response: httpx.Response) -> dict[str, object]:
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = response.json()
    assert document["status"] == response.status_code
    assert document["type"] == "about:blank"
    return document


async def test_an_http_error_keeps_its_detail_and_headers(client: httpx.AsyncClient) -> None:
    response = await client.get("/teapot")

    assert _document(response) == {
        "type": "about:blank",
        "title": "I'm a Teapot",
        "status": 418,
        "detail": "short and stout",
    }
    assert response.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("DELETE", "/teapot", 405)]
)
async def test_what_the_router_refuses_is_a_problem_too(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    assert _document(await client.request(method, path))["status"] == status


async def test_an_unexpected_error_tells_nothing_of_the_inside(client: httpx.AsyncClient) -> None:
    response = await client.get("/broken")

    assert _document(response)["title"] == "Internal Server Error"
    assert "hunter2" not in response.text
    assert "RuntimeError" not in response.text


async def test_an_invalid_request_names_each_field_and_repeats_no_value(
    client: httpx.AsyncClient,
) -> None:
    response = await client.post("/form", json={"password": "hunter2"})

    document = _document(response)
    assert document["status"] == 422
    assert [error["field"] for error in document["errors"]] == [  # type: ignore[attr-defined]
        "body.name",
        "body.password",
    ]
    assert "hunter2" not in response.text


async def test_a_body_that_is_not_json_is_an_invalid_request(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/form", content=b"{", headers={"content-type": "application/json"}
    )

    assert _document(response)["status"] == 422


async def test_a_body_of_the_limit_is_accepted(client: httpx.AsyncClient) -> None:
    response = await client.post("/raw", content=b"x" * MAX_BODY)

    assert response.json() == MAX_BODY


@pytest.mark.parametrize("path", ["/raw", "/text"])
async def test_a_larger_body_is_refused(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, content=b"x" * (MAX_BODY + 1))

    assert _document(response)["status"] == response.status_code == 413
    assert str(_document(response)["detail"]).startswith("The body is larger than 1048576 bytes")


@pytest.mark.parametrize("path", ["/raw", "/text"])
async def test_a_larger_body_in_chunks_is_refused_before_it_is_read_whole(
    client: httpx.AsyncClient, path: str
) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield b"x" * 65_536

    response = await client.post(path, content=endless())

    assert str(_document(response)["detail"]).startswith("The body is larger than 1048576 bytes")
    assert taken == MAX_BODY // 65_536 + 1


# --- outages


@pytest.fixture
async def outages() -> AsyncIterator[httpx.AsyncClient]:
    """A service whose database nobody listens for, and whose neighbour is away too."""
    app = FastAPI()
    problems.install(app)
    engine = create_engine("postgresql+asyncpg://me:hunter2@127.0.0.1:1/orders")

    @app.get("/database")
    async def ask() -> None:
        async with engine.connect():
            raise AssertionError("nobody listens there")

    @app.get("/locked")
    async def wait() -> None:
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise OperationalError("INSERT", {}, error)

    @app.get("/nats")
    async def publish() -> None:
        raise PublishUnavailableError("not connected")

    @app.get("/neighbour")
    async def call() -> None:
        raise ConnectionRefusedError("another service's")

    @app.get("/bug")
    async def misspell() -> None:
        raise ProgrammingError("SELEKT", {}, sqlite3.OperationalError("syntax error"))

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    await engine.dispose()


@pytest.mark.parametrize("path", ["/database", "/locked", "/nats"])
async def test_an_outage_is_a_503_that_says_when_to_come_back_and_one_line(
    outages: httpx.AsyncClient, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with capture_logs() as lines:
        response = await outages.get(path)

    assert _document(response)["status"] == 503
    assert response.headers["retry-after"] == "5"
    (line,) = lines
    assert (line["path"], line["log_level"]) == (path, "error")
    assert len(str(line)) < 500
    assert [record for record in caplog.records if record.name != "httpx"] == []
    assert "hunter2" not in f"{response.text} {line}"


@pytest.mark.parametrize("path", ["/neighbour", "/bug"])
async def test_what_is_no_outage_of_the_database_stays_an_error(
    outages: httpx.AsyncClient, path: str
) -> None:
    assert _document(await outages.get(path))["status"] == 500
