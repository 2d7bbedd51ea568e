"""A service's own routes and pages under /admin: refused where they could not work."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI, Request

from jetstream_bridge.core.errors import ConfigurationError
from jetstream_bridge.web import ConsoleLink, admin_router, console_router, from_resource


class Cache:
    pass


@pytest.mark.parametrize("prefix", ["", "reports", "/console", "/console/reports"])
def test_a_router_of_the_api_is_below_admin_and_beside_the_console(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match=f"prefix '{prefix}'"):
        admin_router(prefix)


@pytest.mark.parametrize("prefix", ["", "/", "reports"])
def test_a_router_of_pages_has_a_prefix(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match=f"prefix '{prefix}'"):
        console_router(prefix)


@pytest.mark.parametrize(
    ("title", "path"), [("Out", "https://elsewhere/admin/"), (" ", "/admin/x")]
)
def test_an_entry_of_the_menu_leads_to_admin(title: str, path: str) -> None:
    with pytest.raises(ConfigurationError, match="no entry of the console's menu"):
        ConsoleLink(title, path)


async def test_an_own_route_refuses_what_did_not_come_through_the_gate() -> None:
    """A mount or a rewritten path would lead past a gate that looks at the path alone."""
    router = admin_router("/reports")
    router.add_api_route("", lambda: {"ok": True})
    bare = FastAPI()
    bare.include_router(router)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(bare), base_url="http://test"
    ) as client:
        assert (await client.get("/admin/reports")).status_code == 403


async def test_a_resource_that_nobody_registered_is_named(app: FastAPI) -> None:
    request = Request({"type": "http", "app": app})
    with pytest.raises(ConfigurationError, match="no resource of type Cache is open"):
        await from_resource(Cache)(request)
