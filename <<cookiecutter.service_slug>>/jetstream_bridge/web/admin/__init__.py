"""The operator's API under /admin. `AdminGate` lets nobody in without the token."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer

from jetstream_bridge.core.errors import ConfigurationError
from jetstream_bridge.service.problems import problem_responses
from jetstream_bridge.web.admin import dlq, inbox, outbox, topology
from jetstream_bridge.web.admin.access import AdminRoute
from jetstream_bridge.web.admin_gate import require_passed

# Only says in OpenAPI what the gate demands: by the time a route is reached, it has been checked,
# and `require_passed` makes sure of that.
_SCHEME = HTTPBearer(
    scheme_name="adminToken", description="The value of ADMIN_TOKEN.", auto_error=False
)

_RESPONSES = problem_responses(401, 403, 503)


def admin_router(prefix: str, **options: Any) -> APIRouter:
    """Return a router for a service's own routes under `/admin` + `prefix`, with the same gate.

    Domain errors leave as problem documents, and unknown query parameters are refused, as in the
    package's own routes. `options` are FastAPI's. Raises `ConfigurationError` for a prefix that
    the console has.
    """
    if not prefix.startswith("/") or f"{prefix}/".startswith("/console/"):
        raise ConfigurationError(
            f"prefix {prefix!r} is none for a router under /admin; write one like '/reports', and "
            "see `console_router` for pages of the console"
        )
    return _guarded(f"/admin{prefix}", **{"route_class": AdminRoute} | options)


def _guarded(prefix: str, **options: Any) -> APIRouter:
    asked = [Depends(_SCHEME), Depends(require_passed)]
    return APIRouter(prefix=prefix, dependencies=asked, responses=_RESPONSES, **options)


router = _guarded("/admin")
for part in (outbox, inbox, dlq, topology):
    router.include_router(part.router)
