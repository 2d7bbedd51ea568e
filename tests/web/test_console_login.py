"""Getting into the console and out of it, and what keeps everybody else away."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from pydantic import SecretStr

from app.settings import Settings
from jetstream_bridge.service.problems import MAX_BODY
from jetstream_bridge.testing import MockServer, VirtualClock
from jetstream_bridge.testing.plugin import ADMIN_TOKEN
from jetstream_bridge.web.console.assets import ASSETS
from jetstream_bridge.web.console.pages import router as console
from jetstream_bridge.web.console.sessions import LIFETIME, Sessions
from jetstream_bridge.web.console.urls import own_page
from tests.apps import make_app
from tests.web.console import BASE, HTML, LOGIN, Page, Person

COOKIE = "orders-console"


@pytest.fixture
def person(client: httpx.AsyncClient) -> Person:
    """Somebody who is not logged in yet."""
    return Person(client)


def _browser(app: FastAPI, **options: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(
        app, raise_app_exceptions=False, root_path=options.get("root_path", "")
    )
    base_url = options.get("base_url", "http://test")
    return httpx.AsyncClient(transport=transport, base_url=base_url, headers=HTML)


async def test_a_person_logs_in_looks_and_logs_out(
    person: Person, client: httpx.AsyncClient
) -> None:
    asked = await person.get(f"{BASE}/outbox", status="failed")
    assert (asked.status, asked.location) == (
        303,
        f"{LOGIN}?next=%2Fadmin%2Fconsole%2Foutbox%3Fstatus%3Dfailed",
    )
    form = await person.get(asked.location)
    assert "ADMIN_TOKEN" in form.text
    entered = await person.post(LOGIN, form.fields | {"token": ADMIN_TOKEN})
    assert entered.location == f"{BASE}/outbox?status=failed"
    cookie = entered.answer.headers["set-cookie"]
    for flag in ("HttpOnly", "SameSite=strict", "Path=/admin", f"Max-Age={LIFETIME}"):
        assert flag in cookie
    assert "Secure" not in cookie, "over plain HTTP the browser would drop it"

    page = await person.get(entered.location)
    assert (page.status, page.answer.headers["cache-control"]) == (200, "no-store")
    assert (await person.get(LOGIN)).location == "/admin", "there is no need to log in twice"
    left = await person.post(f"{BASE}/logout", {"csrf": page.fields["csrf"]})
    assert (left.location, client.cookies.get(COOKIE)) == (LOGIN, None)
    assert (await person.get("/admin")).location.startswith(LOGIN)


async def test_over_https_the_cookie_is_secure(running_app: FastAPI) -> None:
    async with _browser(running_app, base_url="https://test") as client:
        entered = await Person(client).post(LOGIN, {"token": ADMIN_TOKEN})
    assert "Secure" in entered.answer.headers["set-cookie"]


async def test_behind_a_proxy_that_adds_a_path_every_link_has_it(running_app: FastAPI) -> None:
    async with _browser(running_app, root_path="/api") as client:
        person = Person(client)
        asked = await person.get("/api/admin")
        assert asked.location == f"/api{LOGIN}?next=%2Fadmin"
        entered = await person.post(f"/api{LOGIN}", {"token": ADMIN_TOKEN, "next": "/admin"})
        assert entered.location == "/api/admin"
        page = await person.get("/api/admin")
    assert page.status == 200
    assert all(link.startswith(("/api/admin", "#")) for link in page.links)


async def test_a_wrong_token_is_refused(person: Person) -> None:
    for token in ("", "wrong", ADMIN_TOKEN[:-1], "tökén"):
        refused = await person.post(LOGIN, {"token": token})
        assert (refused.status, "not the token" in refused.text) == (401, True)
        assert "set-cookie" not in refused.answer.headers
    kind = {"content-type": "application/x-www-form-urlencoded"}
    broken = await person.client.post(LOGIN, content=b"token=%FF", headers=HTML | kind)
    assert broken.status_code == 400


async def test_guessing_is_slow(person: Person, clock: VirtualClock) -> None:
    statuses = [(await person.post(LOGIN, {"token": f"guess {n}"})).status for n in range(7)]
    assert statuses == [401] * 5 + [429] * 2
    right = await person.post(LOGIN, {"token": ADMIN_TOKEN})
    assert (right.status, right.answer.headers["retry-after"]) == (429, "60")

    await clock.advance("61s")
    assert (await person.post(LOGIN, {"token": ADMIN_TOKEN})).status == 303


async def test_a_session_ends_with_its_time_or_with_the_token(
    person: Person, client: httpx.AsyncClient
) -> None:
    def cookie(token: str = ADMIN_TOKEN, service: str = "orders", age: float = 0) -> str:
        then = Sessions(SecretStr(token), service=service, now=lambda: time.time() - age)
        return then.begin()

    fresh = cookie()
    tried = {
        "fresh": fresh,
        "of another replica whose clock is ahead": cookie(age=-30),
        "almost over": cookie(age=LIFETIME - 60),
        "over": cookie(age=LIFETIME + 120),
        "of another token": cookie(token="the old one"),
        "of another service": cookie(service="billing"),
        "changed": ("y" if fresh[0] == "x" else "x") + fresh[1:],
        "nothing": "",
    }
    found = {}
    for name, value in tried.items():
        client.cookies.set(COOKIE, value, domain="test.local", path="/admin")
        found[name] = (await person.get("/admin")).status
    assert [name for name, status in found.items() if status == 200] == [*tried][:3]
    assert {*found.values()} == {200, 303}


async def test_a_session_opens_the_console_only(person: Person) -> None:
    await person.log_in()
    for path in ("/admin/outbox", "/admin/topology", "/admin/nothing"):
        assert (await person.get(path)).status == 401, "the API takes the token alone"
    script = await person.client.get("/admin/outbox", headers={"accept": "application/json"})
    assert script.status_code == 401


async def test_a_route_that_is_reached_around_the_door_refuses() -> None:
    app = FastAPI()
    app.include_router(console)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as client:
        assert (await client.get(f"{BASE}/topology")).status_code == 403
        assert (await client.post(f"{BASE}/relay/pause")).status_code == 403


async def test_the_token_of_the_api_does_not_open_the_console(admin: httpx.AsyncClient) -> None:
    answer = await admin.get("/admin")
    assert answer.status_code == 401
    assert "log in" in answer.json()["detail"]


# --- forms of others


def _routes(router: APIRouter) -> Iterator[APIRoute]:
    for route in router.routes:
        if isinstance(route, APIRoute):
            yield route
        else:  # a router in the router
            yield from _routes(route.original_router)  # type: ignore[attr-defined]


METHODS = {(method, route.path) for route in _routes(console) for method in route.methods or ()}
POSTS = sorted(path for method, path in METHODS if method == "POST")


async def test_no_form_is_obeyed_that_is_not_of_this_session(person: Person) -> None:
    assert len(POSTS) >= 11 and LOGIN in POSTS
    assert {method for method, _ in METHODS} == {"GET", "POST"}
    await person.log_in()
    own, strange = person.csrf, Sessions(SecretStr("other"), service="orders")
    foreign = strange.read(strange.begin())
    assert foreign is not None
    for route in POSTS:
        path = route.replace("{id:int}", "1").replace("{sequence:int}", "1")
        if route != LOGIN:
            for secret in ("", "x", foreign.csrf, own[:-1]):
                refused = await person.post(path, {"csrf": secret, "id": "e", "sequence": "1"})
                assert (refused.status, "not of this session" in refused.text) == (403, True), path
        for header in (
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"origin": "http://test:8080"},
        ):
            refused = await person.post(path, {"token": ADMIN_TOKEN}, **header)
            assert (refused.status, "another site" in refused.text) == (403, True), (path, header)
    fine = await person.post(f"{BASE}/relay/resume", None, **{"sec-fetch-site": "same-origin"})
    also_fine = await person.post(f"{BASE}/relay/resume", None, origin="http://test")
    assert (fine.status, also_fine.status) == (303, 303)


async def test_what_is_no_form_is_refused(person: Person) -> None:
    await person.log_in()
    path = f"{BASE}/relay/pause"
    json = await person.client.post(path, json={"csrf": person.csrf}, headers=HTML)
    kind = {"content-type": "application/x-www-form-urlencoded"}
    many = await person.client.post(path, content="a=1&" * 1001, headers=HTML | kind)
    large = await person.client.post(path, content=b"a" * (MAX_BODY + 1), headers=HTML | kind)
    assert (json.status_code, many.status_code, large.status_code) == (415, 400, 413)


async def test_a_stranger_is_refused_before_the_body_is_looked_at(person: Person) -> None:
    async def endless() -> AsyncIterator[bytes]:
        raise AssertionError("somebody read the body")
        yield b""

    for path in (*POSTS, "/admin"):
        if path != LOGIN:
            answer = await person.client.post(path, content=endless(), headers=HTML)
            assert (answer.status_code, answer.headers["location"]) == (303, LOGIN)
            script = await person.client.post(path, content=endless())
            assert script.status_code == 401


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/admin",
        "//evil.example/admin",
        "/admin//evil.example",
        "/admin/console/../../x",
        "/admin/console/\\evil.example",
        "/customers",
        "/admin/outbox",
        LOGIN,
        "javascript:alert(1)",
        "/admin?a=\r\nset-cookie: x=1",
        "",
        None,
    ],
)
def test_a_login_leads_to_own_pages_only(target: str | None) -> None:
    assert own_page(target) == "/admin"


# --- what every answer says


async def test_without_a_token_a_person_reads_why(
    service_settings: Settings, mock_nats: MockServer
) -> None:
    settings = service_settings.model_copy(update={"admin_token": None})
    app = make_app(settings, make_client=mock_nats.client)
    async with _browser(app) as client:
        for path in ("/admin", LOGIN, f"{BASE}/static/console.css", "/admin/outbox"):
            page = Page(await client.get(path))
            assert (page.status, "ADMIN_TOKEN" in page.text) == (403, True)
            assert page.answer.headers["content-type"].startswith("text/html")
        problem = await client.get("/admin", headers={"accept": "*/*"})
    assert problem.headers["content-type"] == "application/problem+json"


async def test_every_answer_has_the_headers_and_no_code_of_its_own(person: Person) -> None:
    stranger = [await person.get(path) for path in ("/admin", LOGIN)]
    refused = await person.post(LOGIN, {"token": "no"})
    first = await person.log_in()
    paths = [first.link(part) for part in ("outbox", "inbox", "dead-letters", "topology")]
    pages = [await person.get(path) for path in (*paths, f"{BASE}/nowhere", f"{BASE}/live")]
    for page in (*stranger, refused, first, *pages):
        headers = page.answer.headers
        assert headers["content-security-policy"].startswith("default-src 'none'; ")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        for inline in ("<style", "style=", "onclick=", "<script>", "javascript:"):
            assert inline not in page.answer.text


async def test_files_are_kept_as_long_as_they_are_the_same(person: Person) -> None:
    for name, asset in ASSETS.items():
        path = f"{BASE}/static/{name}"
        versioned = await person.get(path, v=asset.version)
        assert "immutable" in versioned.answer.headers["cache-control"]
        plain = await person.get(path)
        assert plain.answer.headers["cache-control"] == "no-cache"
        etag = {"if-none-match": plain.answer.headers["etag"]}
        assert (await person.client.get(path, headers=etag)).status_code == 304
    assert {ASSETS[name].media_type.partition(";")[0] for name in ASSETS} == {
        "text/css",
        "text/javascript",
        "image/svg+xml",
    }
    assert (await person.get(f"{BASE}/static/login.py")).status == 404
    assert (await person.get(f"{BASE}/static/..%2Fpages%2Flogin.py")).location.startswith(LOGIN)


async def test_the_login_page_learns_of_a_session(person: Person) -> None:
    """A link from another site comes without the cookie; a question of this page has it."""
    before = await person.client.get(f"{LOGIN}/known")
    await person.log_in()
    after = await person.client.get(f"{LOGIN}/known")
    assert (before.json(), after.json()) == ({"known": False}, {"known": True})
